"""One label for a whole sequence: recurrence, then a head on the last state."""

from __future__ import annotations

import flax.linen as nn
import jax

from lrd_jax.models.sequence import SequenceModel
from lrd_jax.recurrence import RecurrenceOutput

Array = jax.Array


class SequenceClassifier(SequenceModel):
    """Classifies a sequence from the state after its last step: outputs `(batch, classes)`."""

    @nn.nowrap
    def features(self, out: RecurrenceOutput) -> Array:
        """The last state, `(batch, d)`."""
        return out.last
