"""One label for a whole sequence: recurrence, then a head on the last state."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from lrd_jax.draws import Draws
from lrd_jax.recurrence import Recurrence, RecurrenceOutput

Array = jax.Array


class Head(nn.Module):
    """ReLU layers, then a linear one.

    Attributes:
      hidden: widths of the ReLU layers.
      outputs: width of the last layer.
    """

    hidden: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(..., d)` to `(..., outputs)`."""
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.outputs)(x)


class SequenceClassifier(nn.Module):
    """Reads a sequence and classifies it from the state after its last step.

    Attributes:
      recurrence: the layers over time.
      head: from the last state to logits.
    """

    recurrence: Recurrence
    head: Head

    def __call__(
        self, x: Array, draws: Draws | None = None, detach_active: Array | bool = True
    ) -> tuple[Array, RecurrenceOutput]:
        """Returns logits, `(batch, classes)`, and all that the recurrence gave.

        Args:
          x: `(batch, time, n)`.
          draws: randomness of a training step, None in evaluation.
          detach_active: see `Recurrence`.
        """
        out = self.recurrence(x, draws=draws, detach_active=detach_active)
        return self.head(out.last), out
