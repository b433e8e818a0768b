"""UnICORNN: independent undamped oscillators, each with a frequency of its own."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import InputKernel, RecurrentCell
from lrd_jax.cells.cornn import OscillatorCarry, check_step_size


class UnICORNNCell(RecurrentCell):
    r"""Undamped independent controlled oscillatory recurrent network; the output is y.

    $$a = \Delta \sigma(c), \quad z_t = z_{t-1} - a (\tanh(w y_{t-1} + V x_t + b) + \alpha y_{t-1}),
      \quad y_t = y_{t-1} + a z_t$$

    Parameters: d (n + 3). No product of the state, so there is nothing for h-detach to block. w is
    uniform over (0, 1), c over (-0.1, 0.1), V over (-r, r) with r = sqrt(6 / (65 n)), b = 0.

    Reference: Rusch and Mishra (2021), "UnICORNN: A recurrent neural network for learning very long
    time dependencies", arXiv 2103.05487, eq. 3.

    Differences from earlier code: states are stored for the backward pass, not rebuilt.

    Attributes:
      step_size: Delta.
      stiffness: alpha.
    """

    step_size: float = 0.1
    stiffness: float = 1.0

    carry_type: ClassVar[type[Any]] = OscillatorCarry
    recurrent_inputs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        super().__post_init__()
        check_step_size(self)

    def setup(self) -> None:
        """Creates the parameters."""
        d, dtype = self.hidden_size, self.param_dtype
        self.input = InputKernel(d, self.init_kernel, dtype)
        self.bias = self.param("bias", self.init_bias, (d,), dtype)
        self.recurrent = self.param("recurrent", jax.random.uniform, (d,), dtype)
        self.rate = self.param("rate", jax.random.uniform, (d,), dtype, -0.1, 0.1)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """The one pre-activation, `d` units."""
        return {"u": self.hidden_size}

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """See `RecurrentCell.without_effect`."""
        return super().without_effect() | {
            "kernel_init": "cell=unicornn draws V from U(-r, r), r = sqrt(6 / (65 n))"
        }

    @nn.nowrap
    def init_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """U(-r, r) with r = sqrt(6 / (65 n))."""
        bound = math.sqrt(6 / (65 * shape[0]))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    def step(self, carry: OscillatorCarry, zx: Array, h: Any) -> OscillatorCarry:
        """One step; nothing enters a product, so h is None."""
        del h
        pace = self.step_size * nn.sigmoid(self.rate)
        force = jnp.tanh(self.recurrent * carry.h + zx) + self.stiffness * carry.h
        velocity = carry.z - pace * force
        return OscillatorCarry(h=carry.h + pace * velocity, z=velocity)
