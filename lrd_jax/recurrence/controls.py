"""What happens to the state besides the cell: blocked, cut, held. As masks over time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.recurrence.windows import take_windows
from lrd_jax.streams import Streams


class Controls(NamedTuple):
    """What happens to the state at each step besides the cell; None means nothing.

    All are boolean with time first: `(time,)` or `(time, batch)`.

    Attributes:
      block_h: h is stopped where it enters the matrix products (h-detach).
      block_c: c is stopped as it enters the step (c-detach).
      cut: the whole state is stopped as it enters the step (truncation).
      valid: False holds the state: the step is padding.
    """

    block_h: Array | None = None
    block_c: Array | None = None
    cut: Array | None = None
    valid: Array | None = None


def where_mask(mask: Array, x: Array, y: Array | float) -> Array:
    """`jnp.where` with a mask `()` or `(batch,)` over `(batch, d)`, time before batch allowed."""
    return jnp.where(mask[..., None] if mask.ndim else mask, x, y)


def stop_where(mask: Array | None, tree: Any) -> Any:
    """Blocks the gradient where `mask` is set; never `lax.cond`, which copies the carry."""
    if mask is None:
        return tree
    return jax.tree.map(lambda x: where_mask(mask, lax.stop_gradient(x), x), tree)


def truncation_cuts(
    steps: int, length: int, lengths: Array | None = None, counted_from: str = "end"
) -> Array | None:
    """Where the state is stopped so that every gradient reaches back at most `steps` steps.

    Counted from the end: the state entering step T - K is stopped, and every K steps before it.
    A loss on the last state therefore reaches exactly K steps; with losses on all steps, each
    reaches the start of its own window of K. Counted from the start, the states entering steps K,
    2 K, ... are stopped: only losses on the first K steps reach the initial state.

    Args:
      steps: K; 0 = no truncation.
      length: T.
      lengths: valid steps of each example, `(batch,)`, where they differ.
      counted_from: `end` or `start`.

    Returns:
      `(time,)` or `(time, batch)` booleans, None without truncation.
    """
    if not steps:
        return None
    time = jnp.arange(length)
    if counted_from == "start":
        return (time % steps == 0) & (time > 0)
    end = length if lengths is None else lengths
    remaining = end - (time if lengths is None else time[:, None])
    return (remaining % steps == 0) & (remaining > 0)


def detach_mask(
    p: float | Array,
    scope: str,
    stream: str,
    streams: Streams,
    length: int,
    batch: int,
) -> Array | None:
    """Draws at which steps the gradient is blocked (Arpit et al. 2019, arXiv:1810.03023, alg. 1).

    Args:
      p: probability of blocking, in [0, 1]; the number 0 draws nothing. One that is
        swept, or switched off at some steps, is an array.
      scope: `batch`: one draw a step for the mini-batch; `example`: one for each example.
      stream: name of the random stream.
      streams: this step's randomness.
      length: time steps.
      batch: examples on this device.

    Returns:
      `(time,)` or `(time, batch)` booleans, True = blocked; None if p is 0.
    """
    if not isinstance(p, jax.Array) and p == 0:
        return None
    if scope == "batch":
        mask = jax.random.bernoulli(streams.shared(stream), p, (length,))
    else:
        keys = streams.per_example(stream, batch)
        mask = jax.vmap(lambda key: jax.random.bernoulli(key, p, (length,)))(keys).T
    return mask


class Masks(NamedTuple):
    """What one training step drew for a `Recurrence`, by layer; None where nothing is drawn.

    Attributes:
      block_h: see `Controls`.
      block_c: see `Controls`.
      keep: what dropout keeps of a layer's input, `(batch, time, features)` booleans.
    """

    block_h: tuple[Array | None, ...]
    block_c: tuple[Array | None, ...]
    keep: tuple[Array | None, ...]

    def windows(self, starts: Array, size: int, batch: int) -> Masks:
        """The part of the draws that windows see, cut out as by `take_windows`."""

        def of_mask(mask: Array | None) -> Array | None:
            if mask is None:
                return None
            whole = jnp.broadcast_to(mask[:, None] if mask.ndim == 1 else mask, (len(mask), batch))
            return take_windows(whole.T, starts, size).T

        return Masks(
            tuple(map(of_mask, self.block_h)),
            tuple(map(of_mask, self.block_c)),
            tuple(None if k is None else take_windows(k, starts, size) for k in self.keep),
        )
