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
from lrd_jax.errors import UserError
from lrd_jax.metrics import ACCURACY, LOSS, Metric
from lrd_jax.models import (
    SequenceClassifier,
    SequenceTagger,
    make_embedding,
    make_head,
    make_pool,
    make_recurrence,
    supervised_reach,
)
from lrd_jax.objectives.base import Inputs, Sums, blank, encode, score_weights, step_weights
from lrd_jax.objectives.reports import ClassReport, NumberReport
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
      reads_several: whether the network reads a dict of inputs (`DataSpec.inputs`).
    """

    metrics: tuple[Metric, ...]
    select: tuple[Metric, ...]
    reads_several = False

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon, model: nn.Module) -> None:
        """Keeps the network.

        Args:
          config: the run's config.
          spec: shapes and scaling of the data.
          horizon: length of the run, for `detach.off_last_epochs`.
          model: the network.

        Raises:
          UserError: several inputs, and a network that reads one.
        """
        if spec.inputs and not self.reads_several:
            raise UserError(
                f"{config.data.name} has several inputs ({', '.join(spec.inputs)}), and the network"
                f" for {spec.kind!r} reads one: give it an objective of its own"
            )
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
        self._noise = config.model.input_noise
        if self._noise and (spec.one_hot or self._looks_up):
            raise UserError(
                f"model.input_noise={self._noise} is added to numbers, and the inputs of"
                f" {config.data.name} are ids here: set it to 0"
            )

    def init(self, key: Array) -> Any:
        """Parameters of one seed."""
        return self.model.init(key, self.values(blank(self.spec, self.spec.length)))["params"]

    def initial_carry(self, batch_size: int) -> Any:
        """Nothing travels between batches of independent sequences."""
        del batch_size
        return ()

    def values(self, stored: Inputs) -> Inputs:
        """What the model's embedding takes: the stored numbers for a table, else encoded ones."""
        return stored if self._looks_up else encode(stored, self.spec)

    def noisy(self, values: Inputs, step: StepContext | None) -> Inputs:
        """Adds noise to `values`, `model.input_noise` N(0, 1), in training."""
        if not self._noise or step is None:
            return values
        keys = step.per_example("input_noise", len(values))
        draw = functools.partial(jax.random.normal, shape=values.shape[1:], dtype=values.dtype)
        return values + self._noise * jax.vmap(draw)(keys)

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
        x, now = self.noisy(self.values(batch["inputs"]), step), self.in_force(step)
        lengths = batch.get("lengths")
        out = apply(x, step=now, lengths=lengths, method="run")
        features = self.model.features(out, lengths)
        if self._stops:
            features = jax.lax.stop_gradient(features)
        return apply(features, step, method="read")

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """What the network's outputs cost.

        Args:
          outputs: from `outputs`.
          batch: as in `Objective.loss`.

        Returns:
          The loss summed over the scored labels, and the metrics as sums, see `Objective.loss`.
        """
        raise NotImplementedError

    def report(self, outputs: Array, batch: dict[str, Array]) -> Sums:
        """Sums of each `ReportedMetric`, in evaluation alone; arguments as for `score`."""
        del outputs, batch
        return {}

    def scored(
        self, outputs: Array, batch: dict[str, Array], step: StepContext | None
    ) -> tuple[Array, Sums]:
        """What `score` gives, in evaluation with what is reported beside it.

        In training the batch has `label_weights` of the shape of the targets where classes have
        weights (`DataSpec.class_weights`).
        """
        if step is not None and self.spec.class_weights:
            weights = jnp.array(self.spec.class_weights)[jnp.maximum(batch["targets"], 0)]
            batch = {**batch, "label_weights": weights}
        total, sums = self.score(outputs, batch)
        return total, sums if step is not None else sums | self.report(outputs, batch)

    def share(self, batch: dict[str, Array]) -> Array:
        """How much each example counts in `loss`, `(batch,)`: its labels, as counted there."""
        return batch["mask"]

    def loss(
        self,
        variables: Any,
        carry: Any,
        batch: dict[str, Array],
        step: StepContext | None,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """See `Objective.loss`."""
        total, sums = self.scored(self.outputs(variables, batch, step), batch, step)
        return total, (sums, carry)

    def collect(self, params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        """See `Objective.collect`: a subclass with a `CollectedMetric` says what."""
        raise NotImplementedError

    def baselines(self, dataset: Dataset, split: str) -> Mapping[str, float]:
        """See `Objective.baselines`."""
        del split
        return dataset.spec.baselines


def _reads_whole(config: Any, spec: DataSpec) -> SequenceClassifier:
    """The network that gives outputs `(batch, classes)` for a whole sequence."""
    return SequenceClassifier(pool=make_pool(config), **_parts(config, spec))


def _reads_steps(config: Any, spec: DataSpec, last_steps: int) -> SequenceTagger:
    """The network that gives outputs `(batch, last_steps, classes)`, for each of the last steps."""
    make_pool(config, last_steps)  # refuses what reads a whole sequence
    return SequenceTagger(last_steps=last_steps, **_parts(config, spec))


def _parts(config: Any, spec: DataSpec) -> dict[str, Any]:
    """What both networks are made of, by name; UserError for a value that does not fit."""
    return {
        "recurrence": make_recurrence(config, spec.length),
        "head": make_head(config, spec.classes),
        "embedding": make_embedding(config, spec.values),
        "output_dropout": config.model.output_dropout,
    }


class Classification(SequenceObjective):
    """A `SequenceClassifier` with softmax cross-entropy.

    The metrics are `loss` and `accuracy`, and in evaluation those of `ClassReport`.
    """

    metrics = (LOSS, ACCURACY, *ClassReport.metrics)
    select = (ACCURACY, LOSS)  # equal accuracies are common on small splits

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        super().__init__(config, spec, horizon, _reads_whole(config, spec))

    def report(self, outputs: Array, batch: dict[str, Array]) -> Sums:
        """See `SequenceObjective.report`."""
        report = ClassReport(self.spec.classes)
        return report.sums(outputs, batch["targets"], score_weights(batch))

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        weights, targets = score_weights(batch), batch["targets"]
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        if "label_weights" in batch:
            loss = loss * batch["label_weights"]
        total, count = (loss * weights).sum(), weights.sum()
        correct = ((outputs.argmax(-1) == targets) * weights).sum()
        return total, {"loss": (total, count), "accuracy": (correct, count)}

    def share(self, batch: dict[str, Array]) -> Array:
        """See `SequenceObjective.share`."""
        return score_weights(batch)


class Regression(SequenceObjective):
    """A network that gives numbers for a sequence.

    The metric `loss` is the mean square; in evaluation those of `NumberReport` are beside it.
    """

    metrics = (LOSS, *NumberReport.metrics)
    select = (LOSS,)

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        super().__init__(config, spec, horizon, _reads_whole(config, spec))

    def report(self, outputs: Array, batch: dict[str, Array]) -> Sums:
        """See `SequenceObjective.report`."""
        report = NumberReport(self.spec.target_scale)
        return report.sums(outputs, batch["targets"].reshape(outputs.shape), batch["mask"])

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        error = (outputs - batch["targets"].reshape(outputs.shape)) ** 2
        total, count = (error.mean(-1) * batch["mask"]).sum(), batch["mask"].sum()
        return total, {"loss": (total, count)}


class StepRegression(SequenceObjective):
    """A network that gives numbers at every step; metrics as of `Regression`."""

    metrics = (LOSS, *NumberReport.metrics)
    select = (LOSS,)

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        super().__init__(config, spec, horizon, _reads_steps(config, spec, spec.length))

    def report(self, outputs: Array, batch: dict[str, Array]) -> Sums:
        """See `SequenceObjective.report`."""
        weights = step_weights(batch, outputs.shape[1])
        return NumberReport(self.spec.target_scale).sums(outputs, batch["targets"], weights)

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        weights = step_weights(batch, outputs.shape[1])
        error = ((outputs - batch["targets"]) ** 2).mean(-1)
        total, count = (error * weights).sum(), weights.sum()
        return total, {"loss": (total, count)}

    def share(self, batch: dict[str, Array]) -> Array:
        """See `SequenceObjective.share`."""
        return step_weights(batch, batch["targets"].shape[1]).sum(-1)


class Forecast(StepRegression):
    """A network that gives the next step's values at every step."""

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`.

        Raises:
          UserError: it would read what it is to predict.
        """
        if config.model.bidirectional:
            raise UserError(
                "model.bidirectional=True would read the next step, which is to be predicted: set"
                " it to False"
            )
        super().__init__(config, spec, horizon)


class Tagging(SequenceObjective):
    """A `SequenceTagger` with softmax cross-entropy.

    The metric `loss` is the mean over the scored labels of all examples, `accuracy` the part of
    those that is right, both among the last steps (`DataSpec.scored`, `DataSpec.recalled`).
    """

    metrics = (LOSS, ACCURACY)
    select = (ACCURACY, LOSS)

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        super().__init__(config, spec, horizon, _reads_steps(config, spec, spec.scored))
        if spec.class_names:
            self.metrics = (*self.metrics, *ClassReport.metrics)

    def report(self, outputs: Array, batch: dict[str, Array]) -> Sums:
        """See `SequenceObjective.report`; of symbols, which are drawn uniformly, nothing."""
        if not self.spec.class_names:
            return {}
        targets = batch["targets"]
        weights = step_weights(batch, targets.shape[1]) * (targets >= 0)
        return ClassReport(self.spec.classes).sums(outputs, targets, weights)

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        mask, targets = batch["mask"], batch["targets"].astype(jnp.int32)
        varied, scored = "lengths" in batch, targets >= 0
        if varied:
            scored = scored & (step_weights(batch, targets.shape[1]) > 0)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        if "label_weights" in batch:
            losses = losses * batch["label_weights"]
        right = outputs.argmax(-1) == targets

        def over(steps: int, values: Array) -> tuple[Array, Array]:
            """Total and count over the last steps; what is counted are sequences full of labels.

            Where these differ in length, what is counted are labels.
            """
            if varied:
                return (values * scored).sum(dtype=outputs.dtype), scored.sum(dtype=outputs.dtype)
            each = (values * scored)[:, -steps:].mean(-1)
            full = scored[:, -steps:].mean(-1)
            return (each * mask).sum(), (full * mask).sum()

        loss = over(self.spec.scored, losses)
        accuracy = over(self.spec.recalled or self.spec.scored, right)
        return loss[0], {"loss": loss, "accuracy": accuracy}

    def share(self, batch: dict[str, Array]) -> Array:
        """See `SequenceObjective.share`."""
        if "lengths" in batch:
            return step_weights(batch, batch["targets"].shape[1]).sum(-1)
        return score_weights(batch).mean(-1)
