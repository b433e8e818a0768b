"""Reference path: `nn.scan` over `cell.step`, differentiated by JAX."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.recurrence.controls import Controls, stop_where, where_mask
from lrd_jax.recurrence.perturbations import COLLECTION, perturbed


def unroll_scan(
    cell: RecurrentCell, carry: Carry, x: Array, controls: Controls
) -> tuple[Carry, Carry]:
    """Reference path: `nn.scan` over `cell.step`; arguments as for `unroll`, time first."""
    points = perturbed(cell)

    def step(cell: RecurrentCell, carry: Any, inputs: tuple[Array, Controls]) -> tuple[Any, Any]:
        zx, controls = inputs
        carry = stop_where(controls.cut, carry)
        h = stop_where(controls.block_h, carry.h)
        seen = carry
        if controls.block_c is not None:
            seen = carry._replace(c=stop_where(controls.block_c, carry.c))
        new = cell.step(seen, zx, h)
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
