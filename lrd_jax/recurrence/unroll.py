"""Time: the only place that unrolls a cell; the choice among the ways to do it."""

from __future__ import annotations

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.errors import UserError
from lrd_jax.recurrence.controls import (
    Controls,
)
from lrd_jax.recurrence.fused import unroll_fused
from lrd_jax.recurrence.perturbations import perturbed
from lrd_jax.recurrence.scan import unroll_scan

BACKENDS = ("auto", "scan", "fused")


def choose_backend(backend: str, cell: RecurrentCell) -> str:
    """Resolves `model.backend` for a cell.

    `auto` is `fused` for every cell that allows it; `scripts/bench_recurrence.py` compares the two.

    Raises:
      UserError: unknown backend, or `fused` for a cell whose step it cannot express.
    """
    if backend not in BACKENDS:
        raise UserError(f"model.backend={backend!r} is unknown; use one of {', '.join(BACKENDS)}")
    if backend == "fused" and not cell.pointwise:
        raise UserError(
            f"model.backend=fused cannot run {type(cell).__name__}, whose recurrent product stands"
            " inside a nonlinearity; use model.backend=scan"
        )
    if backend == "auto":
        return "fused" if cell.pointwise else "scan"
    return backend


def unroll(
    cell: RecurrentCell,
    carry: Carry,
    x: Array,
    controls: Controls = Controls(),  # noqa: B008 - immutable
    backend: str = "auto",
    recompute: bool = False,
) -> tuple[Carry, Carry]:
    """Applies a cell to a sequence, time first.

    Args:
      cell: a bound cell.
      carry: state before the first step, leaves `(batch, d)`.
      x: inputs, `(time, batch, n)`; projected for all steps in one matmul.
      controls: detaching, truncation and padding.
      backend: `auto`, `scan` or `fused`.
      recompute: fused path: compute pre-activations again in the backward pass, not store them.

    Returns:
      The state after the last step, and the states after every step, leaves `(time, batch, d)`.
    """
    x = x.astype(cell.param_dtype)
    if perturbed(cell):
        if backend not in ("auto", "scan"):
            raise UserError(
                f"perturbations stand in the scan path alone: use backend=scan, not {backend}"
            )
        backend = "scan"
    if choose_backend(backend, cell) == "fused":
        return unroll_fused(cell, carry, x, controls, recompute)
    return unroll_scan(cell, carry, x, controls)
