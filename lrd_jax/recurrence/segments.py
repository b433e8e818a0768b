"""Sequences packed into one row: reading them forwards and backwards, and their masks."""

from __future__ import annotations

import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.recurrence.controls import Controls, step_index, truncation_cuts


def reverse(x: Array, lengths: Array | None) -> Array:
    """Reverses time (axis 0) within each example's valid steps; padding stays in place."""
    if lengths is None:
        return x[::-1]
    time = jnp.arange(x.shape[0])[:, None]
    index = jnp.where(time < lengths, lengths - 1 - time, time)  # (time, batch)
    return jnp.take_along_axis(x, index[..., None] if x.ndim == 3 else index, axis=0)


def reverse_resets(resets: Array, lengths: Array | None) -> Array:
    """Where the same segments begin when they are read backwards: each at its last step."""
    last = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
    # The segment that is read first begins where the sequence does.
    return reverse(last, lengths).at[0].set(False)


def controls_by_direction(
    directions: int,
    shape: tuple[int, int],
    lengths: Array | None,
    resets: Array | None,
    truncate_steps: int,
    truncate_from: str,
    first_step: Array | int | None,
) -> list[Controls]:
    """Builds the masks that no step draws, for each direction in its own order of time.

    Args:
      directions: 1, or 2 with a layer that reads backwards.
      shape: `(batch, time)`.
      lengths: valid steps of each example, `(batch,)`; None = all.
      resets: see `Recurrence.__call__`.
      truncate_steps: see `truncation_cuts`.
      truncate_from: see `truncation_cuts`.
      first_step: index of the first step; None: no cell asks for the index.
    """
    batch, length = shape
    valid = None if lengths is None else jnp.arange(length)[:, None] < lengths
    if resets is not None:
        resets = resets.T if valid is None else resets.T & valid
    found = []
    for direction in range(directions):
        if direction and resets is not None:
            resets = reverse_resets(resets, lengths)
        cut = truncation_cuts(truncate_steps, length, lengths, truncate_from, resets)
        time = None
        if first_step is not None:
            time = step_index(length, resets, jnp.broadcast_to(first_step, (batch,)))
        found.append(Controls(cut=cut, valid=valid, reset=resets, time=time))
    return found
