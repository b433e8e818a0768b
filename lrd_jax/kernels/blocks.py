"""From a jaxpr to the C of one unit: packed arrays become one value for each of their blocks.

A cell's `update` works on arrays `(batch, K)`, K being several blocks of d units side by side. A
thread of the kernel has one unit of one example, so such an array is to it one number a block:
slicing, splitting, concatenating and padding along blocks only regroup these, and need no code. A
number of an example, such as the sum over its units, is the same to all of its units.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from lrd_jax.errors import one_line


class UnsupportedError(Exception):
    """The kernel cannot run it; the text says why."""


class Packed(NamedTuple):
    """An array `(batch, n d)`: an expression in C for each of its n blocks."""

    parts: tuple[str, ...]


# An expression, or an array of one for each block. An expression alone is the same for all blocks.
Value = str | Packed

_INLINE = {
    *("jit", "pjit", "closed_call", "core_call", "remat", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}
_IDENTITY = {
    *("materialise", "optimization_barrier", "stop_gradient", "copy", "copy_p", "name", "reshard"),
    *("broadcast_in_dim", "squeeze", "reshape"),
}
_FORMS = {
    "neg": "(-{0})",
    "tanh": "tanh_({0})",
    "logistic": "sigmoid_({0})",
    "exp": "exp_({0})",
    "exp2": "exp2_({0})",
    "log": "logf({0})",
    "log1p": "log1pf({0})",
    "expm1": "expm1f({0})",
    "sqrt": "sqrtf({0})",
    "square": "({0} * {0})",
    "one_minus_square": "(1.0f - {0} * {0})",
    "abs": "fabsf({0})",
    "sign": "({0} > 0.0f ? 1.0f : {0} < 0.0f ? -1.0f : {0})",
    "add": "({0} + {1})",
    "add_any": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "div": "({0} / {1})",
    "max": "({0} != {0} || {0} > {1} ? {0} : {1})",  # NaN wins, as in JAX
    "min": "({0} != {0} || {0} < {1} ? {0} : {1})",
    "lt": "({0} < {1})",
    "le": "({0} <= {1})",
    "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "eq": "({0} == {1})",
    "ne": "({0} != {1})",
    "and": "({0} && {1})",
    "or": "({0} || {1})",
    "not": "(!{0})",
    "select_n": "({0} ? {2} : {1})",
    "is_finite": "(fabsf({0}) <= 3.402823466e38f)",
}
_ALONG_UNITS = {"reduce_sum": "unit_sum_", "reduce_max": "unit_max_"}


class Lines:
    """C under construction: each value once, and only those that a result needs."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._lines: dict[str, str] = {}
        self.along_units = False

    def value(self, expression: str, kind: str = "float") -> str:
        """The name of an expression's value."""
        if expression not in self._names:
            name = f"v{len(self._names)}"
            self._names[expression] = name
            self._lines[name] = f"const {kind} {name} = {expression};"
        return self._names[expression]

    def text(self, results: Sequence[tuple[str, str]]) -> list[str]:
        """The lines that assign results to places.

        Args:
          results: place and expression of each.
        """
        needed = set(re.findall(r"\bv\d+\b", " ".join(expression for _, expression in results)))
        kept = []
        for name, line in reversed(self._lines.items()):
            if name in needed:
                kept.append(line)
                needed |= set(re.findall(r"\bv\d+\b", line))
        return [*reversed(kept), *(f"{place} = {expression};" for place, expression in results)]


def evaluate(closed: Any, arguments: Sequence[Value], units: int, lines: Lines) -> list[Value]:
    """Writes the C of a jaxpr.

    Args:
      closed: of arrays `(batch, n units)` and numbers, and what is made of these.
      arguments: what its arguments are called.
      units: d.
      lines: where to.

    Returns:
      Its results; arrays have all of their blocks.

    Raises:
      UnsupportedError: it has an operation that cannot be told unit by unit.
    """
    jaxpr = closed.jaxpr
    known: dict[Any, Value] = {}

    def read(variable: Any) -> Value:
        return _constant(variable.val) if isinstance(variable, Literal) else known[variable]

    for variable, value in zip(jaxpr.constvars, closed.consts, strict=True):
        known[variable] = _constant(value)
    known.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        values = [read(v) for v in equation.invars]
        results = _equation(equation, values, units, lines)
        known.update(zip(equation.outvars, results, strict=True))
    return [_whole(read(v), v.aval, units) for v in jaxpr.outvars]


