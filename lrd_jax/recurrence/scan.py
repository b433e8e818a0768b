"""Reference path: `nn.scan` over `cell.step`, differentiated by JAX. Runs every cell."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.recurrence.controls import Controls, put_back, stop_where, where_mask, zone_out
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.perturbations import COLLECTION, perturbed


def refuses(cell: RecurrentCell, options: Options) -> str:
    """See `unroll.Backend`; refuses no cell."""
    del cell, options
    return ""


def unroll_scan(
    cell: RecurrentCell, carry: Carry, x: Array, controls: Controls, options: Options
) -> tuple[Carry, Carry]:
    """See `unroll.Backend`."""
    asks, points = cell.asks(), perturbed(cell)

    def step(cell: RecurrentCell, carry: Any, inputs: tuple[Array, Controls]) -> tuple[Any, Any]:
        zx, controls = inputs
        carry = put_back(controls.reset, options.start, carry)
        carry = stop_where(controls.cut, carry)
        h = stop_where(controls.block_h, cell.recurrent_input(carry))
        seen = carry
        if controls.block_c is not None:
            seen = carry._replace(c=stop_where(controls.block_c, carry.c))
        found = {"time": controls.time, "context": options.context}
        new = cell.step(seen, zx, h, **{name: found[name] for name in asks})
        new = zone_out(controls, seen, new)
        if points:
            fields = zip(new._fields, new, strict=True)
            new = type(new)(*(cell.perturb(name, value) for name, value in fields))
        if controls.valid is not None:
            valid = controls.valid
            new = jax.tree.map(lambda new, old: where_mask(valid, new, old), new, carry)
        return new, new

    axes: Any = {COLLECTION: 0} if points else {}
    scan = nn.scan(
        step, variable_broadcast="params", variable_axes=axes, split_rngs={"params": False}
    )
    return scan(cell, carry, (cell.project(x), controls))
