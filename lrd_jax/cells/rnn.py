"""The Elman recurrent network, without gates."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import HiddenCarry
from lrd_jax.cells.forms import AdditiveCell
from lrd_jax.errors import check_choice

ACTIVATIONS = {"tanh": jnp.tanh, "relu": nn.relu}
RECURRENT_INITS = ("kernel_init", "identity")


class RNNCell(AdditiveCell):
    r"""Elman network.

    $$h_t = \phi(W_x x_t + W_h h_{t-1} + b)$$

    With `activation="relu"` and `recurrent_init="identity"` it is the IRNN.

    Reference: Elman (1990), "Finding Structure in Time"; IRNN: Le, Jaitly and Hinton (2015), "A
    Simple Way to Initialize Recurrent Networks of Rectified Linear Units", arXiv 1504.00941.

    Differences from earlier code: one bias vector; the IRNN paper draws the input kernel from
    N(0, 0.001^2), here it is drawn as `kernel_init` says.

    Attributes:
      activation: phi, `tanh` or `relu`.
      recurrent_init: `kernel_init` draws the recurrent kernel as the input kernel; `identity`.
    """

    activation: str = "tanh"
    recurrent_init: str = "kernel_init"

    carry_type: ClassVar[type[Any]] = HiddenCarry

    def __post_init__(self):
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("recurrent_init", self.recurrent_init, RECURRENT_INITS)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """The one pre-activation, `d` units."""
        return {"h": self.hidden_size}

    @nn.nowrap
    def init_recurrent_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """What `recurrent_init` says."""
        if self.recurrent_init == "identity":
            return jnp.eye(*shape, dtype=dtype)
        return self.init_kernel(key, shape, dtype)

    @nn.nowrap
    def advance(self, carry: HiddenCarry, z: Array) -> HiddenCarry:
        """The step after the matrix products; shapes as in `AdditiveCell.advance`."""
        del carry
        return HiddenCarry(ACTIVATIONS[self.activation](z))
