"""What the hand-written gradient of the fused path says when it is itself differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from lrd_jax.errors import UserError
from lrd_jax.recurrence.controls import Controls


def stops_gradients(controls: Controls) -> bool:
    """Whether detaching or truncation is in force; padding stops nothing that it does not hold."""
    return any(mask is not None for mask in (controls.block_h, controls.block_c, controls.cut))


def derivative_of(plain: Callable[..., Any], fast: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `fast`, which JAX differentiates as if it were `plain`, equal in value.

    For a fast form that holds what JAX cannot differentiate, such as a batching rule of its own.
    While nothing differentiates it, the compiled program is that of `fast` alone.

    Args:
      plain: pure function of arrays, in terms that JAX differentiates to any order.
      fast: the same function in other terms.
    """
    run = jax.custom_jvp(fast)
    run.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))
    return run


def refuse_derivative(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function`, which raises UserError where somebody differentiates it.

    The fused path stops gradients by hand, in its backward pass alone. Where JAX differentiates
    that pass once more, the stops lack in every term that comes through the states stored for it;
    where it differentiates the forward pass (the value that comes with a `jax.vjp`), in all.
    """
    run = jax.custom_jvp(function)

    def refuse(primals: Any, tangents: Any) -> Any:
        raise UserError(
            "second derivatives with detaching or truncation in force are beyond the fused path;"
            ' use backend="scan", or p_block, c_block and truncate_steps of 0'
        )

    run.defjvp(refuse)
    return run
