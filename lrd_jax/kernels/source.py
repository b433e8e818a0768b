"""The CUDA C++ of a cell's recurrence: two kernels around a step generated from the cell."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrd_jax.cells.base import bfloat16_dot
from lrd_jax.cells.forms import AdditiveCell, PointwiseCell
from lrd_jax.kernels.blocks import Lines, Packed, UnsupportedError, evaluate, trace

ROWS_A_TILE = 8
MOST_UNITS = 128  # beyond, the weights no longer fit into registers
_MOST_GATES = 6
_FOLDER = Path(__file__).parent / "cuda"
# Bits of a mask's byte, as in recurrence.h.
BITS = {"block_h": 1, "block_c": 2, "cut": 4, "hold": 8, "reset": 16}
DROPS_PRODUCT = BITS["block_h"] | BITS["cut"] | BITS["hold"]  # no gradient comes from the product


class CellCode(NamedTuple):
    """What of a cell its kernels depend on.

    Attributes:
      units: d.
      gates: blocks of pre-activations.
      fields: names of the state's.
      entering: which of these enter the recurrent product.
      additive: whether a step sees the sum of both products alone.
      along_units: whether it has sums over units.
      bfloat16: operands of the products; else fp16.
      step: C++ of a step and of its gradient.
    """

    units: int
    gates: int
    fields: tuple[str, ...]
    entering: tuple[int, ...]
    additive: bool
    along_units: bool
    bfloat16: bool
    step: str

    @property
    def warps(self) -> int:
        """Of a block: 8 units each, in pairs."""
        return -(-self.units // 16) * 2

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.warps * 32

    @property
    def strides(self) -> tuple[int, int]:
        """Half words from a row to the next of what enters a product, forward and backward.

        4 words modulo 32, so that 8 rows are in different banks.
        """
        widths = (
            len(self.entering) * -(-self.units // 16) * 16,
            -(-self.gates * self.units // 32) * 32,
        )
        return tuple(w + (8 - w) % 64 for w in widths)  # pyright: ignore[reportReturnType]

    def shared_bytes(self, call: CallCode, backward: bool) -> int:
        """Of a block."""
        exchanged = self.warps * 32 * len(self.entering) * 2 * 4 if backward else 0
        scratch = ROWS_A_TILE * self.warps * 4
        packed = self.gates * self.units
        projection = (call.narrow + 1) * packed * 4 if call.narrow else 0
        return 2 * ROWS_A_TILE * self.strides[backward] * 2 + exchanged + scratch + projection


class CallCode(NamedTuple):
    """What of a call its kernels depend on.

    Attributes:
      steps: T.
      rows: batch.
      controls: bits of the masks that are in force, of those that differ by example or act on more
        than the product.
      skips: whether there are steps without a product.
      keep: whether pre-activations are stored for the backward pass.
      every: bits of the fields whose gradient comes at every step.
      bias: whether there is one inside the recurrent product.
      narrow: features of the input where the kernel projects them, else 0.
    """

    steps: int
    rows: int
    controls: int = 0
    skips: bool = False
    keep: bool = True
    every: int = 0
    bias: bool = False
    narrow: int = 0

    @property
    def tiles(self) -> int:
        """Of the batch."""
        return -(-self.rows // ROWS_A_TILE)


@functools.lru_cache(maxsize=64)
def cell_code(cell: Any) -> CellCode:
    """Writes the step of a cell.

    Args:
      cell: unbound.

    Raises:
      UnsupportedError: the kernel cannot run it; the reason ends a sentence that names the cell.
    """
    if not isinstance(cell, PointwiseCell):
        raise UnsupportedError("its step is not update(carry, zx, zh) of a single product")
    if cell.layer_norm:
        raise UnsupportedError("the gains of layer_norm act inside its step")
    if cell.param_dtype != jnp.float32:
        raise UnsupportedError(f"its parameters are {jnp.dtype(cell.param_dtype)}, not float32")
    if cell.dot not in (jnp.matmul, bfloat16_dot):
        raise UnsupportedError("its product is neither jnp.matmul nor bfloat16_dot")
    d, blocks = cell.hidden_size, cell.blocks()
    if d > MOST_UNITS:
        raise UnsupportedError(f"it has {d} units, and the kernel's registers hold {MOST_UNITS}")
    if set(blocks.values()) != {d}:
        raise UnsupportedError("its gates are not all as wide as its state")
    if len(blocks) > _MOST_GATES:
        raise UnsupportedError(f"it has {len(blocks)} blocks of pre-activations, more than 6")
    fields = cell.carry_type._fields
    entering = tuple(fields.index(name) for name in cell.recurrent_inputs)
    additive = isinstance(cell, AdditiveCell)
    lines, step = (Lines(), Lines()), []
    for backward in (False, True):
        step += _step(cell, additive, backward, lines[backward])
    return CellCode(
        units=d,
        gates=len(blocks),
        fields=fields,
        entering=entering,
        additive=additive,
        along_units=any(each.along_units for each in lines),
        bfloat16=cell.dot is bfloat16_dot,
        step="\n".join(step) + "\n",
    )


def _step(cell: Any, additive: bool, backward: bool, lines: Lines) -> list[str]:
    """C++ of a cell's step, or of its gradient.

    s: state as it enters, zx: what the input gives, z: what the state gives (additive: of both), e:
    gradient of the state after the step, ds, dzx, dz: of these.
    """
    d, gates, carry_type = cell.hidden_size, len(cell.blocks()), cell.carry_type
    n = len(carry_type._fields)
    state = [jax.ShapeDtypeStruct((2, d), jnp.float32)] * n
    z = [jax.ShapeDtypeStruct((2, gates * d), jnp.float32)] * (1 if additive else 2)

    def forward(state: Any, z: Any) -> Any:
        step = cell.advance if additive else cell.update
        return tuple(step(carry_type(*state), *z))

    def pull(state: Any, z: Any, e: Any) -> Any:
        return jax.vjp(forward, state, z)[1](e)

    named = [Packed((f"s[{i}]",)) for i in range(n)]
    sources = ("z",) if additive else ("zx", "z")
    named += [Packed(tuple(f"{name}[{k}]" for k in range(gates))) for name in sources]
    arrays = "const Place& at, const float* s, const float* zx, const float* z"
    if backward:
        named += [Packed((f"e[{i}]",)) for i in range(n)]
        found = evaluate(trace(pull, tuple(state), tuple(z), tuple(state)), named, d, lines)
        head = f"backward_step({arrays}, const float* e, float* ds, float* dzx, float* dz)"
        places = ["ds"] * n + [f"d{name}" for name in sources]
    else:
        found = evaluate(trace(forward, tuple(state), tuple(z)), named, d, lines)
        head, places = f"forward_step({arrays}, float* o)", ["o"] * n
    results = []
    for index, (place, value) in enumerate(zip(places, found, strict=True)):
        assert isinstance(value, Packed)
        first = index if index < n else 0
        results += [(f"{place}[{first + k}]", part) for k, part in enumerate(value.parts)]
    return [f"DEVICE void {head} {{", *(f"  {line}" for line in lines.text(results)), "}"]


class Names(NamedTuple):
    """Parameters of a kernel, in their order: C types and names."""

    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]

    def parameters(self) -> str:
        """As C++ declares them."""
        return ", ".join(f"{kind} {name}" for kind, name in (*self.inputs, *self.outputs))


def names(code: CellCode, backward: bool) -> Names:
    """The parameters of a cell's kernel."""

    def each(name: str, kind: str = "const float*") -> list[tuple[str, str]]:
        return [(kind, f"{name}{i}") for i in range(len(code.fields))]

    def floats(*names: str) -> list[tuple[str, str]]:
        return [("const float*", name) for name in names]

    mask = ("const u8*", "mask")
    if not backward:
        inputs = floats("input", "input_weights", "input_bias", "weights", "bias")
        inputs += [*each("init"), *each("start"), mask]
        outputs = [place for name in ("before", "last", "after") for place in each(name, "float*")]
        return Names(tuple(inputs), (*outputs, ("float*", "kept")))
    inputs = floats("input", "input_weights", "input_bias", "weights", "kept")
    inputs += [*each("before"), *each("d_last"), *each("d_every")]
    inputs += [*floats("largest"), mask, ("const u8*", "skip")]
    outputs = [("float*", "dz"), ("float*", "d_input"), *each("d_init", "float*")]
    return Names(tuple(inputs), (*outputs, *each("d_start", "float*")))


