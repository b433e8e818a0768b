"""Fast path: a backward pass of its own, in which the loop over time holds a single product.

It is for a `PointwiseCell`, whose step is `update(carry, zx, h @ U)`. The gradient of `U` is formed
in one matmul after the loop. Differentiating a scan instead adds an `(d, K)` product and a
read-modify-write of the whole weight gradient to every step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.cells.forms import AdditiveCell, PointwiseCell
from lrd_jax.errors import UserError, one_line
from lrd_jax.recurrence.controls import Controls, between, put_back, where_mask, zone_out
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.passes import is_narrow, project, run_passes, weight_gradients

_STRETCH = 32  # steps whose pre-activations exist at once where they are computed again


@functools.cache
def _read(axis: int) -> Callable[[Array, Array], Array]:
    """Returns `(stack, at) -> row` along an axis; under `vmap` a slice too, not a gather."""

    @custom_vmap
    def read(stack: Array, at: Array) -> Array:
        return lax.dynamic_index_in_dim(stack, at, axis, keepdims=False)

    @read.def_vmap
    def _(size: int, batched: list[bool], stack: Array, at: Array) -> tuple[Array, bool]:
        return _read(axis + 1)(stack, at), True

    return read


@functools.cache
def _write(axis: int) -> Callable[[Array, Array, Array], Array]:
    """Returns `(stack, row, at) -> stack` along an axis; under `vmap` not a scatter either.

    JAX batches a dynamic update into a scatter, which XLA's CPU compiler runs row by row.
    """

    @custom_vmap
    def write(stack: Array, row: Array, at: Array) -> Array:
        return lax.dynamic_update_index_in_dim(stack, row, at, axis)

    @write.def_vmap
    def _(
        size: int, batched: list[bool], stack: Array, row: Array, at: Array
    ) -> tuple[Array, bool]:
        stack, row = (
            x if has else jnp.broadcast_to(x, (size, *x.shape))
            for x, has in zip((stack, row), batched, strict=False)
        )
        return _write(axis + 1)(stack, row, at), True

    return write


def _without_parameters(function: Callable[..., Carry]) -> Callable[..., Carry]:
    """A method of a cell that has no parameters, saying so where it wants one."""

    def called(*args: Any) -> Carry:
        try:
            return function(*args)
        except AttributeError as error:
            raise UserError(
                f"the step of {type(function.__self__).__name__} may not read parameters"
                f" ({one_line(str(error))}): derive it from RecurrentCell, and override step"
            ) from error

    return called


def refuses(cell: RecurrentCell, options: Options) -> str:
    """See `unroll.Backend`."""
    del options
    if not isinstance(cell, PointwiseCell):
        return "its step is not update(carry, zx, zh) of a single recurrent product"
    if cell.layer_norm:
        return "the gains of layer_norm act inside its step"
    return ""


def unroll_fused(
    cell: RecurrentCell, carry: Carry, x: Array, controls: Controls, options: Options
) -> tuple[Carry, Carry]:
    """See `unroll.Backend`: custom backward, weight gradient in one matmul after the loop.

    Stored for the backward pass, per step and example: the state that enters the step (2 d for a
    cell with c) and the pre-activations (K for an additive cell, else twice K: both parts). The
    gradients of the pre-activations take the place of these, so that the backward pass needs no
    second array of that size, whose first touch and traffic cost as much as the arithmetic.

    With `recompute` only the states are stored. The backward pass goes through stretches of
    `_STRETCH` steps, and computes the pre-activations of each again, in one product.

    The input projection is hoisted out of the loop, but for an input of a few features: there the
    product costs less than writing its result, `(time, batch, K)`, and reading it back.

    The gradient is differentiable in turn, to any order: then the loop of the backward pass hands
    gradients out instead of writing them in place. Where gradients are stopped, that is refused.
    """
    assert isinstance(cell, PointwiseCell)
    forward, pull_back = passes(cell, x, options)
    fast = functools.partial(pull_back, in_place=True)
    return run_passes((forward, pull_back), (forward, fast), cell, carry, x, controls, options)


def passes(
    cell: PointwiseCell, x: Array, options: Options
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The forward and the backward pass.

    Args:
      cell: a bound cell.
      x: inputs, `(time, batch, n)`; their width counts.
      options: of the call.

    Returns:
      `forward(weights, (carry, start), x, controls)` to the results of `unroll` and residuals, and
      `pull_back(residuals, d_final, d_states, in_place=False)` to the gradients of the arguments of
      `forward`. With `in_place` it is faster, and JAX cannot differentiate it.
    """
    pure: Any = cell.clone(parent=None, name=None)  # has no parameters
    update, advance = _without_parameters(pure.update), None
    if additive := isinstance(cell, AdditiveCell):
        advance = _without_parameters(pure.advance)
    dot = cell.dot
    names, recompute = cell.recurrent_inputs, options.recompute
    narrow = is_narrow(x)

    def recur(weights: Any, h: Array) -> Array:
        """The recurrent part of the pre-activations, `(batch, d) -> (batch, K)`."""
        _, (kernel, bias) = weights
        zh = dot(h, kernel)
        return zh if bias is None else zh + bias

    def forward(weights: Any, carry: Any, x: Array, controls: Controls) -> tuple[Any, Any]:
        """All steps: results of `unroll`, and residuals."""
        carry, start = carry
        source = x if narrow else project(weights, x)

        def step(carry: Any, inputs: tuple[Array, Controls]) -> tuple[Any, Any]:
            """One step: the state after it, and what the backward pass needs of it.

            Kept are the state before, the pre-activations `(batch, K)` (the sum of both parts of an
            additive cell, else the recurrent one; None if recomputed), and the state after, where
            resets make it differ from the next one before.
            """
            source, controls = inputs
            carry = put_back(controls.reset, start, carry)
            zx = project(weights, source) if narrow else source
            zh = recur(weights, cell.recurrent_input(carry))
            new = zone_out(controls, carry, update(carry, zx, zh))
            if controls.valid is not None:
                valid = controls.valid
                new = jax.tree.map(lambda new, old: where_mask(valid, new, old), new, carry)
            kept = None if recompute else (zx + zh if additive else zh)
            return new, (carry, kept, None if controls.reset is None else new)

        final, (before, kept, states) = lax.scan(step, carry, (source, controls))
        # The state after step t is the one before step t + 1: storing only the latter saves the
        # backward pass a copy, and costs nothing here unless somebody reads all the states.
        # With resets they differ where a segment begins.
        if controls.reset is None:
            states = jax.tree.map(
                lambda s, last: jnp.concatenate([s[1:], last[None]]), before, final
            )
        needed = None if recompute or additive else source
        return (final, states), (weights, x, before, kept, needed, controls)

    def pull_back(
        residuals: Any, d_final: Any, d_states: Any, in_place: bool = False
    ) -> tuple[Any, ...]:
        """Gradients of all arguments, from those of the results; None = zero by construction."""
        weights, x, before, kept, source, controls = residuals
        kernel = weights[1][0]
        d_final = jax.tree.map(
            lambda s, d: jnp.zeros_like(s[0]) if d is None else d,
            before,
            d_final,
            is_leaf=lambda d: d is None,
        )
        kernel_t = kernel.T
        # Gradients of the state and of the start that resets put back.
        d_start = None
        if controls.reset is not None:
            d_start = jax.tree.map(lambda s: jnp.zeros_like(s[0]), before)
        d_last = d_final, d_start

        def step(state: Any, inputs: Any) -> tuple[Any, Any]:
            """One step back, in the reverse order of `Controls`.

            Args:
              state: gradients of the state after it, leaves `(batch, d)`, and of the start.
              inputs: its pre-activations, state before, inputs, controls, and the gradient of the
                state after it that readers of all states send, None where there are none.

            Returns:
              Gradients of the state before it and of the start; those of the pre-activations,
              `(batch, K)`, of an additive cell one for both parts.
            """
            d, d_start = state
            z, carry, source, controls, d_state = inputs
            zx: Any = project(weights, source) if narrow and source is not None else source
            d = jax.tree.map(
                lambda d, e: d if e is None else d + e, d, d_state, is_leaf=lambda e: e is None
            )
            held = None
            if controls.valid is not None:
                valid = controls.valid
                held = jax.tree.map(lambda d: where_mask(valid, jnp.zeros_like(d), d), d)
                d = jax.tree.map(lambda d: where_mask(valid, d, 0.0), d)
            zoned = controls.zoned()
            kept = {name: between(mask, getattr(d, name), 0.0) for name, mask in zoned.items()}
            for name, mask in zoned.items():
                d = d._replace(**{name: between(mask, 0.0, getattr(d, name))})
            if advance is not None:
                _, pull = jax.vjp(advance, carry, z)
                d, dz = pull(d)
                dzx = None
            else:
                _, pull = jax.vjp(update, carry, zx, z)
                d, dzx, dz = pull(d)
            # Read by the product below and stored: not to be computed for each. On a GPU too: what
            # is computed once here takes a kernel less.
            dz = lax.optimization_barrier(dz)
            dh = dot(dz, kernel_t)
            if controls.block_h is not None:
                dh = where_mask(controls.block_h, jnp.zeros_like(dh), dh)
            d = d._replace(**{name: getattr(d, name) + own for name, own in kept.items()})
            if controls.block_c is not None:
                d = d._replace(c=where_mask(controls.block_c, jnp.zeros_like(d.c), d.c))
            width = dh.shape[-1] // len(names)
            for part, name in enumerate(names):
                own = dh if len(names) == 1 else dh[..., part * width : (part + 1) * width]
                d = d._replace(**{name: getattr(d, name) + own})
            if held is not None:
                d = jax.tree.map(jnp.add, d, held)
            if controls.cut is not None:
                cut = controls.cut
                d = jax.tree.map(lambda d: where_mask(cut, jnp.zeros_like(d), d), d)
            if controls.reset is not None:
                reset = controls.reset
                d_start = jax.tree.map(
                    lambda total, d: total + where_mask(reset, d, 0.0), d_start, d
                )
                d = jax.tree.map(lambda d: where_mask(reset, jnp.zeros_like(d), d), d)
            return (d, d_start), (dz, dzx)

        def step_in_place(state: Any, inputs: Any) -> tuple[Any, Any]:
            """`step` that writes gradients over the pre-activations they were made of."""
            d, stored = state  # pre-activations of the steps to come, gradients of those done
            at, inputs = inputs
            d, (dz, dzx) = step(d, (_read(0)(stored, at), *inputs))
            return (d, _write(0)(stored, dz, at)), dzx

        def loop(d: Any, kept: Array, inputs: Any) -> tuple[Any, Any, Any]:
            """Through steps in a row: gradients of the state before and the pre-activations."""
            if in_place:
                steps = (jnp.arange(len(kept)), inputs)
                (d, dzh), dzx = lax.scan(step_in_place, (d, kept), steps, reverse=True)
            else:
                d, (dzh, dzx) = lax.scan(step, d, (kept, *inputs), reverse=True)
            return d, dzh, dzx

        def go_back(d: Any, stretch: Any) -> tuple[Any, Any, Array]:
            """Through steps in a row: gradients of the state before, the weights, the inputs."""
            x, before, kept, source, controls, d_states = stretch
            if recompute:
                kept = recur(weights, cell.recurrent_input(before))
                if additive:
                    kept = kept + project(weights, x)
                else:
                    source = x if narrow else project(weights, x)
            d, dzh, dzx = loop(d, kept, (before, source, controls, d_states))
            d_weights, dx = weight_gradients(cell, weights, x, before, dzh, dzx)
            return d, d_weights, dx

        everything = (x, before, kept, source, controls, d_states)
        if not recompute:
            d_carry, d_weights, dx = go_back(d_last, everything)
            return d_weights, d_carry, dx, None

        whole, rest = divmod(len(x), _STRETCH)
        d, d_weights = d_last, jax.tree.map(jnp.zeros_like, weights)
        parts: list[Array] = []  # of dx, in the order of time
        if rest:
            latest = jax.tree.map(lambda a: a[-rest:], everything)
            d, d_weights, latest_dx = go_back(d, latest)
            parts = [latest_dx]
        if whole:

            def add_stretch(done: Any, stretch: Any) -> tuple[Any, Array]:
                d, d_weights = done
                d, more, stretch_dx = go_back(d, stretch)
                return (d, jax.tree.map(jnp.add, d_weights, more)), stretch_dx

            earlier = jax.tree.map(
                lambda a: a[: whole * _STRETCH].reshape(whole, _STRETCH, *a.shape[1:]), everything
            )
            (d, d_weights), each = lax.scan(add_stretch, (d, d_weights), earlier, reverse=True)
            parts = [each.reshape(-1, *each.shape[2:]), *parts]
        return d_weights, d, jnp.concatenate(parts), None

    return forward, pull_back
