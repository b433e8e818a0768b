"""Parts of sequences, and states in the middle of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry


def take_windows(x: Any, starts: Array, size: int) -> Any:
    """Cuts windows of one size out of sequences.

    Args:
      x: `(batch, time, ...)`, or a tree of such arrays.
      starts: first step of each window, `(windows,)` the same for all examples, or
        `(windows, batch)`.
      size: steps of a window.

    Returns:
      `(windows * batch, size, ...)`, window by window; a tree as `x` is.
    """

    def take(x: Array, start: Array) -> Array:
        if start.ndim == 0:
            return lax.dynamic_slice_in_dim(x, start, size, axis=1)
        return jax.vmap(lambda row, s: lax.dynamic_slice_in_dim(row, s, size))(x, start)

    return jax.tree.map(lambda x: jnp.concatenate([take(x, start) for start in starts]), x)


def take_states(states: Carry, at: Array) -> Carry:
    """Picks states after single steps.

    Args:
      states: leaves `(time, batch, d)`.
      at: the steps, `(picks,)` the same for all examples, or `(picks, batch)`.

    Returns:
      Leaves `(picks * batch, d)`, pick by pick.
    """

    def take(step: Array, states: Array) -> Array:
        if step.ndim == 0:
            return lax.dynamic_index_in_dim(states, step, keepdims=False)
        return jax.vmap(lambda s, i: lax.dynamic_index_in_dim(s, i, keepdims=False), (1, 0))(
            states, step
        )

    return jax.tree.map(lambda s: jnp.concatenate([take(step, s) for step in at]), states)