def _definitions(code: CellCode) -> dict[str, Any]:
    """The macros of a kernel's text by name: sizes of the cell, strides, lists of parameters."""
    listed = ("init", "start", "before", "after", "last", "d_last", "d_every", "d_init", "d_start")
    fields = range(len(code.fields))
    return {
        "UNITS": code.units,
        "GATES": code.gates,
        "FIELDS": len(code.fields),
        "ENTERING": len(code.entering),
        "ADDITIVE": int(code.additive),
        "MEMORY": code.fields.index("c") if "c" in code.fields else 0,
        "WARPS": code.warps,
        "THREADS": code.threads,
        "H_STRIDE": code.strides[0],
        "Z_STRIDE": code.strides[1],
        "TILES": f"((ROWS + {ROWS_A_TILE - 1}) / {ROWS_A_TILE})",
        "FORWARD_PARAMETERS": names(code, False).parameters(),
        "BACKWARD_PARAMETERS": names(code, True).parameters(),
        **{name.upper(): ", ".join(f"{name}{i}" for i in fields) for name in listed},
    }


def _text(code: CellCode, definitions: dict[str, Any], device: Sequence[str], end: str) -> str:
    """The whole text of a kernel: macros, the device's own part, the cell's step, both passes."""
    chosen = [f"p == {p} ? {field}" for p, field in enumerate(code.entering[:-1])]
    entering = " : ".join([*chosen, str(code.entering[-1])])
    return "\n".join(
        [
            *(f"#define {name} {value}" for name, value in definitions.items()),
            *(_read(name) for name in device),
            _read("common.h"),
            f"DEVICE constexpr int entering(int p) {{ return {entering}; }}",
            code.step,
            _read("recurrence.h"),
            end,
        ]
    )


