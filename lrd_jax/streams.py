"""Random draws of one optimizer step, equal on any number of devices."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array


class Draws(NamedTuple):
    """The random streams of one optimizer step.

    Streams are told apart by name, so that drawing more from one (dropout, say) never changes
    another (h-detach). What the whole mini-batch shares comes from `shared`, whose key is the
    same on every device; what differs between examples comes from `per_example`, whose keys
    depend on an example's place in the global batch, not on the device that holds it.

    Attributes:
      key: key of this step, identical on every device.
      first: index in the global batch of the first example that this device holds.
      swept: what this run draws and weighs with in place of the config's value, where a sweep
        trains several side by side: key of `members.SWEPT` -> scalar.
    """

    key: Array
    first: Array | int = 0
    swept: Mapping[str, Array] = {}

    def shared(self, stream: str) -> Array:
        """Key of `stream` for draws that the whole mini-batch shares."""
        return jax.random.fold_in(self.key, zlib.crc32(stream.encode()))

    def per_example(self, stream: str, count: int) -> Array:
        """One key of `stream` for each of this device's `count` examples, `(count,)`."""
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        return fold(self.shared(stream), self.first + jnp.arange(count))


def keep_mask(rate: float, keys: Array, shape: tuple[int, ...]) -> Array:
    """Draws what dropout keeps, `(batch, *shape)` booleans; see `dropout`."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(keys)


def dropout(x: Array, rate: float, keys: Array) -> Array:
    """Inverted dropout with one key per example.

    Args:
      x: `(batch, ...)`.
      rate: probability of zeroing an element; kept ones are divided by `1 - rate`.
      keys: `(batch,)`, from `Draws.per_example`.

    Returns:
      The thinned array, `(batch, ...)`.
    """
    return jnp.where(keep_mask(rate, keys, x.shape[1:]), x / (1.0 - rate), 0)
