"""What the ways with a gradient of their own share: both products, and how JAX is told of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry
from lrd_jax.cells.forms import PointwiseCell
from lrd_jax.recurrence.controls import Controls
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.second_order import derivative_of, refuse_derivative, stops_gradients

_NARROW = 4  # input features up to which the projection stays in the loop


def project(weights: Any, x: Array) -> Array:
    """What the input gives to the pre-activations, `(..., n) -> (..., K)`.

    Args:
      weights: as `weights_of` gives them.
      x: inputs; of few features they are added one by one, which needs no product.
    """
    (kernel, bias), _ = weights
    if not is_narrow(x):
        return x @ kernel + bias
    for i in range(x.shape[-1]):
        bias = bias + x[..., i : i + 1] * kernel[i]
    return bias


def is_narrow(x: Array) -> bool:
    """Whether inputs, `(..., n)`, are projected where they are read."""
    return x.shape[-1] <= _NARROW


def weights_of(cell: PointwiseCell, x: Array) -> Any:
    """Weights and biases of both products of a bound cell.

    Args:
      cell: bound to its parameters.
      x: inputs, `(..., n)`; their width counts.

    Returns:
      `((n, K), (K,))` of the input, and `((d, K), (K,) or None)` of what enters the recurrent
      product, whose kernel has `d` rows for each of `cell.recurrent_inputs`.
    """
    return cell.input_weights(x.shape[-1]), cell.recurrent_weights()


def weight_gradients(
    cell: PointwiseCell, weights: Any, x: Array, before: Any, dzh: Array, dzx: Array | None
) -> tuple[Any, Array]:
    """Gradients of weights and inputs from those of the pre-activations, all steps at once.

    Args:
      cell: of the recurrence.
      weights: as `weights_of` gives them.
      x: inputs, `(time, batch, n)`.
      before: the states that enter the steps.
      dzh: gradient of the recurrent part of the pre-activations, `(time, batch, K)`.
      dzx: of the input part; None where it is the same.
    """
    (kernel_in, _), (kernel, bias) = weights

    def gradient(rows: list[Array], dz: Array) -> Array:
        """Gradient of the stacked weights that `rows` were multiplied with."""
        stacked = jnp.concatenate(rows, axis=-1)
        return cell.dot(stacked.reshape(-1, stacked.shape[-1]).T, dz.reshape(-1, dz.shape[-1]))

    # With a column of ones for the bias, one pass over dz gives all gradients.
    from_input = [x, jnp.ones_like(x[..., :1])]
    if dzx is None:
        dzx = dzh
        both = gradient([cell.recurrent_input(before), *from_input], dzh)
        d_kernel, d_input = jnp.split(both, [kernel.shape[0]])
    else:
        d_kernel = gradient([cell.recurrent_input(before)], dzh)
        d_input = gradient(from_input, dzx)
    d_bias = None if bias is None else dzh.sum((0, 1))
    return ((d_input[:-1], d_input[-1]), (d_kernel, d_bias)), dzx @ kernel_in.T


def run_passes(
    plain: tuple[Callable[..., Any], Callable[..., Any]],
    fast: tuple[Callable[..., Any], Callable[..., Any]],
    cell: PointwiseCell,
    carry: Carry,
    x: Array,
    controls: Controls,
    options: Options,
    primal: Callable[..., Any] | None = None,
) -> tuple[Carry, Carry]:
    """Unrolls a cell by a forward and a backward pass.

    Args:
      plain: both, as `passes` gives them, for JAX to differentiate.
      fast: both, equal in value, to be run.
      cell: a bound cell.
      carry: as for `unroll`, like the four below.
      x: of `unroll`.
      controls: of `unroll`.
      options: of `unroll`.
      primal: the forward pass where nothing is differentiated; None: that of `fast`.

    Returns:
      As `unroll`.
    """
    (plain_forward, plain_back), (forward, pull_back) = plain, fast
    primal = primal or forward
    if stops_gradients(controls):
        primal, forward, differentiable = map(refuse_derivative, (primal, forward, pull_back))
    else:
        differentiable = derivative_of(plain_back, pull_back)
        if forward is not plain_forward:
            forward = derivative_of(plain_forward, forward)

    def backward(residuals: Any, cotangents: Any) -> tuple[Any, ...]:
        d_final, d_states = jax.tree.map(
            lambda d: None if isinstance(d, SymbolicZero) else d,
            cotangents,
            is_leaf=lambda d: isinstance(d, SymbolicZero),
        )
        return differentiable(residuals, d_final, d_states)

    @jax.custom_vjp
    def run(weights: Any, carry: Any, x: Any, controls: Any) -> Any:
        return primal(weights, carry, x, controls)[0]

    def forward_primals(*args: Any) -> Any:
        return forward(*jax.tree.map(lambda p: p.value, args, is_leaf=_is_primal))

    run.defvjp(forward_primals, backward, symbolic_zeros=True)
    return run(weights_of(cell, x), (carry, options.start), x, controls)


def _is_primal(x: Any) -> bool:
    return hasattr(x, "perturbed")