@functools.cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def for_gpu(code: CellCode, call: CallCode) -> tuple[str, str]:
    """CUDA C++ of both kernels of a call, and the suffix of their names."""
    definitions = _definitions(code) | {
        "STEPS": call.steps,
        "ROWS": call.rows,
        "CONTROLS": call.controls,
        "SKIPS": int(call.skips),
        "KEEP": int(call.keep),
        "EVERY": call.every,
        "BIAS": int(call.bias),
        "NARROW": call.narrow,
        "BFLOAT16": int(code.bfloat16),
    }
    text = _text(code, definitions, ["gpu.h"], "")
    suffix = hashlib.sha256(text.encode()).hexdigest()[:10]
    kernels = {which.upper(): f"recurrence_{which}_{suffix}" for which in ("forward", "backward")}
    return "".join(f"#define {k} {v}\n" for k, v in kernels.items()) + text, suffix


def for_cpu(code: CellCode) -> str:
    """C++ that runs both kernels of any call on a CPU; see cpu.h."""
    definitions = _definitions(code) | {"FORWARD": "forward", "BACKWARD": "backward"}
    for which, backward in (("FORWARD", False), ("BACKWARD", True)):
        known = names(code, backward)
        passed = [f"({kind})a[{i}]" for i, (kind, _) in enumerate((*known.inputs, *known.outputs))]
        definitions[f"{which}_ARGUMENTS"] = ", ".join(passed)
    return _text(code, definitions, ["cpu.h"], _read("run.h"))
