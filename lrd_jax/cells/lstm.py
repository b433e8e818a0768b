"""The standard LSTM."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import LSTMCarry, materialise
from lrd_jax.cells.forms import AdditiveCell
from lrd_jax.errors import UserError, check_choice

BIAS_INITS = ("zeros", "two_uniform")


class LSTMCell(AdditiveCell):
    r"""Standard LSTM with a forget gate and an input gate of its own.

    $$f = \sigma(z_f), \quad i = \sigma(z_i), \quad u = \tanh(z_u), \quad o = \sigma(z_o)$$
    $$c_t = f c_{t-1} + i u, \qquad h_t = o \tanh(c_t)$$

    with $z = W_x x_t + W_h h_{t-1} + b$ packed as f, i, o, u.

    Reference: Hochreiter and Schmidhuber (1997), "Long Short-Term Memory"; forget gate: Gers et
    al. (2000), "Learning to forget"; forget bias 1: Jozefowicz et al. (2015), "An Empirical
    Exploration of Recurrent Network Architectures".

    Differences from earlier code: one bias vector per gate instead of the two of cuDNN and of the
    h-detach code, whose sum `bias_init="two_uniform"` with `forget_bias=0` draws.

    Attributes:
      forget_bias: added to the initial bias of the forget gate.
      bias_init: `zeros`, or `two_uniform`: the sum of two draws from U(-1/sqrt d, 1/sqrt d), the
        distribution of Arpit et al. (2019), "h-detach", arXiv 1810.03023.
      use_bias: whether there is a bias at all; without one `forget_bias` must be 0.
    """

    forget_bias: float = 1.0
    bias_init: str = "zeros"
    use_bias: bool = True

    carry_type: ClassVar[type[Any]] = LSTMCarry

    def __post_init__(self):
        super().__post_init__()
        check_choice("bias_init", self.bias_init, BIAS_INITS)
        if not self.use_bias and self.forget_bias:
            raise UserError(
                f"model.use_bias=False leaves no bias that model.forget_bias={self.forget_bias}"
                " could be added to: set that to 0"
            )

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """See `RecurrentCell.without_effect`."""
        return {} if self.use_bias else {"bias_init": "use_bias=False"}

    def make_bias(self, width: int) -> Array:
        """See `RecurrentCell.make_bias`; zeros without parameters if there is no bias."""
        return super().make_bias(width) if self.use_bias else jnp.zeros(width, self.param_dtype)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Forget, input and output gate, candidate, `d` units each."""
        return dict.fromkeys("fiou", self.hidden_size)

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """What `bias_init` says, plus `forget_bias` on the forget gate."""
        bias = jnp.zeros(shape, dtype)
        if self.bias_init == "two_uniform":
            bound = self.hidden_size**-0.5
            bias = jax.random.uniform(key, (2, *shape), dtype, -bound, bound).sum(axis=0)
        return bias.at[: self.hidden_size].add(self.forget_bias)

    @nn.nowrap
    def advance(self, carry: LSTMCarry, z: Array) -> LSTMCarry:
        """The step after the matrix products; shapes as in `AdditiveCell.advance`."""
        a = self.activate(z, u=jnp.tanh)
        c = materialise(a["f"] * carry.c + a["i"] * a["u"])
        return LSTMCarry(c=c, h=a["o"] * jnp.tanh(self.memory(c)))
