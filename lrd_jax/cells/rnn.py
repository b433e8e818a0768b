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
    """

    activation: str = "tanh"

    carry_type: ClassVar[type[Any]] = HiddenCarry

    def __post_init__(self):
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """The one pre-activation, `d` units."""
        return {"h": self.hidden_size}

    @nn.nowrap
    def advance(self, carry: HiddenCarry, z: Array) -> HiddenCarry:
        """The step after the matrix products; shapes as in `AdditiveCell.advance`."""
        del carry
        return HiddenCarry(ACTIVATIONS[self.activation](z))
