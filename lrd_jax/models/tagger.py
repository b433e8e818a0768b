"""A label for each step: recurrence, then the same head on the output of every step that counts."""

from __future__ import annotations

import flax.linen as nn
import jax

from lrd_jax.models.sequence import SequenceModel
from lrd_jax.recurrence import RecurrenceOutput

Array = jax.Array


class SequenceTagger(SequenceModel):
    """Labels the last steps of a sequence, each from the state right after it.

    Outputs are `(batch, last_steps, classes)`.

    Attributes:
      last_steps: how many steps are labelled; only these go through the head.
    """

    last_steps: int = 1

    @nn.nowrap
    def features(self, out: RecurrenceOutput) -> Array:
        """The states after the last steps, `(batch, last_steps, d)`."""
        return out.outputs[:, -self.last_steps :]
