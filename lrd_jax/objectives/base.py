"""What the training step needs to know of a task: the contract of every objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.data.spec import Dataset, DataSpec, InputSpec
from lrd_jax.metrics import Metric
from lrd_jax.streams import StepContext

Sums = dict[str, tuple[Array, ...]]  # metric name -> sums over examples; most: a total, a count
Inputs = Any  # `batch["inputs"]`: an array, or a dict of arrays where `DataSpec.inputs` names some


def encode(inputs: Inputs, spec: DataSpec | InputSpec) -> Inputs:
    """Turns stored values, uint8 for images and tokens, into network inputs, on the device.

    Args:
      inputs: `(batch, time, n)` in the dtype of the data set, n = 1 for ids to be made one-hot; or
        a dict of arrays, each encoded as `spec.inputs` says.
      spec: holds offset and scale, each for all channels or per channel, or asks for one-hot.

    Returns:
      `(inputs - offset) * scale`, or one-hot vectors, in the default float dtype,
      `(batch, time, features)`; ids that the network looks up stay as they are.
    """
    if isinstance(inputs, Mapping):
        assert isinstance(spec, DataSpec)
        return {name: encode(array, spec.inputs[name]) for name, array in inputs.items()}
    if isinstance(spec, InputSpec) and spec.looked_up:
        return inputs
    if spec.one_hot:
        return jax.nn.one_hot(inputs[..., 0], spec.features, dtype=jnp.result_type(float))
    return (inputs.astype(jnp.result_type(float)) - jnp.array(spec.offset)) * jnp.array(spec.scale)


def blank(spec: DataSpec, steps: int) -> Inputs:
    """An example of zeros as a data set would store it, `(1, steps, n)`, to shape parameters.

    Where inputs are several, each has the shape that its `InputSpec` names.
    """

    def zeros(spec: DataSpec | InputSpec, *shape: int) -> Array:
        whole = spec.one_hot or spec.values
        return jnp.zeros((1, *shape), jnp.int32 if whole else jnp.result_type(float))

    if spec.inputs:
        return {name: zeros(each, *each.shape) for name, each in spec.inputs.items()}
    return zeros(spec, steps, 1 if spec.one_hot else spec.features)


def step_weights(batch: dict[str, Any], steps: int) -> Array:
    """What each step counts, `(batch, steps)`: 1; 0 in padding, of a sequence or of the batch."""
    mask = jnp.broadcast_to(batch["mask"][:, None], (len(batch["mask"]), steps))
    if "lengths" not in batch:
        return mask
    return mask * (jnp.arange(steps) < batch["lengths"][:, None])


def score_weights(batch: dict[str, Any]) -> Array:
    """What each label counts: 1; 0 in padding, and where it is -1 (not scored).

    Args:
      batch: `targets` whole numbers, and `mask` with as many axes or fewer.

    Returns:
      Of the shape of `targets`.
    """
    targets, mask = batch["targets"], batch["mask"]
    return mask.reshape(mask.shape + (1,) * (targets.ndim - mask.ndim)) * (targets >= 0)


class Objective(Protocol):
    """A model with its loss. One instance serves all seeds; the step vmaps over them.

    Attributes:
      metrics: what it measures. `loss` returns the sums of each that is neither derived nor
        collected; the first of these is called `loss`, a mean, and is what is minimised, or part
        of it.
      select: which of them choose the best checkpoint, most important first, see `update_best`.
    """

    metrics: tuple[Metric, ...]
    select: tuple[Metric, ...]

    def init(self, key: Array) -> Any:
        """Parameters of one seed."""
        ...

    def initial_carry(self, batch_size: int) -> Any:
        """What travels from batch to batch, leaves `(batch, ...)`; `()` for most tasks."""
        ...

    def loss(
        self,
        variables: Any,
        carry: Any,
        batch: dict[str, Array],
        step: StepContext | None,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """Loss of one seed on this device's slice of a batch.

        Args:
          variables: `params` from `init`, and perhaps `perturbations` of the main network.
          carry: from `initial_carry` or the batch before.
          batch: arrays with leading axis `batch`; `mask` is 1 for real examples, 0 for padding,
            and may have further axes: `(batch, time)` where each token counts.
          step: the training step; None in evaluation, which never draws.

        Returns:
          The loss summed over what is scored, the metrics as sums, and the carry for the next
          batch. The step divides the gradient by the count of the metric `loss` over all devices:
          the number of labels scored, in any unit that the sum is in too. No collectives inside.
        """
        ...

    def collect(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """What the `CollectedMetric`s are made of, leaves `(batch, ...)`; asked for by none else.

        Args:
          params: of one seed.
          batch: as for `loss`, in evaluation.
        """
        ...

    def baselines(self, dataset: Dataset, split: str) -> Mapping[str, float]:
        """What trivial predictions score on a split, by metric; empty where nothing is known."""
        ...
