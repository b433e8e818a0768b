"""The next token after each step: embedding, recurrence, and a readout over the vocabulary."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry
from lrd_jax.recurrence import Recurrence
from lrd_jax.streams import StepContext, dropout


class Readout(NamedTuple):
    """Turns features into logits, `features @ kernel.T + bias`.

    Attributes:
      kernel: `(vocabulary, features)`.
      bias: `(vocabulary,)`; None without one.
    """

    kernel: Array
    bias: Array | None

    def logits(self, features: Array) -> Array:
        """Maps `(..., features)` to `(..., vocabulary)`."""
        logits = features @ self.kernel.T
        return logits if self.bias is None else logits + self.bias


class LanguageModel(nn.Module):
    """Reads tokens and says which comes next.

    The logits themselves are left to the loss, which never holds all of them.

    With tied embeddings the table that embeds a token is the very parameter that it is compared
    with at the output, without a bias; a linear layer fits the last state to its width where they
    differ. A table of standard deviation 1/sqrt(width) suits both uses. Without tying the
    embedding is drawn from N(0, 1) and the output from U(-1/sqrt d, 1/sqrt d), as in PyTorch.

    Attributes:
      recurrence: the layers over time.
      vocabulary_size: number of different tokens.
      embedding_size: width of a token's vector.
      tie_embeddings: one table for input and output.
      embedding_dropout: rate on the embedded tokens.
      output_dropout: rate on the last layer's output.
    """

    recurrence: Recurrence
    vocabulary_size: int
    embedding_size: int
    tie_embeddings: bool = False
    embedding_dropout: float = 0.0
    output_dropout: float = 0.0

    def setup(self) -> None:
        """Creates the parameters outside of the recurrence."""
        width, vocabulary = self.recurrence.cell.hidden_size, self.vocabulary_size
        deviation = 1 / math.sqrt(self.embedding_size) if self.tie_embeddings else 1.0
        self.embedding = self.param(
            "embedding", nn.initializers.normal(deviation), (vocabulary, self.embedding_size)
        )
        if not self.tie_embeddings:
            scale = nn.initializers.uniform(2 / math.sqrt(width))

            def centred(*args) -> Array:
                return scale(*args) - 1 / math.sqrt(width)

            self.output_kernel = self.param("output_kernel", centred, (vocabulary, width))
            self.output_bias = self.param("output_bias", nn.initializers.zeros, (vocabulary,))
        elif width != self.embedding_size:
            self.projection = nn.Dense(self.embedding_size)

    def __call__(
        self,
        tokens: Array,
        carry: tuple[Carry, ...],
        start: Array,
        step: StepContext | None = None,
    ) -> tuple[Array, Readout, tuple[Carry, ...]]:
        """Reads a window of every stream.

        Args:
          tokens: `(batch, time)` int32.
          carry: the state after the window before, leaves `(batch, d)`.
          start: where a stream begins and takes the initial state instead, `(batch,)` bool.
          step: a training step, None in evaluation.

        Returns:
          Features after each step, `(batch, time, features)`, what makes logits of them, and the
          state after the window.
        """
        initial = self.recurrence.initial_carry(tokens.shape[0])
        carry = jax.tree.map(lambda new, old: jnp.where(start[:, None], new, old), initial, carry)
        x = self._drop(jnp.asarray(self.embedding)[tokens], "embedding_dropout", step)
        masks = self.recurrence.draw(step, x.shape[1], x.shape[0])
        out = self.recurrence(x, initial=carry, masks=masks)
        features = self._drop(out.outputs, "output_dropout", step)
        if not self.tie_embeddings:
            return features, Readout(self.output_kernel, self.output_bias), out.final
        if self.recurrence.cell.hidden_size != self.embedding_size:
            features = self.projection(features)
        return features, Readout(self.embedding, None), out.final

    def _drop(self, x: Array, name: str, step: StepContext | None) -> Array:
        """Dropout at the rate of that name, drawn from the stream of that name."""
        rate = getattr(self, name)
        if not rate or step is None:
            return x
        return dropout(x, rate, step.per_example(name, x.shape[0]))
