"""What the networks over whole sequences share: embedding, recurrence, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.recurrence import Masks, Recurrence, RecurrenceOutput
from lrd_jax.streams import StepContext, dropout


class Head(nn.Module):
    """ReLU layers, then a linear one.

    Attributes:
      hidden: widths of the ReLU layers.
      outputs: width of the last layer.
      dropconnect: rate at which weights of the second matrix are zeroed in training, the kept ones
        divided by `1 - rate` (Wan et al. 2013, "Regularization of Neural Networks using
        DropConnect").
    """

    hidden: Sequence[int]
    outputs: int
    dropconnect: float = 0.0

    @nn.compact
    def __call__(self, x: Array, key: Array | None = None) -> Array:
        """Maps `(..., d)` to `(..., outputs)`; without a key, all weights are used as they are."""

        def masked(x: Array, kernel: Array, *args, **options) -> Array:
            assert key is not None
            keep = jax.random.bernoulli(key, 1.0 - self.dropconnect, kernel.shape)
            kernel = jnp.where(keep, kernel / (1.0 - self.dropconnect), 0)
            return lax.dot_general(x, kernel, *args, **options)

        for index, width in enumerate((*self.hidden, self.outputs)):
            drops = index == 1 and self.dropconnect and key is not None
            x = nn.relu(x) if index else x
            x = nn.Dense(width, dot_general=masked if drops else None)(x)
        return x


class SequenceModel(nn.Module):
    """Reads a sequence; a subclass says which states of the last layer the head reads.

    Attributes:
      recurrence: the layers over time.
      head: from a state to outputs.
      embedding: maps the values of a step to what the first cell reads; None: it reads them.
      output_dropout: rate on what the head reads.
    """

    recurrence: Recurrence
    head: Head
    embedding: nn.Module | None = None
    output_dropout: float = 0.0

    @nn.nowrap
    def features(self, out: RecurrenceOutput, lengths: Array | None = None) -> Array:
        """The states that the head reads, `(batch, ..., d)`.

        Args:
          out: from `run`.
          lengths: as for `run`.
        """
        raise NotImplementedError

    def embed(self, x: Array) -> Array:
        """Maps values `(batch, time, n)` to what the first cell reads."""
        return x if self.embedding is None else self.embedding(x)

    def run(
        self,
        x: Any,
        masks: Masks | None = None,
        step: StepContext | None = None,
        lengths: Array | None = None,
    ) -> RecurrenceOutput:
        """Runs the recurrence over the values of sequences.

        Args:
          x: what the embedding takes; `(batch, time, n)` where there is none.
          masks: from `Recurrence.draw`; None: drawn here for `step`.
          step: a training step, None in evaluation.
          lengths: valid steps of each example, `(batch,)`; None = all.
        """
        x = self.embed(x)
        if masks is None:
            masks = self.recurrence.draw(step, x.shape[1], x.shape[0])
        return self.recurrence(x, masks=masks, lengths=lengths)

    def rerun(
        self, x: Array, before: RecurrenceOutput, starts: Array, masks: Masks
    ) -> RecurrenceOutput:
        """Runs windows of them again, see `Recurrence.rerun`."""
        return self.recurrence.rerun(self.embed(x), before, starts, masks)

    def read(self, features: Array, step: StepContext | None = None) -> Array:
        """Maps `features` to the head's outputs."""
        if self.output_dropout and step is not None:
            keys = step.per_example("output_dropout", len(features))
            features = dropout(features, self.output_dropout, keys)
        return self.head(features, None if step is None else step.shared("dropconnect_head"))

    def __call__(self, x: Array, step: StepContext | None = None) -> tuple[Array, RecurrenceOutput]:
        """Returns the head's outputs and all that the recurrence gave.

        Args:
          x: `(batch, time, n)`.
          step: a training step, None in evaluation.
        """
        out = self.run(x, step=step)
        return self.read(self.features(out), step), out


POOLS = ("last", "mean", "max")


def pooled(out: RecurrenceOutput, how: str, lengths: Array | None = None) -> Array:
    """One vector of a sequence, `(batch, d)`.

    Args:
      out: from the recurrence.
      how: the output after the last step (of each direction), or the mean or the maximum over time.
      lengths: valid steps of each example, at least one, `(batch,)`; None = all.

    Returns:
      `(batch, d)`, 2 d if bidirectional.
    """
    if how == "last":
        return out.last
    length = out.outputs.shape[1]
    steps = jnp.full(len(out.outputs), length) if lengths is None else lengths
    valid = (jnp.arange(length) < steps[:, None])[..., None]
    if how == "max":
        return jnp.where(valid, out.outputs, -jnp.inf).max(axis=1)
    return jnp.where(valid, out.outputs, 0).sum(axis=1) / steps[:, None]


class SequenceClassifier(SequenceModel):
    """Reads a sequence and then says one thing about it: outputs `(batch, classes)`.

    Attributes:
      pool: what of the outputs the head reads, one of `POOLS`.
    """

    pool: str = "last"

    @nn.nowrap
    def features(self, out: RecurrenceOutput, lengths: Array | None = None) -> Array:
        """The last state, or what is pooled over valid steps, `(batch, d)`."""
        return pooled(out, self.pool, lengths)


class SequenceTagger(SequenceModel):
    """Labels the last steps of a sequence, each from the state right after it.

    Outputs are `(batch, last_steps, classes)`; of sequences that differ in length, of all steps.

    Attributes:
      last_steps: how many steps are labelled; only these go through the head.
    """

    last_steps: int = 1

    @nn.nowrap
    def features(self, out: RecurrenceOutput, lengths: Array | None = None) -> Array:
        """The states after the last steps, `(batch, last_steps, d)`; with lengths after all."""
        return out.outputs if lengths is not None else out.outputs[:, -self.last_steps :]
