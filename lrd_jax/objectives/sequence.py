"""Losses on independent sequences: one label, one number, or a label for each of the last steps."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lrd_jax.arrays import Array
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import Dataset, DataSpec
from lrd_jax.models import (
    SequenceClassifier,
    SequenceTagger,
    make_embedding,
    make_head,
    make_recurrence,
    supervised_reach,
)
from lrd_jax.objectives.base import Sums, blank, encode
from lrd_jax.streams import StepContext

logger = logging.getLogger(__name__)


class SequenceObjective:
    """A network over whole sequences; a subclass builds it and adds `score` and its metrics.

    Attributes:
      model: the network, a `SequenceModel` for what is trained on independent sequences.
      spec: shapes and scaling of the data.
      horizon: length of the run.
      metrics: see `Objective`.
      select: see `Objective`.
    """

    metrics: tuple[str, ...]
    select: tuple[str, ...]

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon, model: nn.Module) -> None:
        """Keeps the network.

        Args:
          config: the run's config.
          spec: shapes and scaling of the data.
          horizon: length of the run, for `detach.off_last_epochs`.
          model: the network.
        """
        self.spec = spec
        self.horizon = horizon
        self.off_last_epochs = config.detach.off_last_epochs
        blocks = config.detach.p_block or config.detach.c_block
        if blocks and self.off_last_epochs >= horizon.num_epochs:
            logger.warning(
                "detach.off_last_epochs=%d covers all %d epochs: no gradient is ever blocked",
                self.off_last_epochs,
                horizon.num_epochs,
            )
        self.model: Any = model
        self._looks_up = config.model.embedding == "table"
        self._stops = supervised_reach(config, spec.length) is None

    def init(self, key: Array) -> Any:
        """Parameters of one seed."""
        return self.model.init(key, self.values(blank(self.spec, self.spec.length)))["params"]

    def initial_carry(self, batch_size: int) -> Any:
        """Nothing travels between batches of independent sequences."""
        del batch_size
        return ()

    def values(self, stored: Array) -> Array:
        """What the model's embedding takes: the stored numbers for a table, else encoded ones."""
        return stored if self._looks_up else encode(stored, self.spec)

    def in_force(self, step: StepContext | None) -> StepContext | None:
        """A step with h- and c-detach switched off in the run's last epochs."""
        if step is None or not self.off_last_epochs:
            return step
        active = self.horizon.detach_active(step.number, self.off_last_epochs)
        recurrence = self.model.recurrence
        rates = {
            name: step.value(name, getattr(recurrence, name)) for name in ("p_block", "c_block")
        }
        return step.with_values(
            **{
                name: rate
                if not isinstance(rate, jax.Array) and rate == 0
                else jnp.where(active, rate, 0)
                for name, rate in rates.items()
            }
        )

    def outputs(self, variables: Any, batch: dict[str, Array], step: StepContext | None) -> Array:
        """Outputs of the network for a batch; arguments as in `Objective.loss`."""
        apply = functools.partial(self.model.apply, variables)
        x = self.values(batch["inputs"])
        masks = self.model.recurrence.draw(self.in_force(step), x.shape[1], x.shape[0])
        out = apply(x, masks, method="run")
        features = self.model.features(out)
        if self._stops:
            features = jax.lax.stop_gradient(features)
        return apply(features, step, method="read")

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """What the network's outputs cost.

        Args:
          outputs: from `outputs`.
          batch: as in `Objective.loss`.

        Returns:
          The loss summed over the real examples, and the metrics as sums.
        """
        raise NotImplementedError

    def loss(
        self,
        variables: Any,
        carry: Any,
        batch: dict[str, Array],
        step: StepContext | None,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """See `Objective.loss`."""
        total, sums = self.score(self.outputs(variables, batch, step), batch)
        return total, (sums, carry)

    def baselines(self, dataset: Dataset, split: str) -> Mapping[str, float]:
        """See `Objective.baselines`."""
        del split
        return dataset.spec.baselines


class Classification(SequenceObjective):
    """A `SequenceClassifier` with softmax cross-entropy; metrics `loss` and `accuracy`."""

    metrics = ("loss", "accuracy")
    select = ("accuracy", "-loss")  # equal accuracies are common on small splits

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        model = SequenceClassifier(
            recurrence=make_recurrence(config, spec.length),
            head=make_head(config, spec.classes),
            embedding=make_embedding(config, spec.values),
        )
        super().__init__(config, spec, horizon, model)

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        mask, targets = batch["mask"], batch["targets"]
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        total, count = (loss * mask).sum(), mask.sum()
        correct = ((outputs.argmax(-1) == targets) * mask).sum()
        return total, {"loss": (total, count), "accuracy": (correct, count)}


class Regression(SequenceObjective):
    """A network that gives one number after the last step; the metric `loss` is the mean square."""

    metrics = ("loss",)
    select = ("-loss",)

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        model = SequenceClassifier(
            recurrence=make_recurrence(config, spec.length),
            head=make_head(config, spec.classes),
            embedding=make_embedding(config, spec.values),
        )
        super().__init__(config, spec, horizon, model)

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        error = outputs[..., 0] - batch["targets"]
        total, count = (error**2 * batch["mask"]).sum(), batch["mask"].sum()
        return total, {"loss": (total, count)}


class Tagging(SequenceObjective):
    """A `SequenceTagger` with softmax cross-entropy.

    The metric `loss` is the mean over the scored steps, `accuracy` the part of the recalled steps
    that is right (`DataSpec.scored`, `DataSpec.recalled`).
    """

    metrics = ("loss", "accuracy")
    select = ("accuracy", "-loss")

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        model = SequenceTagger(
            recurrence=make_recurrence(config, spec.length),
            head=make_head(config, spec.classes),
            embedding=make_embedding(config, spec.values),
            last_steps=spec.scored,
        )
        super().__init__(config, spec, horizon, model)

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        mask, targets = batch["mask"], batch["targets"].astype(jnp.int32)
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean(-1)
        right = (outputs.argmax(-1) == targets)[:, -self.spec.recalled :].mean(-1)
        total, count = (loss * mask).sum(), mask.sum()
        return total, {"loss": (total, count), "accuracy": ((right * mask).sum(), count)}
