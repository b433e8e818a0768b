"""What stands between the stored values of a sequence and the first cell."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array


def uniform_table(key: Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> Array:
    """The initial rows of a table, U(-0.1, 0.1)."""
    return jax.random.uniform(key, shape, dtype, -0.1, 0.1)


class Table(nn.Module):
    """One vector for each value that a whole number may have.

    A step of several numbers (the channels of a pixel) has rows of its own for each of them, and
    is embedded as their sum. Rows start in U(-0.1, 0.1).

    Attributes:
      values: the numbers are below this.
      width: of a vector.
    """

    values: int
    width: int

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Maps whole numbers `(..., channels)` to `(..., width)`."""
        channels = ids.shape[-1]
        table = self.param("table", uniform_table, (channels * self.values, self.width))
        rows = ids.astype(jnp.int32) + self.values * jnp.arange(channels)
        return jnp.take(table, rows, axis=0).sum(-2)
