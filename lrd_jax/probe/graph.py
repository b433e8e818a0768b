"""The computation of one time step as a graph, read from the cell itself.

The step is traced by JAX, and its operations become nodes: so a new cell is drawn without a word
about it. What packs and unpacks pre-activations is no node; a slice is named after its block
(`RecurrentCell.blocks`), and what an activation makes of it by the equation, f = sigma(z_f).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from lrd_jax.cells import RecurrentCell

_PARAMETERS = {
    "input/kernel": "W_x",
    "recurrent_kernel": "W_h",
    "bias": "b",
    "candidate_bias": "b_h",
}
_NO_NODE = {  # the same values in another place, shape or dtype
    *("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy"),
    *("copy_p", "stop_gradient", "optimization_barrier", "materialise", "name"),
}
_BINARY = {
    "mul": "×",
    "add": "+",
    "add_any": "+",
    "sub": "−",
    "div": "÷",
    "max": "max",
    "min": "min",
}
_UNARY = {"logistic": r"\sigma", "tanh": r"\tanh", "exp": r"\exp", "log": r"\log"}
_SAME_SHAPE = {
    *_UNARY,
    "neg",
    "abs",
    "sqrt",
    "rsqrt",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "sign",
    "square",
}


@dataclasses.dataclass(eq=False)
class Node:
    """One operation, input or output.

    Attributes:
      label: mathtext or text.
      kind: `input`, `output`, `product`, `gate` or `arithmetic`.
      inputs: the nodes that it reads.
      span: where in the packed pre-activation its columns stand, (first, width); None if nowhere.
    """

    label: str
    kind: str
    inputs: list[Node] = dataclasses.field(default_factory=list)
    span: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class _View:
    """Columns of a node, and activations of them, of which no node was made yet."""

    node: Node
    span: tuple[int, int]
    ops: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Parameter:
    """A parameter, or what is made of parameters alone."""

    name: str
    span: tuple[int, int] | None = None


class _Tracer:
    """Goes through the operations once and makes nodes of them."""

    def __init__(self, blocks: Mapping[str, int]) -> None:
        self._edges, first = {}, 0
        for name, width in blocks.items():
            self._edges[first, width] = name
            first += width
        self._width = first
        self._blocks = blocks
        self._made: dict[_View, Node] = {}

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Values of the results; a value is a node, a view, a parameter or a number."""
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))
        for equation in jaxpr.eqns:
            given = [
                np.asarray(v.val) if isinstance(v, Literal) else values[v] for v in equation.invars
            ]
            results = self._equation(equation, given)
            values.update(zip(equation.outvars, results, strict=True))
        return [np.asarray(v.val) if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]

    def node(self, value: Any) -> Node:
        """The node of a value, made where there was none."""
        if isinstance(value, Node):
            return value
        if isinstance(value, _Parameter):
            return Node(f"${value.name}$", "input", span=value.span)
        if not isinstance(value, _View):
            return Node(_number(value), "input")
        if value not in self._made:
            names = self._names(value.span)
            inner = f"z_{{{names}}}"
            for op in value.ops:
                inner = rf"{op}({inner})"
            kind = "gate" if value.ops else "arithmetic"
            single = value.span in self._edges and value.ops
            label = f"${names} = {inner}$" if single else f"${inner}$"
            self._made[value] = Node(label, kind, [value.node], None)
        return self._made[value]

    def _names(self, span: tuple[int, int]) -> str:
        inside = [
            name
            for (first, width), name in self._edges.items()
            if span[0] <= first and first + width <= sum(span)
        ]
        return ",".join(inside) or "?"

    def _equation(self, equation: Any, given: list[Any]) -> list[Any]:
        """The nodes, views or constants that an equation of a jaxpr gives, one for each output."""
        name, params, outs = equation.primitive.name, equation.params, equation.outvars
        inner = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
        if inner is not None and name not in ("scan", "while", "cond"):
            closed = getattr(inner, "jaxpr", inner)
            return self.run(closed, getattr(inner, "consts", ()), given)
        if name in _NO_NODE:
            return given[: len(outs)]
        if all(not isinstance(v, Node | _View) for v in given):
            return self._of_constants(equation, given)
        if name in ("split", "slice") and self._slices_columns(equation):
            return self._slice(equation, given[0])
        if name in _SAME_SHAPE and isinstance(given[0], _View | Node):
            return [self._unary(name, given[0])]
        return [self._other(equation, given) for _ in outs]

    def _of_constants(self, equation: Any, given: list[Any]) -> list[Any]:
        """Of parameters and numbers: still a parameter, named after the first one."""
        first = next((v for v in given if isinstance(v, _Parameter)), None)
        if first is None:
            try:
                made = equation.primitive.bind(*map(jnp.asarray, given), **equation.params)
                return [np.asarray(v) for v in (made if isinstance(made, list | tuple) else [made])]
            except Exception:  # only a label depends on it
                return [np.asarray(np.nan) for _ in equation.outvars]
        if equation.primitive.name in ("split", "slice") and self._slices_columns(equation):
            spans = self._spans(equation, first.span or (0, self._width))
            return [_Parameter(f"{first.name}^{{{self._names(s)}}}", s) for s in spans]
        changed = first.name if first.name.endswith("'") else f"{first.name}'"
        return [_Parameter(changed, first.span) for _ in equation.outvars]

    def _slices_columns(self, equation: Any) -> bool:
        """Whether a `split` or `slice` cuts the last axis alone."""
        shape, params = equation.invars[0].aval.shape, equation.params
        if not shape:
            return False
        if equation.primitive.name == "split":
            return params["axis"] == len(shape) - 1
        whole = all(
            (a, b) == (0, n)
            for a, b, n in zip(
                params["start_indices"][:-1], params["limit_indices"][:-1], shape[:-1], strict=True
            )
        )
        return whole and not params["strides"]

    def _spans(self, equation: Any, span: tuple[int, int]) -> list[tuple[int, int]]:
        params = equation.params
        if equation.primitive.name == "slice":
            first, last = params["start_indices"][-1], params["limit_indices"][-1]
            return [(span[0] + first, last - first)]
        firsts = np.cumsum([0, *params["sizes"]])[:-1]
        return [(span[0] + int(a), int(n)) for a, n in zip(firsts, params["sizes"], strict=True)]

    def _slice(self, equation: Any, value: Any) -> list[Any]:
        span = value.span
        if span is None:
            made = self._other(equation, [value])
            return [made for _ in equation.outvars]
        source, ops = (value.node, value.ops) if isinstance(value, _View) else (value, ())
        return [_View(source, part, ops) for part in self._spans(equation, span)]

    def _unary(self, name: str, value: Any) -> Any:
        op = _UNARY.get(name, rf"\mathrm{{{name}}}" if name != "neg" else "-")
        if isinstance(value, _View):
            return _View(value.node, value.span, (*value.ops, op))
        if value.span is not None and value.span[1] > 0 and name in _UNARY:
            return _View(value, value.span, (op,))
        return Node(f"${op}$", "gate", [value])

    def _other(self, equation: Any, given: list[Any]) -> Node:
        """A node for an operation that is neither a view nor elementwise on one operand."""
        name = equation.primitive.name
        shown = [v for v in given if isinstance(v, Node | _View)]
        parameters = [v for v in given if isinstance(v, _Parameter)]
        numbers = [v for v in given if not isinstance(v, Node | _View | _Parameter)]
        nodes = [self.node(v) for v in shown]
        spans = [v.span for v in (*given,) if isinstance(v, Node | _View | _Parameter) and v.span]
        width = equation.outvars[0].aval.shape[-1:] if equation.outvars[0].aval.shape else ()
        span = next((s for s in spans if (s[1],) == tuple(width)), None)
        if name == "dot_general" and parameters:
            return Node(rf"$\cdot\, {parameters[0].name}$", "product", nodes, span)
        if name == "max" and numbers and not np.isfinite(numbers[0]).any():
            return nodes[0]  # a guard of JAX's softmax
        if name == "integer_pow":
            return Node(f"$(\\cdot)^{equation.params['y']}$", "arithmetic", nodes, span)
        sign = _BINARY.get(name, name)
        if parameters and sign in "×+−÷":
            return Node(f"{sign} ${parameters[0].name}$", "arithmetic", nodes, span)
        if len(numbers) == 1 and len(given) == 2 and name in _BINARY:
            number = _number(numbers[0])
            first = not isinstance(given[0], Node | _View)
            label = f"{number} {sign}" if first or sign in "×+" else f"{sign} {number}"
            return Node(label, "arithmetic", nodes)
        return Node(sign, "arithmetic", nodes, span if name in ("add", "add_any") else None)


