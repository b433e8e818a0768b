"""What a cell refuses of the arguments of a call: shapes and dtypes, which are always known."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lrd_jax.arrays import Array
from lrd_jax.errors import UserError


def as_reals(name: str, value: Any) -> Array:
    """Returns real numbers as an array of JAX.

    Raises:
      UserError: they are none.
    """
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name} is of type {type(value).__name__}, and must be an array"
        ) from error
    if jnp.iscomplexobj(array):
        raise UserError(f"{name} is {described(array)}, and must be real numbers")
    return array


def described(x: Any) -> str:
    """Dtype and shape, e.g. "float32[2, 3]"."""
    return f"{x.dtype}{list(x.shape)}"


def kind(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Shape, and whether the numbers are real, complex, or none of these."""
    dtype = jnp.result_type(leaf)
    return np.shape(leaf), "f" if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype).kind


def check_carry(cell: Any, carry: Any, inputs: Array) -> Any:
    """Returns the state before a step as the cell's `carry_type`.

    Args:
      cell: whose state it should be.
      carry: what was given.
      inputs: `(batch..., n)`, of this step.

    Raises:
      UserError: it has not the cell's leaves, or they are of another batch or number of units.
    """
    zero = jax.eval_shape(lambda: cell.initialize_carry(None, inputs.shape))
    leaves = tuple(carry) if isinstance(carry, tuple | list) else ()
    arrays = all(hasattr(leaf, "dtype") for leaf in leaves)
    if not arrays or [*map(kind, leaves)] != [*map(kind, zero)]:
        shown = ", ".join(f"{name} {described(x)}" for name, x in zero._asdict().items())
        raise UserError(
            f"the carry does not fit: {type(cell).__name__} needs"
            f" {type(zero).__name__}({shown}) for inputs of shape {list(inputs.shape)}; begin with"
            " initialize_carry(key, inputs.shape)"
        )
    return cell.carry_type(*leaves)


def check_input_shape(shape: Any) -> tuple[int, ...]:
    """Returns the shape of an input, `(batch..., n)`, as a tuple.

    Raises:
      UserError: it is none.
    """
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    if not sizes or not all(map(_is_size, sizes)):
        raise UserError(f"input_shape={shape!r}: must be the shape of an input, (batch..., n)")
    return sizes


def _is_size(size: Any) -> bool:
    """A number of elements, or one that is left open while a program is exported."""
    if isinstance(size, int | np.integer):
        return bool(size >= 0)
    return bool(export.is_symbolic_dim(size))


def check_made_for(module: nn.Module, name: str, features: int, shape: tuple[int, ...]) -> None:
    """Raises UserError where a parameter was made for inputs of another width.

    Args:
      module: holds the parameter, or will.
      name: of the parameter.
      features: of the input.
      shape: that the parameter has for these.
    """
    if not module.has_variable("params", name):
        return
    made = np.shape(module.get_variable("params", name))
    if made != shape:
        raise UserError(
            f"the input has {features} features, and the parameters were made for another number:"
            f" {'/'.join((*module.path, name))} is {list(made)}, and would be {list(shape)}"
        )
