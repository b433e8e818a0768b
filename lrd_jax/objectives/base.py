"""What the training step needs to know of a task: the contract of every objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.data.spec import Dataset, DataSpec
from lrd_jax.streams import StepContext

Sums = dict[str, tuple[Array, Array]]  # metric name -> (sum over examples, number counted)


def encode(inputs: Array, spec: DataSpec) -> Array:
    """Turns stored values, uint8 for images and tokens, into network inputs, on the device.

    Args:
      inputs: `(batch, time, n)` in the dtype of the data set; n = 1 for ids to be made one-hot.
      spec: holds offset and scale, each for all channels or per channel, or asks for one-hot.

    Returns:
      `(inputs - offset) * scale`, or one-hot vectors, in the default float dtype,
      `(batch, time, features)`.
    """
    if spec.one_hot:
        return jax.nn.one_hot(inputs[..., 0], spec.features, dtype=jnp.result_type(float))
    return (inputs.astype(jnp.result_type(float)) - jnp.array(spec.offset)) * jnp.array(spec.scale)


def blank(spec: DataSpec, steps: int) -> Array:
    """A sequence of zeros as a data set would store it, `(1, steps, n)`, to shape parameters."""
    whole = spec.one_hot or spec.values
    dtype = jnp.int32 if whole else jnp.result_type(float)
    return jnp.zeros((1, steps, 1 if spec.one_hot else spec.features), dtype)


class Objective(Protocol):
    """A model with its loss. One instance serves all seeds; the step vmaps over them.

    Attributes:
      metrics: names of the metrics that `loss` returns; `loss` is among them.
      select: which validation metrics choose the best checkpoint, see `update_best`.
    """

    metrics: tuple[str, ...]
    select: tuple[str, ...]

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
          The loss summed over the real examples (the step divides by the global number of them),
          the metrics as sums, and the carry for the next batch. No collectives inside.
        """
        ...

    def baselines(self, dataset: Dataset, split: str) -> Mapping[str, float]:
        """What trivial predictions score on a split, by metric; empty where nothing is known."""
        ...
