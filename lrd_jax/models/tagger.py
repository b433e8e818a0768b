"""A label for each step: recurrence, then the same head on the output of every step that counts."""

from __future__ import annotations

import flax.linen as nn
import jax

from lrd_jax.draws import Draws
from lrd_jax.models.classifier import Head
from lrd_jax.recurrence import Recurrence, RecurrenceOutput

Array = jax.Array


class SequenceTagger(nn.Module):
    """Reads a sequence and labels its last steps, each from the state right after it.

    Attributes:
      recurrence: the layers over time.
      head: from a state to logits.
      last_steps: how many steps are labelled; only these go through the head.
    """

    recurrence: Recurrence
    head: Head
    last_steps: int

    def __call__(
        self, x: Array, draws: Draws | None = None, detach_active: Array | bool = True
    ) -> tuple[Array, RecurrenceOutput]:
        """Returns logits, `(batch, last_steps, classes)`, and all that the recurrence gave.

        Args:
          x: `(batch, time, n)`.
          draws: randomness of a training step, None in evaluation.
          detach_active: see `Recurrence`.
        """
        out = self.recurrence(x, draws=draws, detach_active=detach_active)
        return self.head(out.outputs[:, -self.last_steps :]), out
