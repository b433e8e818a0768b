"""Squared error on one number per sequence."""

from __future__ import annotations

from typing import Any

import jax

from lrd_jax.data.spec import DataSpec
from lrd_jax.horizon import Horizon
from lrd_jax.models import SequenceClassifier, make_embedding, make_head, make_recurrence
from lrd_jax.objectives.base import Sums
from lrd_jax.objectives.sequence import SequenceObjective

Array = jax.Array


class Regression(SequenceObjective):
    """A network that gives one number after the last step; the metric `loss` is the mean square."""

    metrics = ("loss",)
    select = ("-loss",)

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
        error = outputs[..., 0] - batch["targets"]
        total, count = (error**2 * batch["mask"]).sum(), batch["mask"].sum()
        return total, {"loss": (total, count)}