def _number(value: Any) -> str:
    array = np.asarray(value)
    return (
        f"{array.ravel()[0]:.4g}"
        if array.size and (array == array.ravel()[0]).all()
        else "constant"
    )


def trace(cell: RecurrentCell, features: int) -> list[Node]:
    """The nodes of one step, inputs first, outputs last; what reaches no output is left out.

    Args:
      cell: an unbound cell.
      features: width of its input.
    """
    key, x = jax.random.key(0), jnp.zeros((1, features))
    carry = cell.initialize_carry(key, (1, features))
    asked: dict[str, Any] = {"time": jnp.zeros(1, jnp.int32)} if "time" in cell.asks() else {}
    if "context" in cell.asks():
        asked["context"] = jnp.zeros((1, cell.hidden_size))
    params = jax.eval_shape(lambda: cell.init(key, carry, x, **asked))["params"]

    def step(params: Any, carry: Any, x: Any, asked: Any) -> Any:
        def call(bound: Any) -> Any:
            h = bound.recurrent_input(carry)
            return bound.step(carry, bound.project(x), h, **asked)

        return cell.apply({"params": params}, method=call)

    closed = jax.make_jaxpr(step)(params, carry, x, asked)
    blocks = cell.blocks()
    packed = sum(blocks.values())

    def parameter(path: Any, leaf: Any) -> _Parameter:
        name = "/".join(str(entry.key) for entry in path)
        short = _PARAMETERS.get(name, r"\mathrm{" + name.replace("_", r"\_") + "}")
        whole = leaf.shape[-1:] == (packed,) and len(blocks) > 1
        return _Parameter(short, (0, packed) if whole else None)

    constants = [parameter(path, leaf) for path, leaf in jax.tree.leaves_with_path(params)]
    entering = [Node(f"${name}_{{t-1}}$", "input") for name in carry._fields]
    inputs = [*entering, Node("$x_t$", "input"), *(Node(f"${name}$", "input") for name in asked)]
    tracer = _Tracer(blocks)
    results = tracer.run(closed.jaxpr, closed.consts, [*constants, *inputs])
    outputs = [
        Node(f"${name}_t$", "output", [tracer.node(value)])
        for name, value in zip(carry._fields, results, strict=True)
    ]
    return _ordered(outputs)


def _ordered(outputs: Sequence[Node]) -> list[Node]:
    """All that the outputs are made of, each after what it reads."""
    found: dict[int, Node] = {}

    def visit(node: Node) -> None:
        if id(node) not in found:
            for source in node.inputs:
                visit(source)
            found[id(node)] = node

    for node in outputs:
        visit(node)
    return list(found.values())
