r"""Parallel path: the state of a `LinearCell` at all steps by one associative scan.

A step is $s_t = a_t s_{t-1} + b_t$. Two steps in a row are one of the same form, so that T of
them take about $2 \log_2 T$ rounds of products of elements (Blelloch 1990, "Prefix Sums and Their
Applications"; for recurrences Martin and Cundy 2018, arXiv 1709.04057).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, RecurrentCell
from lrd_jax.cells.forms import LinearCarry, LinearCell
from lrd_jax.cells.prefix import prefix
from lrd_jax.recurrence.controls import Controls, put_back, stop_where, where_mask
from lrd_jax.recurrence.options import Options


def refuses(cell: RecurrentCell, options: Options) -> str:
    """See `unroll.Backend`."""
    if not isinstance(cell, LinearCell):
        return "it runs a LinearCell alone, whose state is a diagonal linear recurrence"
    if "context" in cell.asks():
        return "it shows no context to the steps"
    del options
    return ""


def _shift(first: Array, states: Array) -> Array:
    """The state before each step."""
    return jnp.concatenate([first[None], states[:-1]])


def linear_recurrence(a: Array, b: Array) -> Array:
    """States of $s_t = a_t s_{t-1} + b_t$ from $s_{-1} = 0$, differentiable to any order.

    The states solve $s_t - a_t s_{t-1} = b_t$. Telling JAX so gives both directions of
    differentiation as such systems too: the gradient of b is the same scan run backwards, and
    that of a its product with the states, of which alone a copy is kept.

    Args:
      a: `(time, ...)`; the first one meets nothing.
      b: `(time, ...)`.
    """

    def residual(s: Array) -> Array:
        return s - a * _shift(jnp.zeros_like(s[0]), s)

    def solve(_: Any, b: Array) -> Array:
        return prefix(a, b)

    def solve_transposed(_: Any, b: Array) -> Array:
        return prefix(jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]), b, reverse=True)

    return lax.custom_linear_solve(residual, b, solve, solve_transposed)


def unroll_linear(
    cell: RecurrentCell, carry: LinearCarry, x: Array, controls: Controls, options: Options
) -> tuple[Carry, Carry]:
    """See `unroll.Backend`."""
    assert isinstance(cell, LinearCell)
    x = cell.project(x)
    asked = {"time": controls.time} if cell.asks() else {}
    a, b = cell.coefficients(x, **asked)
    a, b = (jnp.broadcast_to(value, (*x.shape[:2], *carry.s.shape[1:])) for value in (a, b))
    a, b = (value.astype(carry.s.dtype) for value in (a, b))
    if controls.valid is not None:  # a step of padding leaves the state as it is
        a, b = where_mask(controls.valid, a, 1), where_mask(controls.valid, b, 0)
    first = carry.s  # the start of each segment is in the b of its first step
    if controls.reset is not None:
        first = put_back(controls.reset[0], options.start.s, first)
        back = jnp.broadcast_to(options.start.s, a.shape)
        back = stop_where(controls.cut, back)
        b = b + where_mask(controls.reset.at[0].set(False), a * back, 0)
        a = where_mask(controls.reset.at[0].set(False), jnp.zeros_like(a), a)
    cut = controls.cut
    b = b.at[0].add(a[0] * stop_where(None if cut is None else cut[0], first))
    if cut is not None:
        # The state that enters a stopped step is a constant there: part of its b.
        before = _shift(lax.stop_gradient(first), prefix(*lax.stop_gradient((a, b))))
        stopped = cut.at[0].set(False)
        b = b + where_mask(stopped, a * before, 0)
        a = where_mask(stopped, jnp.zeros_like(a), a)
    s = linear_recurrence(a, b)
    h = cell.read(s, x)
    if controls.valid is not None:  # padding repeats the output of the last valid step
        time = jnp.arange(len(x))[:, None]
        last = lax.cummax(jnp.where(controls.valid, time, -1))[..., None]
        h = jnp.where(last < 0, carry.h, jnp.take_along_axis(h, jnp.maximum(last, 0), axis=0))
    states = LinearCarry(s=s, h=h)
    return jax.tree.map(lambda leaf: leaf[-1], states), states
