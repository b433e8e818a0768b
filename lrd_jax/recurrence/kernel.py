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

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.cells.forms import PointwiseCell
from lrd_jax.errors import one_line
from lrd_jax.kernels import routes
from lrd_jax.kernels.blocks import UnsupportedError
from lrd_jax.kernels.source import BITS, DROPS_PRODUCT, ROWS_A_TILE, CallCode, CellCode, cell_code
from lrd_jax.recurrence import fused
from lrd_jax.recurrence.controls import Controls
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.passes import is_narrow, project, run_passes, weight_gradients

_log = logging.getLogger(__name__)
_NOTHING = jax.ShapeDtypeStruct((1,), jnp.float32)  # a result that this call has not


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
    masks = _masks(controls)
    call = CallCode(
        steps=len(x),
        rows=x.shape[1],
        controls=sum(BITS[name] for name in masks if not _of_batch(name, masks)),
        skips=any(BITS[name] & DROPS_PRODUCT for name in masks),
    )
    call = call._replace(bias=cell.recurrent_weights()[1] is not None)
    call = call._replace(narrow=x.shape[-1] if is_narrow(x) else 0)
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
    carry, start = carry
    kernel, bias = weights[1]
    source = x if call.narrow else project(weights, x)
    mask, _ = _pack(controls, call) or (kernel, kernel)
    # What a call has not is in its place: a kernel has all of its parameters, and reads it not.
    inputs = [source, *weights[0], kernel, kernel if bias is None else bias]
    inputs += [*carry, *([kernel] * len(carry) if start is None else start), mask]
    states = [jax.ShapeDtypeStruct((call.steps, *leaf.shape), jnp.float32) for leaf in carry]
    after = states if controls.reset is not None else [_NOTHING] * len(carry)
    packed = jax.ShapeDtypeStruct((call.steps, call.rows, kernel.shape[1]), jnp.float32)
    outputs = [*states, *carry, *after, packed if call.keep else _NOTHING]
    *found, kept = _run(route, code, call, False, inputs, outputs, {})
    n, make = len(carry), type(carry)
    before, final, after = (make(*found[i * n : (i + 1) * n]) for i in range(3))
    if controls.reset is None:  # as on the fused path: the state after a step enters the next
        after = jax.tree.map(lambda s, last: jnp.concatenate([s[1:], last[None]]), before, final)
    return (final, after), (weights, x, before, kept, None if code.additive else source, controls)


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
    every = sum(1 << i for i, d in enumerate(d_states) if d is not None)
    kernel = weights[1][0]
    largest = kernel
    if every:
        incoming = [d for d in (*d_final, *d_states) if d is not None]
        largest = functools.reduce(jnp.maximum, [jnp.abs(d).max() for d in incoming])
    mask, skip = _pack(controls, call) or (kernel, kernel)
    inputs = [kernel if source is None else source, *weights[0], kernel, kept, *before, *last]
    inputs += [*(kernel if d is None else d for d in d_states), largest, mask, skip]
    outputs = [kept, _NOTHING if code.additive else kept, *zeros]
    outputs += zeros if controls.reset is not None else [_NOTHING] * len(zeros)
    call = call._replace(every=every)
    # As on the fused path, gradients take the place of the pre-activations.
    in_place = {4: 0} | ({} if code.additive or call.narrow else {0: 1})
    dzh, dzx, *found = _run(route, code, call, True, inputs, outputs, in_place)
    n, make = len(zeros), type(before)
    d_start = None if controls.reset is None else make(*found[n:])
    d_weights, dx = weight_gradients(cell, weights, x, before, dzh, None if code.additive else dzx)
    return d_weights, (make(*found[:n]), d_start), dx, None


def _run(
    route: routes.Route,
    code: CellCode,
    call: CallCode,
    backward: bool,
    inputs: Any,
    outputs: Any,
    in_place: dict[int, int],
) -> list[Array]:
    """A kernel for one member."""
    found = routes.run(route, code, call, backward, [a[None] for a in inputs], outputs, in_place)
    return [array[0] for array in found]


def _masks(controls: Controls) -> dict[str, Array]:
    """The masks that are in force, by their names in `BITS`."""
    hold = None if controls.valid is None else ~controls.valid
    named = controls._asdict() | {"hold": hold}
    return {name: mask for name in BITS if (mask := named[name]) is not None}


def _of_batch(name: str, masks: dict[str, Array]) -> bool:
    """Whether steps without a product are all that a mask makes: h-detach, by mini-batch."""
    return name == "block_h" and masks[name].ndim == 1


def _pack(controls: Controls, call: CallCode) -> tuple[Array, Array] | None:
    """Masks as bytes, `(time, batch)`, and where a tile needs no product, `(time, tiles)`.

    None where no mask is in force.
    """
    masks = _masks(controls)
    if not masks:
        return None
    shape = (call.steps, call.rows)
    packed = jnp.zeros(shape, jnp.uint8)
    for name, mask in masks.items():
        mask = mask.reshape(call.steps, -1)
        packed = packed | jnp.where(mask, jnp.uint8(BITS[name]), jnp.uint8(0))
    missing = call.tiles * ROWS_A_TILE - call.rows
    dropped = jnp.pad(packed & DROPS_PRODUCT != 0, ((0, 0), (0, missing)), constant_values=True)
    skip = dropped.reshape(call.steps, call.tiles, ROWS_A_TILE).all(-1)
    return packed, skip.astype(jnp.uint8)


@functools.cache
def tell_once(text: str) -> None:
    """Logs a warning, once in a process."""
    _log.warning("%s", text)
