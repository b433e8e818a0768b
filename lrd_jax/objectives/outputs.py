"""How the outputs of a decoder stand for the values of a sequence, and what they cost."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import optax

from lrd_jax.arrays import Array
from lrd_jax.data.spec import DataSpec
from lrd_jax.objectives.base import encode


class Decoded(NamedTuple):
    """What a decoder made of a segment in the middle of the legal range.

    Attributes:
      start: of the segment; what is decoded are the steps after it.
      true: these steps, as the network sees them, `(batch, steps, features)`.
      decoded: as trained.
      alone: reading its own outputs, so that all it knows comes from the state at the anchor; None
        for a decoder that was trained without inputs.
    """

    start: Array | int
    true: Array
    decoded: Array
    alone: Array | None


class Outputs:
    """Reads a decoder's outputs: logits of whole numbers, or the values themselves.

    Attributes:
      cross_entropy: whether they are logits, `spec.values` for each channel.
      width: of the outputs of a step.
    """

    def __init__(self, spec: DataSpec, cross_entropy: bool, looks_up: bool) -> None:
        """Keeps what the data are.

        Args:
          spec: of the sequences.
          cross_entropy: see the attribute.
          looks_up: whether the decoder reads stored numbers through a table.
        """
        self._spec, self._looks_up, self.cross_entropy = spec, looks_up, cross_entropy
        self._channels = 1 if spec.one_hot else spec.features
        self.width = self._channels * spec.values if cross_entropy else spec.features

    def values(self, stored: Array) -> Array:
        """What the decoder's embedding takes: the stored numbers for a table, else encoded ones."""
        return stored if self._looks_up else encode(stored, self._spec)

    def seen(self, outputs: Array) -> Array:
        """What outputs `(rows, steps, ...)` mean, as the network sees its inputs."""
        return encode(self._ids(outputs), self._spec) if self.cross_entropy else outputs

    def read_back(self, outputs: Array) -> Array:
        """Makes outputs of one step, `(rows, outputs)`, values that the decoder can read."""
        if self.cross_entropy:
            ids = self._ids(outputs)
        elif self._looks_up:
            numbers = outputs / jnp.array(self._spec.scale) + jnp.array(self._spec.offset)
            ids = jnp.clip(jnp.round(numbers), 0, self._spec.values - 1)
        else:
            return outputs
        return self.values(ids[:, None])[:, 0]

    def cost(self, outputs: Array, targets: Array) -> Array:
        """The mean loss of each row.

        Args:
          outputs: of a decoder, `(rows, steps, width)`.
          targets: stored numbers, `(rows, steps, channels)`.

        Returns:
          Squared error averaged over features, or cross-entropy averaged over channels, `(rows,)`.
        """
        if not self.cross_entropy:
            return ((outputs - encode(targets, self._spec)) ** 2).mean((1, 2))
        logits = outputs.reshape(*targets.shape, self._spec.values)
        labels = targets.astype(jnp.int32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean((1, 2))

    def _ids(self, outputs: Array) -> Array:
        """The likeliest numbers, `(..., channels)`."""
        logits = outputs.reshape(*outputs.shape[:-1], self._channels, self._spec.values)
        return logits.argmax(-1)
