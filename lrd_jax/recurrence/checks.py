"""What a `Recurrence` refuses: values of its attributes, and arguments of a call.

Shapes and dtypes are always known; values are looked at where they are (not under `jit`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lrd_jax.arrays import Array
from lrd_jax.cells.arguments import as_reals, described, kind
from lrd_jax.cells.base import RecurrentCell
from lrd_jax.errors import UserError, check_choice
from lrd_jax.recurrence.controls import Masks

SCOPES = ("batch", "example")
STACK_MASKS = ("shared", "per_layer")
BLOCKS = ("none", "residual", "prenorm")
TRUNCATE_FROM = ("end", "start")


def check_values(values: Mapping[str, Any], keys: Mapping[str, str] | None = None) -> None:
    """Raises UserError where an attribute has a value that no recurrence can work with.

    Args:
      values: attribute of `Recurrence` -> value, of its type.
      keys: attribute -> what a message calls it, where that is a key of a config.
    """

    def refuse(name: str, legal: str) -> NoReturn:
        raise UserError(f"{(keys or {}).get(name, name)}={values[name]} {legal}")

    for name in ("p_block", "c_block", "zoneout_h", "zoneout_c"):
        if not 0 <= values.get(name, 0) <= 1:
            refuse(name, "is a probability; use a value in [0, 1]")
    for name, known in (
        ("mask_scope", SCOPES),
        ("stack_mask", STACK_MASKS),
        ("block", BLOCKS),
        ("truncate_from", TRUNCATE_FROM),
    ):
        if name in values:
            check_choice((keys or {}).get(name, name), values[name], known)
    for name in ("dropout", "recurrent_dropconnect"):
        if not 0 <= values.get(name, 0) < 1:
            refuse(name, "is a rate; use a value in [0, 1)")
    if values.get("num_layers", 1) < 1:
        refuse("num_layers", "must be 1 or more")
    if values.get("truncate_steps", 0) < 0:
        refuse("truncate_steps", "must be 0 (all the way) or more")


def check_cell(cell: Any) -> None:
    """Raises UserError unless it is a cell that `Recurrence` can unroll."""
    if isinstance(cell, RecurrentCell):
        return
    if isinstance(cell, type):
        raise UserError(f"cell is the class {cell.__name__}: give one of its cells, with its units")
    raise UserError(
        f"cell is of type {type(cell).__name__}, and must be a cell of lrd_jax.cells or one written"
        " as docs/new_cell.md says; flax.linen.RNN unrolls Flax's own"
    )


# What the state of a cell has to have for an option: option -> its key, test, what to say.
_NO_PRODUCT = "acts on what enters the product of the state, and {} has none"
_NO_MEMORY = "needs a cell with a memory c, and {} has none"
_NEEDS: dict[str, tuple[str, Callable[[RecurrentCell], bool], str]] = {
    "p_block": ("detach.p_block", lambda cell: bool(cell.recurrent_inputs), _NO_PRODUCT),
    "c_block": ("detach.c_block", lambda cell: "c" in cell.carry_type._fields, _NO_MEMORY),
    "zoneout_h": (
        "model.zoneout_h",
        lambda cell: "h" not in cell.derived,
        "keeps what the next step reads, and the h of {} is read by none",
    ),
    "zoneout_c": ("model.zoneout_c", lambda cell: "c" in cell.carry_type._fields, _NO_MEMORY),
    "recurrent_dropconnect": (
        "model.recurrent_dropconnect",
        lambda cell: bool(cell.recurrent_inputs),
        _NO_PRODUCT,
    ),
}


def check_fits(cell: RecurrentCell, values: Mapping[str, Any]) -> None:
    """Raises UserError where an option of a `Recurrence` does not fit its cell.

    Args:
      cell: of the recurrence.
      values: attribute -> value.
    """
    for name, (key, fits, reason) in _NEEDS.items():
        if values[name] and not fits(cell):
            why = reason.format(type(cell).__name__)
            raise UserError(f"{key}={values[name]} {why}; set it to 0")


class Call:
    """Checks the arguments of one call; what may be given as a list comes back as an array.

    Attributes:
      x: the inputs, `(batch, time, features)`.
      batch: examples.
      length: time steps.
    """

    def __init__(self, cell: RecurrentCell, x: Any, deterministic: Any) -> None:
        """Takes the inputs.

        Raises:
          UserError: they are not `(batch, time, features)` numbers; `deterministic` is neither None
            nor a boolean that is known while tracing.
        """
        self.x = as_reals("x", x)
        if self.x.ndim != 3:
            raise UserError(
                f"x is {described(self.x)}, and must be real numbers (batch, time, features)"
            )
        if deterministic is not None and not isinstance(deterministic, bool | np.bool_):
            raise UserError(
                f"deterministic is of type {type(deterministic).__name__}, and must be None, True"
                " or False: under jit a static argument"
            )
        self.batch, self.length = self.x.shape[:2]
        self._cell, self._name = cell, type(cell).__name__

    def lengths(self, lengths: Any) -> Array | None:
        """Whole numbers from 0 to the steps there are, `(batch,)`, or None; else UserError."""
        if lengths is None:
            return None
        what = "valid steps of each example, (batch,)"
        found = self._whole("lengths", lengths, (self.batch,), what)
        self._within("lengths", lengths, self.length, f"from 0 to the {self.length} steps of x")
        return found

    def first_step(self, first: Any) -> Array:
        """A whole number from 0, or one for each example; else UserError."""
        shape = (self.batch,) if np.ndim(first) else ()
        what = "one number, or one for each example, (batch,)"
        found = self._whole("first_step", first, shape, what)
        self._within("first_step", first, None, "0 or more")
        return found

    def resets(self, resets: Any) -> Array | None:
        """Booleans, `(batch, time)`, or None; else UserError."""
        if resets is None:
            return None
        resets, shape = as_reals("resets", resets), (self.batch, self.length)
        if resets.shape != shape or resets.dtype != bool:
            raise UserError(
                f"resets is {described(resets)}, and must be bool{list(shape)}: one a step, (batch,"
                " time)"
            )
        return resets

    def initial(self, initial: Any, zero: Any) -> None:
        """Raises UserError unless it has the structure, shapes and kinds of the zero state.

        Its numbers may be of another precision; real ones are no complex state, nor the reverse.
        """
        if initial is None:
            return
        carry = self._cell.carry_type
        alike = isinstance(initial, tuple | list) and len(initial) == len(zero)
        alike = alike and all(isinstance(each, carry) for each in initial)
        if not alike or [*map(kind, jax.tree.leaves(initial))] != [
            *map(kind, jax.tree.leaves(zero))
        ]:
            shown = ", ".join(f"{f} {described(x)}" for f, x in zero[0]._asdict().items())
            raise UserError(
                f"initial does not fit: give a tuple of {len(zero)} {carry.__name__}({shown}), one"
                " for each layer and direction, such as `final` of an earlier call"
            )

    def context(self, context: Any) -> None:
        """Raises UserError unless a cell that asks for a context gets one of this batch."""
        asks = "context" in self._cell.asks()
        if asks and context is None:
            raise UserError(f"{self._name} sees a context at every step: give context=")
        if not asks and context is not None:
            raise UserError(f"context is given, and the step of {self._name} does not ask for one")
        for leaf in jax.tree.leaves(context):
            if np.ndim(leaf) == 0 or self.batch % np.shape(leaf)[0]:
                raise UserError(
                    f"context has a leaf of shape {list(np.shape(leaf))}, and each must begin with"
                    f" the batch, {self.batch}: it is the same at every step"
                )

    def masks(self, masks: Masks | None, layers: int, directions: int) -> None:
        """Raises UserError unless these were drawn for a batch of this shape and so many layers."""
        if masks is None:
            return
        if not isinstance(masks, Masks):
            raise UserError(f"masks is of type {type(masks).__name__}: give what `draw` returns")
        block = ((self.length,), (self.length, self.batch))
        kept = masks.keep
        shapes = [(mask, block) for part in masks[:2] for mask in part if mask is not None]
        shapes += [(k, ((self.batch, self.length, k.shape[-1]),)) for k in kept if k is not None]
        zones = [*masks[3], *masks[4]]
        whole = (self.length, self.batch, self._cell.hidden_size), (self.length, 1, 1)
        places = (0, layers * directions)
        fits = all(len(part) == layers for part in masks[:3])
        fits &= all(len(part) in places for part in masks[3:])
        fits &= all(zone.shape == whole[zone.dtype != bool] for zone in zones)
        if not fits or any(mask.dtype != bool or mask.shape not in known for mask, known in shapes):
            raise UserError(
                f"masks do not fit {layers} layers, {self.length} steps and a batch of"
                f" {self.batch}: give what `draw` returns for these"
            )

    def _whole(self, name: str, value: Any, shape: tuple[int, ...], what: str) -> Array:
        value = as_reals(name, value)
        if value.shape != shape or not jnp.issubdtype(value.dtype, jnp.integer):
            raise UserError(
                f"{name} is {described(value)}, and must be int{list(shape)}: whole numbers, {what}"
            )
        return value

    def _within(self, name: str, value: Any, last: int | None, legal: str) -> None:
        """`value` as it was given: an array that is made while tracing has no values."""
        leaves = jax.tree.leaves(value)
        if any(isinstance(x, Tracer) or not getattr(x, "is_fully_addressable", 1) for x in leaves):
            return
        known = np.asarray(value)
        if (known < 0).any() or (last is not None and (known > last).any()):
            raise UserError(f"{name}={known.tolist()}: must be {legal}")
