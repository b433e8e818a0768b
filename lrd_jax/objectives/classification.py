"""Cross-entropy on one label per sequence."""

from __future__ import annotations

from typing import Any

import jax
import optax

from lrd_jax.data.spec import DataSpec
from lrd_jax.horizon import Horizon
from lrd_jax.models import SequenceClassifier, make_embedding, make_head, make_recurrence
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
            head=make_head(config, spec.classes),
            embedding=make_embedding(config, spec.values, config.aux.embedding == "full"),
        )
        super().__init__(config, spec, horizon, model)

    def score(self, outputs: Array, batch: dict[str, Array]) -> tuple[Array, Sums]:
        """See `SequenceObjective.score`."""
        mask, targets = batch["mask"], batch["targets"]
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        total, count = (loss * mask).sum(), mask.sum()
        correct = ((outputs.argmax(-1) == targets) * mask).sum()
        return total, {"loss": (total, count), "accuracy": (correct, count)}