def _equation(equation: Any, values: Sequence[Value], units: int, lines: Lines) -> Sequence[Value]:
    """Writes one equation of a jaxpr as C++; its values are blocks of `units` columns.

    Args:
      equation: of the jaxpr of a cell's step, on arrays `(batch, columns)`.
      values: of its inputs.
      units: width of a block.
      lines: what has been written so far; grows.

    Returns:
      The values of its outputs.

    Raises:
      UnsupportedError: an operation that no kernel is made of.
    """
    name, parameters = equation.primitive.name, equation.params
    avals = [v.aval for v in equation.invars]
    out = equation.outvars[0].aval
    if name in _INLINE:
        inner = next(parameters[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in parameters)
        if not hasattr(inner, "consts"):
            inner = ClosedJaxpr(inner, ())
        return evaluate(inner, values[len(values) - len(inner.jaxpr.invars) :], units, lines)
    if name in _IDENTITY:
        _check_broadcast(name, avals, equation.outvars, values, units)
        return list(values)
    if name in _FORMS or name in ("integer_pow", "convert_element_type"):
        return [_elementwise(name, parameters, values, avals, out, lines)]
    if name == "split" and parameters["axis"] == 1:
        ends = np.cumsum(parameters["sizes"]).tolist()
        whole = _whole(values[0], avals[0], units)
        return [_slice(whole, a, b, units) for a, b in zip([0, *ends], ends, strict=False)]
    if name == "slice" and parameters["strides"] is None:
        start, end = parameters["start_indices"][1], parameters["limit_indices"][1]
        return [_slice(_whole(values[0], avals[0], units), start, end, units)]
    if name == "concatenate" and parameters["dimension"] == 1:
        whole = [_whole(v, a, units) for v, a in zip(values, avals, strict=True)]
        return [Packed(sum((w.parts for w in whole), ()))]
    if name == "pad":
        (low, high, inner) = parameters["padding_config"][1]
        if min(low, high) < 0 or inner or low % units or high % units:
            raise UnsupportedError("its update pads by parts of a block")
        (fill, blocks) = values[1], _whole(values[0], avals[0], units)
        assert isinstance(fill, str)
        return [Packed((fill,) * (low // units) + blocks.parts + (fill,) * (high // units))]
    if name in _ALONG_UNITS or name == "cumsum":
        return [_along_units(name, parameters, values[0], avals[0], lines)]
    raise UnsupportedError(f"its update has the operation {name}, for which there is no C")


def _check_broadcast(
    name: str, avals: Sequence[Any], results: Sequence[Any], values: Sequence[Value], units: int
) -> None:
    """A change of shape is none to a thread, as long as the blocks stay."""
    for value, aval, result in zip(values, avals, results, strict=False):
        if isinstance(value, Packed) and aval.shape != result.aval.shape:
            raise UnsupportedError(f"its update changes the shape of blocks ({name})")


def _constant(value: Any) -> str:
    """A number, or an array of one number, in C."""
    array: Any = np.asarray(value)
    if array.size == 0 or not (array == array.flat[0]).all():
        raise UnsupportedError("its update holds an array of constants")
    number = array.flat[0]
    if array.dtype == bool:
        return "true" if number else "false"
    if np.issubdtype(array.dtype, np.integer):
        return str(int(number))
    if not np.isfinite(number):
        return "(1.0f / 0.0f)" if number > 0 else "(-1.0f / 0.0f)"
    return f"{float(number)!r}f"


def _whole(value: Value, aval: Any, units: int) -> Packed:
    """A value of that shape with all of its blocks."""
    if isinstance(value, Packed):
        return value
    width = aval.shape[-1] if len(aval.shape) == 2 else units
    return Packed((value,) * max(1, width // units))


def _slice(value: Packed, start: int, end: int, units: int) -> Packed:
    if start % units or end % units:
        raise UnsupportedError("its update cuts blocks of units")
    return Packed(value.parts[start // units : end // units])


def _elementwise(
    name: str, parameters: Any, values: Sequence[Value], avals: Any, out: Any, lines: Lines
) -> Value:
    """Writes an operation on elements, block by block; see `_equation` for arguments and errors."""
    kind = "bool" if out.dtype == bool else "float"
    if kind == "float" and out.dtype != np.float32:
        raise UnsupportedError(f"its update computes in {out.dtype}")

    def one(operands: Sequence[str]) -> str:
        x = operands[0]
        if name == "convert_element_type":
            return lines.value(f"({x} ? 1.0f : 0.0f)") if avals[0].dtype == bool else x
        if name in ("add", "add_any") and "0.0f" in operands:
            return operands[1 - operands.index("0.0f")]  # gradients that are not there
        if name == "integer_pow":
            power = parameters["y"]
            product = " * ".join([x] * abs(power)) or "1.0f"
            return lines.value(f"({product})" if power > 0 else f"(1.0f / ({product}))")
        return lines.value(_FORMS[name].format(*operands), kind)

    counts = {len(v.parts) for v in values if isinstance(v, Packed)}
    if not counts:
        return one([v for v in values if isinstance(v, str)])
    if len(counts) > 1:
        raise UnsupportedError("its update combines arrays of different widths")
    return Packed(
        tuple(
            one([v.parts[i] if isinstance(v, Packed) else v for v in values])
            for i in range(counts.pop())
        )
    )


def _along_units(name: str, parameters: Any, value: Value, aval: Any, lines: Lines) -> Value:
    """A sum or a maximum over the units of an example, or a running sum."""
    axes = (parameters["axis"],) if name == "cumsum" else tuple(parameters["axes"])
    if isinstance(value, str) and axes == (1,) and aval.shape[1] == 1:
        return value  # of an example already
    if isinstance(value, str) or axes != (1,):
        raise UnsupportedError(f"its update takes {name} over another axis than the units")
    lines.along_units = True
    if name == "cumsum":
        if len(value.parts) != 1:
            raise UnsupportedError("its update has a running sum over several blocks")
        (part,), reverse = value.parts, "true" if parameters["reverse"] else "false"
        return Packed((lines.value(f"unit_cumsum_(at, {part}, {reverse})"),))
    found = [lines.value(f"{_ALONG_UNITS[name]}(at, {part})") for part in value.parts]
    combine = _FORMS["add" if name == "reduce_sum" else "max"]
    total = found[0]
    for other in found[1:]:
        total = lines.value(combine.format(total, other))
    return total


def trace(function: Callable[..., Any], *shapes: Any) -> Any:
    """The jaxpr of a function of a cell.

    Raises:
      UnsupportedError: it cannot be traced so.
    """
    try:
        return jax.make_jaxpr(function)(*shapes)
    except Exception as error:  # whatever the author's code raises
        raise UnsupportedError(f"its update cannot be traced ({one_line(str(error))})") from error
