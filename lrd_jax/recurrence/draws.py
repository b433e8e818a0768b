"""What a training step draws for a stack of recurrent layers, and what evaluation has instead."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.recurrence.controls import Masks, detach_mask
from lrd_jax.streams import Streams, keep_mask


def draw_masks(stack: Any, streams: Streams | None, length: int, batch: int) -> Masks:
    """Draws what a training step needs.

    Args:
      stack: a `Recurrence`, whose rates are read.
      streams: as for `Recurrence.draw`.
      length: time steps.
      batch: examples on this device.
    """
    nothing = (None,) * stack.num_layers
    held = {f"zone_{name}": _zoneout(stack, name, streams, length, batch) for name in "hc"}
    if streams is None:
        return Masks(nothing, nothing, nothing, **held)
    blocks = (
        (streams.value("p_block", stack.p_block), "h_detach"),
        (streams.value("c_block", stack.c_block), "c_detach"),
    )

    def masks(layer: int) -> list[Array | None]:
        suffix = "" if stack.stack_mask == "shared" else f"_{layer}"
        return [
            detach_mask(p, stack.mask_scope, name + suffix, streams, length, batch)
            for p, name in blocks
        ]

    def keep(layer: int) -> Array | None:
        if not (layer and stack.dropout):
            return None
        width = stack.cell.hidden_size * (2 if stack.bidirectional else 1)
        keys = streams.per_example(f"dropout_{layer}", batch)
        return keep_mask(stack.dropout, keys, (length, width))

    layers = range(stack.num_layers)
    block_h, block_c = zip(*map(masks, layers), strict=True)
    weights = ()
    if stack.recurrent_dropconnect:
        weights = tuple(
            streams.shared(f"recurrent_dropconnect_{place}") for place in range(_places(stack))
        )
    return Masks(block_h, block_c, tuple(map(keep, layers)), weights=weights, **held)


def _places(stack: Any) -> int:
    """Layers times directions."""
    return stack.num_layers * (2 if stack.bidirectional else 1)


def _zoneout(
    stack: Any, name: str, streams: Streams | None, length: int, batch: int
) -> tuple[Array, ...]:
    """The units of each layer and direction that keep h or c; in evaluation how much of it."""
    rate = stack.zoneout_h if name == "h" else stack.zoneout_c
    if not rate:
        return ()
    if streams is None:
        expected = jnp.full((length, 1, 1), rate, stack.cell.param_dtype)
        return (expected,) * _places(stack)

    def of_place(place: int) -> Array:
        keys = streams.per_example(f"zoneout_{name}_{place}", batch)
        kept = keep_mask(1 - rate, keys, (length, stack.cell.hidden_size))
        return jnp.swapaxes(kept, 0, 1)

    return tuple(map(of_place, range(_places(stack))))


def drop_weights(rate: float, key: Array, variables: Any) -> Any:
    """Zeroes elements of a cell's recurrent kernels; kept ones are divided by `1 - rate`.

    Args:
      rate: in [0, 1).
      key: of the sequence: one mask for all of its steps and for the whole mini-batch.
      variables: of the cell; kernels are what is named `recurrent...` and has more than one axis.
    """

    def drop(path: Any, leaf: Array) -> Array:
        name = str(getattr(path[-1], "key", path[-1]))
        if leaf.ndim < 2 or not name.startswith("recurrent"):
            return leaf
        own = jax.random.fold_in(key, sum(name.encode()))
        return jnp.where(jax.random.bernoulli(own, 1 - rate, leaf.shape), leaf / (1 - rate), 0)

    return jax.tree_util.tree_map_with_path(drop, variables)
