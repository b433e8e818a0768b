"""Cross-entropy on a label for each of the last steps of a sequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrd_jax.data.spec import DataSpec
from lrd_jax.draws import Draws
from lrd_jax.horizon import Horizon
from lrd_jax.models import Head, SequenceTagger, make_recurrence
from lrd_jax.objectives.base import Sums
from lrd_jax.objectives.sequence import SequenceObjective

Array = jax.Array


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
            head=Head(tuple(config.model.head_hidden), spec.classes),
            last_steps=spec.scored,
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
        mask, targets = batch["mask"], batch["targets"].astype(jnp.int32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(-1)
        right = (logits.argmax(-1) == targets)[:, -self.spec.recalled :].mean(-1)
        total, count = (loss * mask).sum(), mask.sum()
        sums = {"loss": (total, count), "accuracy": ((right * mask).sum(), count)}
        return total, (sums, carry)
