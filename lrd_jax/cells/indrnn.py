"""IndRNN: a recurrent network whose units see of the state only their own."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import HiddenCarry, InputKernel, RecurrentCell
from lrd_jax.errors import UserError


class IndRNNCell(RecurrentCell):
    r"""Independently recurrent network.

    $$h_t = \mathrm{relu}(W x_t + b + u h_{t-1}), \qquad |u| \le u_{\max}$$

    Parameters: d (n + 2). No product of the state, so there is nothing for h-detach to block.

    Reference: Li et al. (2018), "Independently Recurrent Neural Network (IndRNN): Building A Longer
    and Deeper RNN", arXiv 1803.04831, eq. 2.

    Differences from earlier code: u is bounded where it is used, and has no gradient outside; there
    it is clipped after each update. The batch norm after the activation is not part of the cell.

    Attributes:
      recurrent_max: u_max, 5^(1/T) there for T steps; 0 = no bound.
    """

    recurrent_max: float = 0.0

    carry_type: ClassVar[type[Any]] = HiddenCarry
    recurrent_inputs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        super().__post_init__()
        if self.recurrent_max < 0:
            raise UserError(f"recurrent_max={self.recurrent_max} must be 0 (no bound) or more")

    def setup(self) -> None:
        """Creates the parameters; u is uniform over (0, 1)."""
        d, dtype = self.hidden_size, self.param_dtype
        self.input = InputKernel(d, self.init_kernel, dtype)
        self.bias = self.param("bias", self.init_bias, (d,), dtype)
        self.recurrent = self.param("recurrent", jax.random.uniform, (d,), dtype)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """The one pre-activation, `d` units."""
        return {"h": self.hidden_size}

    def step(self, carry: HiddenCarry, zx: Array, h: Any) -> HiddenCarry:
        """One step; nothing enters a product, so h is None."""
        del h
        u, bound = self.recurrent, self.recurrent_max
        u = jnp.clip(u, -bound, bound) if bound else u
        return HiddenCarry(nn.relu(zx + u * carry.h))
