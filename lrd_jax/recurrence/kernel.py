"""The persistent kernel: a sequence in one launch forward and one backward, on a GPU of NVIDIA's.

See docs/gpu.md. Gradients of weights and inputs are formed outside of it, as on the fused path,
whose passes also stand in where JAX differentiates the gradient once more.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.cells.forms import AdditiveCell, PointwiseCell
from lrd_jax.errors import one_line
from lrd_jax.kernels import routes
from lrd_jax.kernels.blocks import UnsupportedError
from lrd_jax.kernels.source import BITS, DROPS_PRODUCT, ROWS_A_TILE, CallCode, CellCode, cell_code
from lrd_jax.recurrence import fused
from lrd_jax.recurrence.controls import Controls
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.passes import is_narrow, project, run_passes, weight_gradients

_log = logging.getLogger(__name__)


def refuses(cell: RecurrentCell, options: Options) -> str:
    """See `unroll.Backend`."""
    if options.recompute:
        return "recompute is of the fused backend"
    try:
        routes.current()
        cell_code(_unbound(cell))
    except UnsupportedError as error:
        return one_line(str(error))
    return ""


def unroll_kernel(
    cell: RecurrentCell, carry: Carry, x: Array, controls: Controls, options: Options
) -> tuple[Carry, Carry]:
    """See `unroll.Backend`: both loops over time are kernels of our own.

    Stored for the backward pass: as on the fused path. Where the kernel cannot run this call, the
    fused path does, and a line says why.
    """
    assert isinstance(cell, PointwiseCell)
    route, code = routes.current(), cell_code(_unbound(cell))
    call = CallCode(len(x), x.shape[1], sum(BITS[name] for name in _masks(controls)))
    call = call._replace(bias=cell.recurrent_weights()[1] is not None)
    try:
        if controls.zoned():
            raise UnsupportedError("it has no zoneout")
        if not x.size:
            raise UnsupportedError("there is nothing to compute")
        routes.prepare(route, code, call)
    except UnsupportedError as error:
        tell_once(f"model.backend=kernel: {one_line(str(error))}; fused takes its place")
        return fused.unroll_fused(cell, carry, x, controls, options)
    plain = fused.passes(cell, x, options)
    forward = functools.partial(_forward, cell, route, code, call)
    pull_back = functools.partial(_pull_back, cell, route, code, call)
    primal = functools.partial(_forward, cell, route, code, call._replace(keep=False))
    return run_passes(plain, (forward, pull_back), cell, carry, x, controls, options, primal)


def _unbound(cell: RecurrentCell) -> Any:
    return cell.clone(parent=None, name=None)


def _forward(
    cell: PointwiseCell,
    route: routes.Route,
    code: CellCode,
    call: CallCode,
    weights: Any,
    carry: Any,
    x: Array,
    controls: Controls,
) -> tuple[Any, Any]:
    """The forward pass of `fused.passes` by a kernel."""
    (carry, start), additive = carry, isinstance(cell, AdditiveCell)
    kernel, bias = weights[1]
    source = x if is_narrow(x) else project(weights, x)
    zx = project(weights, x) if is_narrow(x) else source
    mask, _ = _pack(controls, call)
    inputs = [zx, kernel, _nothing() if bias is None else bias]
    inputs += [*carry, *([_nothing()] * len(carry) if start is None else start), mask]
    states = [jax.ShapeDtypeStruct((call.steps, *leaf.shape), jnp.float32) for leaf in carry]
    after = states if controls.reset is not None else [_nothing()] * len(carry)
    outputs = [*states, *carry, *after, zx if call.keep else _nothing()]
    *found, kept = _run(route, code, call, False, inputs, outputs)
    n, make = len(carry), type(carry)
    before, final, after = (make(*found[i * n : (i + 1) * n]) for i in range(3))
    if controls.reset is None:  # as on the fused path: the state after a step enters the next
        after = jax.tree.map(lambda s, last: jnp.concatenate([s[1:], last[None]]), before, final)
    return (final, after), (weights, x, before, kept, None if additive else source, controls)


def _pull_back(
    cell: PointwiseCell,
    route: routes.Route,
    code: CellCode,
    call: CallCode,
    residuals: Any,
    d_final: Any,
    d_states: Any,
) -> tuple[Any, ...]:
    """The backward pass of `fused.passes` by a kernel."""
    weights, x, before, kept, source, controls = residuals
    zeros = [jnp.zeros_like(leaf[0]) for leaf in before]
    last = [z if d is None else d for z, d in zip(zeros, d_final, strict=True)]
    every = [*d_states]
    call = call._replace(every=sum(1 << i for i, d in enumerate(every) if d is not None))
    every = [_nothing() if d is None else d for d in every]
    zx = _nothing()
    if not code.additive:
        zx = project(weights, source) if is_narrow(x) else source
    mask, skip = _pack(controls, call)
    inputs = [weights[1][0], kept, zx, *before, *last, *every, _scale([*last, *every]), mask, skip]
    outputs = [kept, _nothing() if code.additive else kept, *zeros]
    outputs += zeros if controls.reset is not None else [_nothing()] * len(zeros)
    dzh, dzx, *found = _run(route, code, call, True, inputs, outputs)
    n, make = len(zeros), type(before)
    d_start = None if controls.reset is None else make(*found[n:])
    d_weights, dx = weight_gradients(cell, weights, x, before, dzh, None if code.additive else dzx)
    return d_weights, (make(*found[:n]), d_start), dx, None


def _run(
    route: routes.Route, code: CellCode, call: CallCode, backward: bool, inputs: Any, outputs: Any
) -> list[Array]:
    """A kernel for one member."""
    found = routes.run(route, code, call, backward, [a[None] for a in inputs], outputs)
    return [array[0] for array in found]


def _nothing() -> Array:
    """In the place of an array that this call has not."""
    return jnp.zeros(1, jnp.float32)


def _masks(controls: Controls) -> dict[str, Array]:
    """The masks that are in force, by their names in `BITS`."""
    hold = None if controls.valid is None else ~controls.valid
    named = controls._asdict() | {"hold": hold}
    return {name: mask for name in BITS if (mask := named[name]) is not None}


def _pack(controls: Controls, call: CallCode) -> tuple[Array, Array]:
    """Masks as bytes, `(time, batch)`, and where a tile needs no product, `(time, tiles)`."""
    masks = _masks(controls)
    if not masks:
        return jnp.zeros(1, jnp.uint8), jnp.zeros(1, jnp.uint8)
    shape = (call.steps, call.rows)
    packed = jnp.zeros(shape, jnp.uint8)
    for name, mask in masks.items():
        mask = mask.reshape(call.steps, -1)
        packed = packed | jnp.where(mask, jnp.uint8(BITS[name]), jnp.uint8(0))
    missing = call.tiles * ROWS_A_TILE - call.rows
    dropped = jnp.pad(packed & DROPS_PRODUCT != 0, ((0, 0), (0, missing)), constant_values=True)
    skip = dropped.reshape(call.steps, call.tiles, ROWS_A_TILE).all(-1)
    return packed, skip.astype(jnp.uint8)


def _scale(gradients: list[Array]) -> Array:
    """The power of two that takes the largest of some gradients to [1, 2), `(1)[0]`."""
    largest = functools.reduce(jnp.maximum, [jnp.abs(d).max() for d in gradients])
    exponent = lax.bitcast_convert_type(largest, jnp.int32) >> 23
    # Its inverse is a normal number, too.
    return lax.bitcast_convert_type(jnp.clip(254 - exponent, 1, 253) << 23, jnp.float32)


@functools.cache
def tell_once(text: str) -> None:
    """Logs a warning, once in a process."""
    _log.warning("%s", text)
