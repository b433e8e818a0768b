"""Time: the only place that unrolls a cell; the table of ways to do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.errors import UserError, unknown
from lrd_jax.recurrence import fused, kernel, linear, scan
from lrd_jax.recurrence.controls import Controls
from lrd_jax.recurrence.kernel import tell_once
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.perturbations import perturbed


class Backend(NamedTuple):
    """A way to unroll time: a file with these two functions, and a row of `BACKENDS`.

    Attributes:
      refuses: `(cell, options)` to why it cannot run them here, "" if it can. A way that only
        some platform has asks `jax.default_backend()`. The reason ends a sentence that names
        backend and cell.
      run: `(cell, carry, x, controls, options)` to the state after the last step and the states
        after every step; arguments as for `unroll`.
      by_name: whether it is taken only where it is asked for by name. Then another takes its place
        where it refuses, with a warning.
    """

    refuses: Callable[[RecurrentCell, Options], str]
    run: Callable[[RecurrentCell, Carry, Array, Controls, Options], tuple[Carry, Carry]]
    by_name: bool = False


# In the order in which `auto` asks them: the fastest first.
BACKENDS = {
    "linear": Backend(linear.refuses, linear.unroll_linear),
    "fused": Backend(fused.refuses, fused.unroll_fused),
    "scan": Backend(scan.refuses, scan.unroll_scan),
    # Not one of `auto` until it has been seen to be right, and faster, on a GPU.
    "kernel": Backend(kernel.refuses, kernel.unroll_kernel, by_name=True),
}


def choose_backend(
    backend: str,
    cell: RecurrentCell,
    options: Options = Options(),  # noqa: B008 - immutable
) -> str:
    """Resolves `model.backend` for a cell: `auto` is the first of `BACKENDS` that runs it.

    Args:
      backend: `auto` or a key of `BACKENDS`.
      cell: that is to be unrolled.
      options: of the call.

    Raises:
      UserError: unknown backend, or one that cannot run the cell with these options.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise unknown("model.backend=", backend, ("auto", *BACKENDS))
    reasons = {
        name: entry.refuses(cell, options)
        for name, entry in BACKENDS.items()
        if name == backend or not entry.by_name
    }
    able = [name for name, reason in reasons.items() if not reason]
    if backend in able:
        return backend
    if backend == "auto" and able:
        return able[0]
    name = type(cell).__name__
    if backend != "auto" and BACKENDS[backend].by_name and able:
        tell_once(
            f"model.backend={backend} cannot run {name}: {reasons[backend]}; {able[0]} takes its"
            " place"
        )
        return able[0]
    if backend == "auto":
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"no model.backend runs {name} so: {why}")
    advice = f"; use model.backend={able[0]}" if able else ""
    raise UserError(f"model.backend={backend} cannot run {name}: {reasons[backend]}{advice}")


def unroll(
    cell: RecurrentCell,
    carry: Carry,
    x: Array,
    controls: Controls = Controls(),  # noqa: B008 - immutable
    backend: str = "auto",
    options: Options = Options(),  # noqa: B008 - immutable
) -> tuple[Carry, Carry]:
    """Applies a cell to a sequence, time first.

    Args:
      cell: a bound cell.
      carry: state before the first step, leaves `(batch, d)`.
      x: inputs, `(time, batch, n)`; projected for all steps in one matmul.
      controls: detaching, truncation, padding and resets.
      backend: `auto` or a key of `BACKENDS`.
      options: what else the call asks for.

    Returns:
      The state after the last step, and the states after every step, leaves `(time, batch, d)`.

    Raises:
      UserError: no backend, or not this one, runs the cell so; perturbations elsewhere than in
        `scan`.
    """
    x = x.astype(cell.param_dtype)
    if perturbed(cell):
        if backend not in ("auto", "scan"):
            raise UserError(
                f"perturbations stand in the scan path alone: use backend=scan, not {backend}"
            )
        backend = "scan"
    run = BACKENDS[choose_backend(backend, cell, options)].run
    return run(cell, carry, x, controls, options)
