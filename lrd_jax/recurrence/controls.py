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

    All but `time` and `zone` are boolean with time first: `(time,)` or `(time, batch)`. The order
    at a step: reset, cut, block_h and block_c, the step, zone_h and zone_c, hold.

    Attributes:
      block_h: h is stopped where it enters the matrix products (h-detach).
      block_c: c is stopped as it enters the step (c-detach).
      cut: the whole state is stopped as it enters the step (truncation).
      valid: False holds the state: the step is padding.
      reset: the state is put back to its start before the step, `(time, batch)`.
      time: the step's index in its segment, `(time, batch)` int32; only where the cell asks for it.
      zone_h: the units that keep their h, `(time, batch, d)` booleans; or the share of the old h in
        the new one, `(time, 1, 1)` real. What enters the next product is the h so made. The old h
        is attached; of c it is what the step saw, which `block_c` may have stopped.
      zone_c: the same of c.
    """

    block_h: Array | None = None
    block_c: Array | None = None
    cut: Array | None = None
    valid: Array | None = None
    reset: Array | None = None
    time: Array | None = None
    zone_h: Array | None = None
    zone_c: Array | None = None

    def zoned(self) -> dict[str, Array]:
        """The fields of the state that zoneout holds, with their masks."""
        masks = {"h": self.zone_h, "c": self.zone_c}
        return {name: mask for name, mask in masks.items() if mask is not None}


def between(share: Array | float, old: Array | float, new: Array | float) -> Array:
    """Zoneout: the old value where a boolean `share` is set, a mean weighted by a real one.

    Args:
      share: of the old value, any shape that fits the values'.
      old: before the step, `(batch, d)`.
      new: after it, `(batch, d)`.
    """
    if isinstance(share, jax.Array) and share.dtype == bool:
        return jnp.where(share, old, new)
    return jnp.asarray(share * old + (1 - share) * new)


def zone_out(controls: Controls, old: Any, new: Any) -> Any:
    """The state after a step and its zoneout.

    Args:
      controls: of this step.
      old: the state that the step saw, leaves `(batch, d)`.
      new: what the step made of it.
    """
    for name, mask in controls.zoned().items():
        new = new._replace(**{name: between(mask, getattr(old, name), getattr(new, name))})
    return new


def where_mask(mask: Array, x: Array, y: Array | float) -> Array:
    """`jnp.where` with a mask `()` or `(batch,)` over `(batch, ...)`, time before batch allowed."""
    if mask.ndim:
        mask = jnp.expand_dims(mask, tuple(range(mask.ndim, x.ndim)))
    return jnp.where(mask, x, y)


def stop_where(mask: Array | None, tree: Any) -> Any:
    """Blocks the gradient where `mask` is set; never `lax.cond`, which copies the carry."""
    if mask is None:
        return tree
    return jax.tree.map(lambda x: where_mask(mask, lax.stop_gradient(x), x), tree)


def put_back(mask: Array | None, start: Any, tree: Any) -> Any:
    """Replaces a state by its start where `mask` is set; no gradient crosses.

    Args:
      mask: `(batch,)` booleans; None: nowhere.
      start: leaves `(batch, d)`.
      tree: the state, of the same leaves.
    """
    if mask is None:
        return tree
    return jax.tree.map(lambda new, old: where_mask(mask, new, old), start, tree)


def step_index(length: int, resets: Array | None, first: Array) -> Array:
    """Counts the steps of each segment from 0, those of the first one from `first`.

    Args:
      length: steps of the sequences.
      resets: where segments begin, `(time, batch)` booleans; None: nowhere.
      first: what the first step is called, `(batch,)` int32.

    Returns:
      `(time, batch)` int32.
    """
    time = first + jnp.arange(length)[:, None]
    return time if resets is None else time - lax.cummax(jnp.where(resets, time, 0))


def truncation_cuts(
    steps: int,
    length: int,
    lengths: Array | None = None,
    counted_from: str = "end",
    resets: Array | None = None,
) -> Array | None:
    """Where the state is stopped so that every gradient reaches back at most `steps` steps.

    Counted from the end: the state entering step T - K is stopped, and every K steps before it.
    A loss on the last state therefore reaches exactly K steps; with losses on all steps, each
    reaches the start of its own window of K. Counted from the start, the states entering steps K,
    2 K, ... are stopped: only losses on the first K steps reach the initial state. With resets
    each segment is counted like a sequence of its own, the last one ending at `lengths`.

    Args:
      steps: K; 0 = no truncation.
      length: T.
      lengths: valid steps of each example, `(batch,)`, where they differ.
      counted_from: `end` or `start`.
      resets: where a segment begins, `(time, batch)`, on valid steps only.

    Returns:
      `(time,)` or `(time, batch)` booleans, None without truncation.
    """
    if not steps:
        return None
    time = jnp.arange(length)
    if counted_from == "start":
        if resets is not None:
            time = step_index(length, resets, jnp.zeros(resets.shape[1], int))
        cuts = (time % steps == 0) & (time > 0)
        if lengths is None:
            return cuts
        # A cut in the padding would stop what goes back to the last valid step.
        return cuts.reshape(length, -1) & (jnp.arange(length)[:, None] < lengths)
    end = length if lengths is None else lengths
    if lengths is not None or resets is not None:
        time = time[:, None]
    if resets is not None:  # the next segment's first step, else the end
        begins = jnp.where(resets, time, end)[1:]
        last = jnp.broadcast_to(end, resets.shape[1:])[None]
        end = lax.cummin(jnp.concatenate([begins, last]), reverse=True)
    remaining = end - time
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
      zone_h: see `Controls`; one for each layer and direction, in its own order of time; empty
        without zoneout.
      zone_c: the same of c.
      weights: for each layer and direction the key of what DropConnect keeps of its recurrent
        kernels; empty where it keeps all.
    """

    block_h: tuple[Array | None, ...]
    block_c: tuple[Array | None, ...]
    keep: tuple[Array | None, ...]
    zone_h: tuple[Array, ...] = ()
    zone_c: tuple[Array, ...] = ()
    weights: tuple[Array, ...] = ()

    def windows(self, starts: Array, size: int, batch: int) -> Masks:
        """The part of the draws that windows see, cut out as by `take_windows`."""

        def of_mask(mask: Array | None) -> Array | None:
            if mask is None:
                return None
            whole = jnp.broadcast_to(mask[:, None] if mask.ndim == 1 else mask, (len(mask), batch))
            return take_windows(whole.T, starts, size).T

        def of_zone(mask: Array) -> Array:
            if mask.dtype != bool:
                return mask[:size]
            return jnp.swapaxes(take_windows(jnp.swapaxes(mask, 0, 1), starts, size), 0, 1)

        return Masks(
            tuple(map(of_mask, self.block_h)),
            tuple(map(of_mask, self.block_c)),
            tuple(None if k is None else take_windows(k, starts, size) for k in self.keep),
            tuple(map(of_zone, self.zone_h)),
            tuple(map(of_zone, self.zone_c)),
            self.weights,
        )
