"""Cross-entropy on one label per sequence."""

from __future__ import annotations

from typing import Any

import jax
import optax

from lrd_jax.data.spec import DataSpec
from lrd_jax.draws import Draws
from lrd_jax.horizon import Horizon
from lrd_jax.models import Head, SequenceClassifier, make_recurrence
from lrd_jax.objectives.base import Sums
from lrd_jax.objectives.sequence import SequenceObjective

Array = jax.Array


class Classification(SequenceObjective):
    """A `SequenceClassifier` with softmax cross-entropy; metrics `loss` and `accuracy`."""

    metrics = ("loss", "accuracy")
    select = ("accuracy", "-loss")  # equal accuracies are common on small splits

    def __init__(self, config: Any, spec: DataSpec, horizon: Horizon) -> None:
        """Builds the network; arguments as in `make_objective`."""
        model = SequenceClassifier(
            recurrence=make_recurrence(config, spec.length),
            head=Head(tuple(config.model.head_hidden), spec.classes),
        )
        super().__init__(config, spec, horizon, model)

    def loss(
        self,
        params: Any,
        carry: Any,
        batch: dict[str, Array],
        draws: Draws | None,
        step: Array | int,
    ) -> tuple[Array, tuple[Sums, Any]]:
        """See `Objective.loss`."""
        logits = self.outputs(params, batch, draws, step)
        mask, targets = batch["mask"], batch["targets"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        total, count = (loss * mask).sum(), mask.sum()
        correct = ((logits.argmax(-1) == targets) * mask).sum()
        return total, ({"loss": (total, count), "accuracy": (correct, count)}, carry)
