"""The contract between a cell (the maths of one time step) and `lrd_jax.recurrence` (time)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.arguments import as_reals, check_carry, check_input_shape, check_made_for
from lrd_jax.cells.initial import KERNEL_INITS, RECURRENT_INITS, Initializer
from lrd_jax.cells.materialise import materialise
from lrd_jax.errors import UserError, check_choice, check_fields


class LSTMCarry(NamedTuple):
    """State of a cell with a memory path. Unpacks as Flax's `(c, h)`.

    Attributes:
      c: memory, `(batch, hidden)`.
      h: hidden state and output, `(batch, hidden)`.
    """

    c: Array
    h: Array


class HiddenCarry(NamedTuple):
    """State of a cell whose only state is its output.

    Attributes:
      h: hidden state and output, `(batch, hidden)`.
    """

    h: Array


Carry = Any  # a NamedTuple of arrays, batch first, with a field `h`: the cell's `carry_type`


class ParameterGroup(NamedTuple):
    """Parameters of a cell that learn at a rate and with a decay of their own (`optim.groups`).

    Attributes:
      names: of the cell's parameters, or of modules that hold them.
      rate: factor on the learning rate.
      weight_decay: of all of them; None: as the others, `optim.weight_decay` on matrices.
    """

    names: tuple[str, ...]
    rate: float = 1.0
    weight_decay: float | None = None


def to_real(x: Array) -> Array:
    """A complex array as pairs of real numbers, `(..., 2)`; a real one as it is."""
    return jnp.stack([x.real, x.imag], axis=-1) if jnp.iscomplexobj(x) else x


def from_real(x: Array, like: Array) -> Array:
    """The inverse of `to_real`, for an array of the dtype of `like`."""
    return lax.complex(x[..., 0], x[..., 1]) if jnp.iscomplexobj(like) else x


def bfloat16_dot(x: Array, kernel: Array) -> Array:
    """Product of operands rounded to bfloat16, summed and returned in float32.

    Args:
      x: `(..., m)`.
      kernel: `(m, k)`.

    Returns:
      `(..., k)` float32: state and gates keep full precision.
    """
    operands = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return jnp.matmul(*operands, preferred_element_type=jnp.float32)


def _is_float(dtype: Any) -> bool:
    try:
        return dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        return False


class InputKernel(nn.Module):
    """The parameter `kernel`, `(n, width)`, made when the first input tells its n."""

    width: int
    init_kernel: Initializer
    param_dtype: Any

    @nn.compact
    def __call__(self, features: int) -> Array:
        """The kernel for n = `features`."""
        shape = (features, self.width)
        check_made_for(self, "kernel", features, shape)
        return self.param("kernel", self.init_kernel, shape, self.param_dtype)


# What says which cell is meant, where one is written in no form or in two.
FORMS = (
    "AdditiveCell with advance(carry, z), PointwiseCell with update(carry, zx, zh), LinearCell with"
    " coefficients(x), or RecurrentCell with step(carry, zx, h)"
)
_ASKED = {"time", "context"}
_OLD_WAY = ("additive", "pointwise", "has_memory")  # booleans that once stood for the forms


class RecurrentCell(nn.RNNCellBase):
    """Base of every cell: any step at all, unrolled by the scan path.

    A step is `step(carry, project(x), h)`. `project` does not depend on the state, so it is applied
    to all time steps in one matmul before the loop. `h` is what enters the recurrent product: the
    leaves of the carry that `recurrent_inputs` names, side by side, or a stopped copy of them.
    Detaching (h-detach) acts on what enters the product, while `carry` is always attached.

    A step that asks for more has keyword-only arguments of these names:

    * `time`: the step's index in its sequence, `(batch,)` int32, from 0.
    * `context`: what `Recurrence` got as `context`, leaves `(batch, ...)`: the same at every step.

    Derived forms say more about the step and are unrolled faster: `PointwiseCell`, `AdditiveCell`
    and `LinearCell`, in `lrd_jax.cells.forms`. The form is the type, so that a cell cannot claim
    one that it does not have; a class that overrides what its form fixes is refused.

    All pre-activations of a step are packed into one array of width K, sliced by `blocks()`.
    Parameters: `input/kernel` `(n, K)`, `recurrent_kernel` `(d, K)` and `bias` `(K,)`; a step that
    needs others creates them in `setup`.

    Attributes:
      hidden_size: number of units, d.
      kernel_init: initialiser of both kernels, a key of `KERNEL_INITS`.
      recurrent_init: another one for the recurrent kernel, block by block, a key of
        `RECURRENT_INITS`: `orthogonal` (Saxe et al. 2014, arXiv 1312.6120) or `identity`.
      param_dtype: dtype of the parameters, the state and the computation.
      dot: the matrix product of the recurrence, `jnp.matmul` or one of another precision.
      carry_type: class attribute, the NamedTuple of the state: `LSTMCarry`, `HiddenCarry`, or any
        other with a field `h`, the output. c-detach needs a field `c`.
      recurrent_inputs: class attribute, the leaves of the carry that enter the recurrent product,
        of d units each.
      derived: class attribute, leaves of the carry that no step reads, or that the first one does
        not, so that they have no learnt initial value.
      groups: class attribute, parameters with a learning rate and decay of their own.
      fixed: class attribute, the members that a class of this form must leave as they are.

    Raises:
      UserError: when an attribute has a value the cell cannot work with, or, as a class is
        defined, when it is not written in one of the forms.
    """

    hidden_size: int
    kernel_init: str = "uniform_rsqrt"
    param_dtype: Any = jnp.float32
    dot: Callable[[Array, Array], Array] = jnp.matmul
    recurrent_init: str = "kernel_init"

    carry_type: ClassVar[type[Any]]
    recurrent_inputs: ClassVar[tuple[str, ...]] = ("h",)
    derived: ClassVar[tuple[str, ...]] = ()
    groups: ClassVar[tuple[ParameterGroup, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ("update", "advance", "coefficients", *_OLD_WAY)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses a class that is not written in its form."""
        super().__init_subclass__(**kwargs)
        if "fixed" in cls.__dict__:  # a form
            return
        if unknown := sorted(cls.asks() - _ASKED):
            raise UserError(
                f"cell {cls.__name__} asks for {unknown[0]!r} at every step; there are"
                f" {' and '.join(sorted(_ASKED))} to ask for"
            )
        form: Any = next(base for base in cls.__mro__ if "fixed" in base.__dict__)
        for name in form.fixed:
            if getattr(cls, name, None) is not getattr(form, name, None):
                raise UserError(
                    f"cell {cls.__name__} has {name!r}, which is not for a {form.__name__} to set:"
                    f" the form of a cell is its type, {FORMS}; see docs/new_cell.md"
                )

    def __post_init__(self):
        check_fields(self)
        if not _is_float(self.param_dtype):
            raise UserError(f"param_dtype={self.param_dtype!r}: must be a dtype of real numbers")
        if not callable(self.dot):
            raise UserError("dot must be a function: jnp.matmul, or a product like it")
        if self.hidden_size < 1:
            raise UserError(f"hidden_size={self.hidden_size}: a cell needs at least one unit")
        check_choice("kernel_init", self.kernel_init, KERNEL_INITS)
        check_choice("recurrent_init", self.recurrent_init, RECURRENT_INITS)
        if "h" not in getattr(getattr(self, "carry_type", None), "_fields", ()):
            raise UserError(
                f"cell {type(self).__name__} needs a class attribute carry_type, a NamedTuple with"
                " a field h: HiddenCarry, LSTMCarry or one of its own"
            )
        super().__post_init__()

    def setup(self):
        """Creates the parameters."""
        width = sum(self.blocks().values())
        self.input = InputKernel(width, self.init_kernel, self.param_dtype)
        shape = (len(self.recurrent_inputs) * self.hidden_size, width)
        self.recurrent_kernel = self.param(
            "recurrent_kernel", self.init_recurrent_kernel, shape, self.param_dtype
        )
        self.bias = self.make_bias(width)

    def make_bias(self, width: int) -> Array:
        """The parameter `bias`; called once, by `setup`."""
        return self.param("bias", self.init_bias, (width,), self.param_dtype)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Name and width of each slice of the packed pre-activation, in order."""
        raise NotImplementedError

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """Options that the values of others switch off: name -> why; for the user to be told."""
        if self.recurrent_inputs:
            return {}
        return {"recurrent_init": "cell has no product of the state"}

    @nn.nowrap
    def init_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """Initial kernel, `(fan_in, K)`."""
        return KERNEL_INITS[self.kernel_init](key, shape, dtype, self.hidden_size)

    @nn.nowrap
    def init_recurrent_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """Initial recurrent kernel, `(d, K)`; with more rows where more leaves enter.

        A kernel that has some of the blocks alone is as wide as these.
        """
        init = RECURRENT_INITS[self.recurrent_init]
        if init is None:
            return self.init_kernel(key, shape, dtype)
        parts = []
        for row_key in jax.random.split(key, shape[0] // self.hidden_size):
            keys = jax.random.split(row_key, len(self.blocks()))
            widths = zip(keys, self.blocks().values(), strict=True)
            row = [init(key, (self.hidden_size, width), dtype) for key, width in widths]
            parts.append(jnp.concatenate(row, axis=1)[:, : shape[1]])
        return jnp.concatenate(parts)

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """Initial packed bias, `(K,)`."""
        del key
        return jnp.zeros(shape, dtype)

    @nn.nowrap
    def activate(self, z: Array, **others: Callable[[Array], Array]) -> dict[str, Array]:
        """Activates the blocks of a packed pre-activation: sigmoid, or as `others` says by name.

        Neighbouring sigmoid blocks share one call. The values are materialised: XLA's CPU compiler
        would otherwise compute them anew for everything that reads them.

        Args:
          z: `(..., K)`.
          **others: block name -> activation.

        Returns:
          Block name -> values, `(..., width)`.
        """
        blocks = self.blocks()
        runs: list[tuple[Callable[[Array], Array], list[str]]] = []
        for name in blocks:
            activation = others.get(name, nn.sigmoid)
            if runs and activation is nn.sigmoid is runs[-1][0]:
                runs[-1][1].append(name)
            else:
                runs.append((activation, [name]))
        widths = [sum(blocks[name] for name in names) for _, names in runs]
        parts = jax.lax.split(z, widths, z.ndim - 1)
        parts = materialise(
            [activation(part) for (activation, _), part in zip(runs, parts, strict=True)]
        )
        values: dict[str, Array] = {}
        for (_, names), part in zip(runs, parts, strict=True):
            slices = jax.lax.split(part, [blocks[name] for name in names], z.ndim - 1)
            values.update(zip(names, slices, strict=True))
        return values

    def effective_bias(self) -> Array:
        """What `project` adds to the input product, `(K,)`."""
        return self.bias

    def input_weights(self, features: int) -> tuple[Array, Array]:
        """Input kernel `(n, K)` for `n = features`, and the bias that goes with it, `(K,)`."""
        return self.input(features), self.effective_bias()

    def project(self, x: Array) -> Array:
        """Input part of the pre-activations, all biases included: `(..., n) -> (..., K)`."""
        kernel, bias = self.input_weights(x.shape[-1])
        return x.astype(self.param_dtype) @ kernel + bias

    def recurrent_weights(self) -> tuple[Array, Array | None]:
        """Recurrent kernel `(d, K)` and the bias inside the recurrent product `(K,)`, if any."""
        return self.recurrent_kernel, None

    def recur(self, h: Array) -> Array:
        """Recurrent part of the pre-activations: `(..., d) -> (..., K)`."""
        kernel, bias = self.recurrent_weights()
        zh = self.dot(h, kernel)
        return zh if bias is None else zh + bias

    @nn.nowrap
    def recurrent_input(self, carry: Carry) -> Any:
        """What of the state enters the recurrent product, `(batch, d)`, wider with more leaves."""
        leaves = [getattr(carry, name) for name in self.recurrent_inputs]
        if not leaves:
            return None
        return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)

    def step(self, carry: Carry, zx: Array, h: Any) -> Carry:
        """One step.

        Args:
          carry: state before the step, leaves `(batch, d)`.
          zx: `project(x_t)`, `(batch, K)`.
          h: what enters the recurrent product, `recurrent_input(carry)` or a stopped copy of it.

        Returns:
          The state after the step.
        """
        raise NotImplementedError

    @classmethod
    def asks(cls) -> frozenset[str]:
        """What a step asks for beside carry and input: `time`, `context`, both or neither."""
        return keywords(cls.step)

    def __call__(self, carry: Carry, inputs: Array, **asked: Any) -> tuple[Carry, Array]:
        """One step in Flax's convention, so that the cell works inside stock `nn.RNN`.

        Args:
          carry: state before the step.
          inputs: `(batch, n)`.
          **asked: `time` and `context`, for a cell that asks for them.

        Returns:
          The new state and the output h, `(batch, d)`.

        Raises:
          UserError: the cell asks for what it was not given, as inside `nn.RNN`, or was given what
            it does not ask for; a carry or inputs of another shape or dtype.
        """
        if missing := sorted(self.asks() - set(asked)):
            raise UserError(
                f"{type(self).__name__} needs {' and '.join(missing)} at every step: run it by"
                " lrd_jax.recurrence.Recurrence"
            )
        if strange := sorted(set(asked) - self.asks()):
            raise UserError(f"the step of {type(self).__name__} does not ask for {strange[0]}")
        inputs = as_reals("the input of a step", inputs)
        carry = check_carry(self, carry, inputs)
        h = self.recurrent_input(carry)
        carry = self.step(carry, self.project(inputs), h, **asked)
        return carry, carry.h

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Carry:
        """Zero state for inputs of shape `input_shape = (batch..., n)`; `rng` is not used."""
        del rng
        batch = check_input_shape(input_shape)[:-1]
        zeros = jnp.zeros((*batch, self.hidden_size), self.param_dtype)
        return self.carry_type(*(zeros for _ in self.carry_type._fields))

    @property
    def num_feature_axes(self) -> int:
        """Number of feature axes of the input, as Flax's `nn.RNN` asks for it."""
        return 1


def keywords(function: Callable[..., Any]) -> frozenset[str]:
    """Names of the keyword-only arguments."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
