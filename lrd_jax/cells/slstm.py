"""sLSTM: an LSTM with exponential gates and a normaliser, kept finite by a running maximum."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import InputKernel
from lrd_jax.cells.forms import AdditiveCell
from lrd_jax.errors import UserError


class SLSTMCarry(NamedTuple):
    """State of an sLSTM, leaves `(batch, hidden)`.

    Attributes:
      h: hidden state and output.
      c: memory, in units of exp(m).
      n: normaliser, in the same units; 0 before the first step alone.
      m: logarithm of the scale of both.
    """

    h: Array
    c: Array
    n: Array
    m: Array


class SLSTMCell(AdditiveCell):
    r"""Scalar LSTM of the xLSTM, with memory mixing within each head.

    $$l = m_{t-1} + \log \sigma(z_f), \quad m_t = \max(z_i, l), \quad i = e^{z_i - m_t}, \quad
      f = e^{l - m_t}$$
    $$c_t = f c_{t-1} + i \tanh(z_v), \quad n_t = f n_{t-1} + i, \quad
      h_t = \sigma(z_o) c_t / n_t$$

    with $z = W x_t + R h_{t-1} + b$ packed as i, f, v, o, R block-diagonal by heads; m_t = z_i at
    the first step. Parameters: 4 d (n + d / heads + 1). No gradient is stopped through m.

    Reference: Beck et al. (2024), "xLSTM: Extended Long Short-Term Memory", arXiv 2405.04517, eq.
    8-17; the initial values are those of the code (NX-AI/xlstm).

    Differences from earlier code: the cell alone, without the convolution, group norm and gated
    feed-forward around it; W is dense, not headwise; f's bias falls from 5 to -7 over each head as
    there in a network of one block.

    Attributes:
      heads: groups of units that do not mix in R.
    """

    heads: int = 1

    carry_type: ClassVar[type[Any]] = SLSTMCarry

    def __post_init__(self):
        super().__post_init__()
        if self.heads < 1 or self.hidden_size % self.heads:
            raise UserError(f"heads={self.heads} must divide hidden_size={self.hidden_size}")

    def setup(self) -> None:
        """Creates the parameters; `recurrent_kernel` is `(heads, d / heads, 4, d / heads)`."""
        d, dtype = self.hidden_size, self.param_dtype
        width = d // self.heads
        self.input = InputKernel(4 * d, self.init_kernel, dtype)
        shape = (self.heads, width, 4, width)
        self.recurrent_kernel = self.param("recurrent_kernel", nn.initializers.zeros, shape, dtype)
        self.bias = self.param("bias", self.init_bias, (4 * d,), dtype)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Input and forget gate, candidate, output gate, `d` units each."""
        return dict.fromkeys("ifvo", self.hidden_size)

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """See `RecurrentCell.without_effect`."""
        drawn = "cell=slstm draws W from N(0, 2 / (5 n)) and starts R at 0"
        return {"kernel_init": drawn, "recurrent_init": drawn}

    @nn.nowrap
    def init_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """N(0, 2 / (5 n))."""
        return math.sqrt(0.4 / shape[0]) * jax.random.normal(key, shape, dtype)

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """Zeros, and for f from 5 to -7 over the units of a head."""
        del key
        d, width = self.hidden_size, self.hidden_size // self.heads
        place = jnp.arange(width, dtype=dtype) / max(width - 1, 1)
        forget = jnp.tile(5 - 12 * place**0.3, self.heads)
        return jnp.zeros(shape, dtype).at[d : 2 * d].set(forget)

    def recurrent_weights(self) -> tuple[Array, None]:
        """R as one matrix, `(d, 4 d)`, zero between heads."""
        apart = jnp.eye(self.heads, dtype=self.recurrent_kernel.dtype)
        whole = jnp.einsum("haib,hg->haigb", self.recurrent_kernel, apart)
        return whole.reshape(self.hidden_size, -1), None

    @nn.nowrap
    def advance(self, carry: SLSTMCarry, z: Array) -> SLSTMCarry:
        """The step after the matrix products."""
        i, f, v, o = jnp.split(z, 4, axis=-1)
        kept = carry.m + nn.log_sigmoid(f)
        first = carry.n == 0
        m = jnp.where(first, i, jnp.maximum(i, kept))
        i = jnp.exp(i - m)
        f = jnp.exp(jnp.where(first, 0, kept - m))  # of nothing; finite, whatever i is
        c, n = f * carry.c + i * jnp.tanh(v), f * carry.n + i
        return SLSTMCarry(h=nn.sigmoid(o) * c / n, c=c, n=n, m=m)
