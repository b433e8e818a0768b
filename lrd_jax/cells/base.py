"""The contract between a cell (the maths of one time step) and `lrd_jax.recurrence` (time)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.errors import UserError

Initializer = Callable[..., Array]  # (key, shape, dtype)


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


Carry = LSTMCarry | HiddenCarry


# Keeps XLA from fusing a value into its readers, each of which would compute it again.
materialise = jax.lax.optimization_barrier


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


def check_choice(key: str, value: str, known: Iterable[str]) -> None:
    """Raises `UserError` naming the known values, and the nearest one, unless `value` is known."""
    known = list(known)
    if value in known:
        return
    nearest = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"{key}={value!r} is not known; use one of {', '.join(known)}{hint}")


def _uniform_rsqrt(key: Array, shape: tuple[int, int], dtype: Any, hidden_size: int) -> Array:
    bound = 1 / math.sqrt(hidden_size)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _xavier_normal(key: Array, shape: tuple[int, int], dtype: Any, hidden_size: int) -> Array:
    # Each gate is a matrix of its own: fan_out is one block, not the packed width.
    return math.sqrt(2 / (shape[0] + hidden_size)) * jax.random.normal(key, shape, dtype)


def _truncated_normal(key: Array, shape: tuple[int, int], dtype: Any, hidden_size: int) -> Array:
    del hidden_size
    return jax.random.truncated_normal(key, -2, 2, shape, dtype) / math.sqrt(shape[0])


# Initialisers of both kernels, of shape (fan_in, packed width).
KERNEL_INITS: dict[str, Callable[[Array, tuple[int, int], Any, int], Array]] = {
    "uniform_rsqrt": _uniform_rsqrt,  # U(-1/sqrt d, 1/sqrt d), as torch.nn.LSTM
    "xavier": _xavier_normal,  # N(0, 2 / (fan_in + d))
    "trunc_normal": _truncated_normal,  # N(0, 1 / fan_in) cut at two standard deviations
}


class _InputKernel(nn.Module):
    """The parameter `kernel`, `(n, width)`, made when the first input tells its n."""

    width: int
    init_kernel: Initializer
    param_dtype: Any

    @nn.compact
    def __call__(self, features: int) -> Array:
        return self.param("kernel", self.init_kernel, (features, self.width), self.param_dtype)


class RecurrentCell(nn.RNNCellBase):
    """Base of every cell: one time step, split so that time can be unrolled fast.

    A step is `update(carry, project(x), recur(h))`. `project` does not depend on the state, so
    it is applied to all time steps in one matmul before the loop. `update` has no parameters,
    which lets the fast path form the gradient of the recurrent weights in one matmul after the
    loop. `h` is `carry.h` or a stopped copy of it: detaching (h-detach) acts on what enters the
    matrix products, while `update` always sees the attached carry.

    A cell whose recurrence is not of that form (a product inside the nonlinearity, as in the
    reset-before GRU) overrides `step` and sets `pointwise = False`; it runs on the scan path.

    All pre-activations of a step are packed into one array of width K, sliced by `blocks()`.
    Parameters: `input/kernel` `(n, K)`, `recurrent_kernel` `(d, K)` and `bias` `(K,)`.

    Attributes:
      hidden_size: number of units, d.
      kernel_init: initialiser of both kernels, a key of `KERNEL_INITS`.
      param_dtype: dtype of the parameters, the state and the computation.
      dot: the matrix product of the recurrence, `jnp.matmul` or one of another precision.
      pointwise: `step` is `update` of `recur` as above, so the fast path applies.
      additive: `update` depends on `zx + zh` only.
      has_memory: the carry is an `LSTMCarry`; otherwise a `HiddenCarry`.

    Raises:
      UserError: when an attribute has a value the cell cannot work with.
    """

    hidden_size: int
    kernel_init: str = "uniform_rsqrt"
    param_dtype: Any = jnp.float32
    dot: Callable[[Array, Array], Array] = jnp.matmul

    pointwise: ClassVar[bool] = True
    additive: ClassVar[bool] = True
    has_memory: ClassVar[bool] = True

    def __post_init__(self):
        if self.hidden_size < 1:
            raise UserError(f"hidden_size={self.hidden_size}: a cell needs at least one unit")
        check_choice("kernel_init", self.kernel_init, KERNEL_INITS)
        super().__post_init__()

    def setup(self):
        """Creates the parameters."""
        width = sum(self.blocks().values())
        self.input = _InputKernel(width, self.init_kernel, self.param_dtype)
        shape = (self.hidden_size, width)
        self.recurrent_kernel = self.param(
            "recurrent_kernel", self.init_recurrent_kernel, shape, self.param_dtype
        )
        self.bias = self.param("bias", self.init_bias, (width,), self.param_dtype)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Name and width of each slice of the packed pre-activation, in order."""
        raise NotImplementedError

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """Options that the values of others switch off: name -> why; for the user to be told."""
        return {}

    @nn.nowrap
    def init_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """Initial kernel, `(fan_in, K)`."""
        return KERNEL_INITS[self.kernel_init](key, shape, dtype, self.hidden_size)

    @nn.nowrap
    def init_recurrent_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """Initial recurrent kernel, `(d, K)`."""
        return self.init_kernel(key, shape, dtype)

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
    def update(self, carry: Carry, zx: Array, zh: Array) -> Carry:
        """The parameter-free rest of the step.

        Args:
          carry: state before the step, leaves `(batch, d)`.
          zx: `project(x_t)`, `(batch, K)`.
          zh: `recur(h)`, `(batch, K)`.

        Returns:
          The state after the step.
        """
        raise NotImplementedError

    def step(self, carry: Carry, zx: Array, h: Array) -> Carry:
        """One step from projected inputs; `h` is what enters the matrix products."""
        return self.update(carry, zx, self.recur(h))

    def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        """One step in Flax's convention, so that the cell works inside stock `nn.RNN`.

        Args:
          carry: state before the step.
          inputs: `(batch, n)`.

        Returns:
          The new state and the output h, `(batch, d)`.
        """
        carry = type(self).carry_type()(*carry)
        carry = self.step(carry, self.project(inputs), carry.h)
        return carry, carry.h

    @classmethod
    def carry_type(cls) -> type[Carry]:
        """The NamedTuple of this cell's state."""
        return LSTMCarry if cls.has_memory else HiddenCarry

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Carry:
        """Zero state for inputs of shape `input_shape = (batch..., n)`; `rng` is not used."""
        del rng
        zeros = jnp.zeros((*input_shape[:-1], self.hidden_size), self.param_dtype)
        return self.carry_type()(*(zeros for _ in self.carry_type()._fields))

    @property
    def num_feature_axes(self) -> int:
        """Number of feature axes of the input, as Flax's `nn.RNN` asks for it."""
        return 1
