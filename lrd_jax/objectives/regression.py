"""Squared error on one number per sequence."""

from __future__ import annotations

from typing import Any

import jax

from lrd_jax.data.spec import DataSpec
from lrd_jax.draws import Draws
from lrd_jax.horizon import Horizon
from lrd_jax.models import Head, SequenceClassifier, make_recurrence
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
        error = self.outputs(params, batch, draws, step)[..., 0] - batch["targets"]
        total, count = (error**2 * batch["mask"]).sum(), batch["mask"].sum()
        return total, ({"loss": (total, count)}, carry)
