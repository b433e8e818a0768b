"""Parts of sequences, and states in the middle of them."""

from __future__ import annotations

from collections.abc import Callable
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

    return jax.tree.map(lambda x: _joined(lambda start: take(x, start), starts), x)


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

    return jax.tree.map(lambda s: _joined(lambda step: take(step, s), at), states)


# Slices one by one cost less than a gather, and above all its backward pass; but each is some
# operations of the program, which takes minutes to build of thousands.
_ONE_BY_ONE = 64


def _joined(take: Callable[[Array], Array], places: Array) -> Array:
    """What is taken at each place, `(batch, ...)`, one after the other."""
    if len(places) <= _ONE_BY_ONE:
        return jnp.concatenate([take(place) for place in places])
    taken = jax.vmap(take)(places)
    return taken.reshape(-1, *taken.shape[2:])
