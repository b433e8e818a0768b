"""Cross-entropy on a label for each of the last steps of a sequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrd_jax.data.spec import DataSpec
from lrd_jax.horizon import Horizon
from lrd_jax.models import SequenceTagger, make_embedding, make_head, make_recurrence
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
            head=make_head(config, spec.classes),
            embedding=make_embedding(config, spec.values, config.aux.embedding == "full"),
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
