"""What one optimizer step knows besides parameters and batch; random draws by named streams."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array


class Streams(Protocol):
    """Where draws come from, and the values that are in force for them."""

    def shared(self, stream: str) -> Array:
        """Key of `stream` for draws that the whole mini-batch shares."""
        ...

    def per_example(self, stream: str, count: int) -> Array:
        """One key of `stream` for each of `count` examples, `(count,)`."""
        ...

    def value(self, name: str, otherwise: Array | float) -> Array | float:
        """The value of a hyper-parameter that is in force, `otherwise` where none was set."""
        ...


class StepContext(NamedTuple):
    """One optimizer step: its randomness, its number, and the values in force in it.

    Streams are told apart by name, so that drawing more from one (dropout, say) never changes
    another (h-detach). What the whole mini-batch shares comes from `shared`, whose key is the
    same on every device; what differs between examples comes from `per_example`, whose keys
    depend on an example's place in the global batch, not on the device that holds it.

    Attributes:
      key: key of this step, identical on every device.
      number: updates applied so far, for schedules.
      first: index in the global batch of the first example that this device holds.
      values: what this run draws and weighs with in place of the config's value: key of
        `members.SWEPT` -> scalar.
    """

    key: Array
    number: Array | int = 0
    first: Array | int = 0
    values: Mapping[str, Array | float] = {}

    def shared(self, stream: str) -> Array:
        """See `Streams`."""
        return jax.random.fold_in(self.key, zlib.crc32(stream.encode()))

    def per_example(self, stream: str, count: int) -> Array:
        """See `Streams`; for this device's examples."""
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        return fold(self.shared(stream), self.first + jnp.arange(count))

    def value(self, name: str, otherwise: Array | float) -> Array | float:
        """See `Streams`."""
        return self.values.get(name, otherwise)

    def with_values(self, **values: Array | float) -> StepContext:
        """The same step with other values in force."""
        return self._replace(values={**self.values, **values})


class RngStreams(NamedTuple):
    """Streams from Flax's `rngs`: each is named like its rng, or like it with a suffix.

    Attributes:
      keys: rng name -> key.
    """

    keys: Mapping[str, Array]

    def shared(self, stream: str) -> Array:
        """See `Streams`."""
        key = next(key for name, key in self.keys.items() if stream.startswith(name))
        return jax.random.fold_in(key, zlib.crc32(stream.encode()))

    def per_example(self, stream: str, count: int) -> Array:
        """See `Streams`."""
        return jax.vmap(jax.random.fold_in, (None, 0))(self.shared(stream), jnp.arange(count))

    def value(self, name: str, otherwise: Array | float) -> Array | float:
        """See `Streams`: Flax's `rngs` bring no values."""
        del name
        return otherwise


def keep_mask(rate: float, keys: Array, shape: tuple[int, ...]) -> Array:
    """Draws what dropout keeps, `(batch, *shape)` booleans; see `dropout`."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(keys)


def dropout(x: Array, rate: float, keys: Array) -> Array:
    """Inverted dropout with one key per example.

    Args:
      x: `(batch, ...)`.
      rate: probability of zeroing an element; kept ones are divided by `1 - rate`.
      keys: `(batch,)`, from `StepContext.per_example`.

    Returns:
      The thinned array, `(batch, ...)`.
    """
    return jnp.where(keep_mask(rate, keys, x.shape[1:]), x / (1.0 - rate), 0)
