"""A recurrent cell that looks at a picture, or any other memory, at every step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Carry, InputKernel, RecurrentCell
from lrd_jax.cells.forms import LinearCell
from lrd_jax.errors import UserError


class Memory(NamedTuple):
    """What attention reads, of each picture; the same at every step.

    Attributes:
      values: `(pictures, P, F)`, what is read.
      keys: `(pictures, P, A)`, what a query is compared with.
    """

    values: Array
    keys: Array


def uniform_fan_in(fan_in: int) -> Any:
    """An initialiser, U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's of a linear layer."""
    bound = 1 / math.sqrt(fan_in)

    def draw(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def torch_dense(width: int, fan_in: int, name: str | None = None) -> nn.Dense:
    """A dense layer that starts like PyTorch's linear layer, uniform by 1 / sqrt(`fan_in`).

    Args:
      width: of its output.
      fan_in: width of its input.
      name: of the module.
    """
    init = uniform_fan_in(fan_in)
    return nn.Dense(width, kernel_init=init, bias_init=init, name=name)


class AttendingCell(RecurrentCell):
    r"""Another cell, with what attention reads beside its input.

    $$e_k = v \cdot \tanh(K_k + Q h_{t-1} + q) + v_0, \quad \alpha = \mathrm{softmax}(e), \quad
      z_x \mathrel{+}= W_a \sum_k \alpha_k a_k$$

    with keys $K_k$ and values $a_k$ of the `context`, a `Memory`. The soft attention of Xu et al.
    (2015), "Show, Attend and Tell", arXiv:1502.03044, in the form of the code of Arpit et al.
    (2019), arXiv:1810.03023: neither gate nor penalty.

    The memory is one of each picture, while a picture has one row of the batch or several, side by
    side, that is, batch = pictures * R. So it need not be repeated for each caption.

    Parameters beside those of the cell: `context/kernel` `(F, K)`, dense layers `query`, `score`.

    Attributes:
      inner: the cell; its step must be made of pre-activations, and ask for nothing else.
      attention_size: A.
      stop_query: the query sees what enters the cell's product, so that h-detach blocks its
        gradient too; else it sees the state itself, as in Arpit et al.
    """

    inner: RecurrentCell | None = None
    attention_size: int = 512
    stop_query: bool = False

    def __post_init__(self):
        if self.inner is None or isinstance(self.inner, LinearCell) or self.inner.asks():
            raise UserError(
                "attention adds to the pre-activations of a cell that is made of them alone, and"
                f" {type(self.inner).__name__} is not: use another model.cell"
            )
        if self.attention_size < 1:
            raise UserError(f"model.attention_size={self.attention_size} must be at least 1")
        super().__post_init__()

    def setup(self) -> None:
        """Takes over the parameters of the cell, and creates those of the attention."""
        assert self.inner is not None
        self.cell = self.inner.clone(parent=None, name=None)
        nn.share_scope(self, self.cell)
        self.query = torch_dense(self.attention_size, len(self.recurrent_inputs) * self.hidden_size)
        self.score = torch_dense(1, self.attention_size)
        width = sum(self.blocks().values())
        self.context = InputKernel(width, self.init_kernel, self.param_dtype)

    # Of the cell inside; class attributes elsewhere.

    @property
    def carry_type(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `RecurrentCell`."""
        return getattr(self.inner, "carry_type", None)

    @property
    def recurrent_inputs(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `RecurrentCell`."""
        return getattr(self.inner, "recurrent_inputs", ())

    @property
    def derived(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `RecurrentCell`."""
        return getattr(self.inner, "derived", ())

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Those of the cell."""
        assert self.inner is not None
        return self.inner.blocks()

    @nn.nowrap
    def init_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """As the cell's."""
        assert self.inner is not None
        return self.inner.init_kernel(key, shape, dtype)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Carry:
        """The cell's."""
        assert self.inner is not None
        return self.inner.initialize_carry(rng, input_shape)

    def project(self, x: Array) -> Array:
        """The cell's part of the pre-activations that its input makes, without the memory's."""
        return self.cell.project(x)

    def recur(self, h: Array) -> Array:
        """The cell's product of the state."""
        return self.cell.recur(h)

    def weights(self, h: Array, memory: Memory) -> Array:
        """How much attention each part of the memory gets.

        Args:
          h: what asks, `(pictures * R, d)`.
          memory: of the pictures.

        Returns:
          `(pictures, R, P)`, rows that sum to 1.
        """
        pictures = len(memory.keys)
        query = self.query(h).reshape(pictures, -1, 1, self.attention_size)
        scores = self.score(jnp.tanh(memory.keys[:, None] + query))
        return jax.nn.softmax(scores[..., 0])

    def step(self, carry: Carry, zx: Array, h: Array, *, context: Memory) -> Carry:
        """See `RecurrentCell.step`."""
        weights = self.weights(h if self.stop_query else self.recurrent_input(carry), context)
        seen = weights @ context.values  # one product (R, P) x (P, F) for each picture
        seen = seen.reshape(len(zx), -1)
        zx = zx + seen @ self.context(seen.shape[-1])
        return self.cell.step(carry, zx, h)
