"""LEM: long expressive memory, two states with step sizes of their own."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import InputKernel, RecurrentCell
from lrd_jax.cells.cornn import OscillatorCarry, check_step_size


class LEMCell(RecurrentCell):
    r"""Long expressive memory; the output is y.

    $$t_y = \Delta \sigma(W_1 x + V_1 y + b_1), \qquad t_z = \Delta \sigma(W_2 x + V_2 y + b_2)$$
    $$z_t = (1 - t_z) z_{t-1} + t_z \tanh(W_z x + V_z y + b_z)$$
    $$y_t = (1 - t_y) y_{t-1} + t_y \tanh(W_y x + V_y z_t + b_y)$$

    with y = y_{t-1} in the first three; packed as 1, 2, z, y. Parameters: 4 d (n + d + 1).

    h-detach stops the states where they enter a product: y_{t-1} in the first three, in V_y z_t
    the copy of z_t that is made of stopped y_{t-1} and z_{t-1}. What this step's weights did to
    that copy keeps its gradient, as what they did to every other pre-activation.

    Reference: Rusch, Mishra, Erichson and Mahoney (2022), "Long Expressive Memory for Sequence
    Modeling", arXiv 2110.04744, eq. 3.

    Differences from earlier code: one bias where the code adds two, drawn as their sum.

    Attributes:
      step_size: Delta.
    """

    step_size: float = 0.1

    carry_type: ClassVar[type[Any]] = OscillatorCarry
    recurrent_inputs: ClassVar[tuple[str, ...]] = ("h", "z")

    def __post_init__(self):
        super().__post_init__()
        check_step_size(self)

    def setup(self) -> None:
        """Creates the parameters: V_1, V_2, V_z in `recurrent_kernel` (d, 3 d), V_y apart."""
        d, dtype = self.hidden_size, self.param_dtype
        self.input = InputKernel(4 * d, self.init_kernel, dtype)
        init = self.init_recurrent_kernel
        self.recurrent_kernel = self.param("recurrent_kernel", init, (d, 3 * d), dtype)
        self.memory_kernel = self.param("memory_kernel", init, (d, d), dtype)
        self.bias = self.param("bias", self.init_bias, (4 * d,), dtype)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Both step sizes, both candidates, `d` units each."""
        return dict.fromkeys(("ty", "tz", "z", "y"), self.hidden_size)

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """The sum of two draws from U(-1/sqrt d, 1/sqrt d)."""
        bound = self.hidden_size**-0.5
        return jax.random.uniform(key, (2, *shape), dtype, -bound, bound).sum(0)

    def step(self, carry: OscillatorCarry, zx: Array, h: Array) -> OscillatorCarry:
        """One step; `h` is y and z side by side, stopped where the step is detached."""
        d = self.hidden_size
        y, z = h[..., :d], h[..., d:]
        pre = zx[..., : 3 * d] + self.dot(y, self.recurrent_kernel)
        ty, tz = jnp.split(self.step_size * nn.sigmoid(pre[..., : 2 * d]), 2, axis=-1)
        drive = tz * jnp.tanh(pre[..., 2 * d :])
        entering = (1 - tz) * z + drive
        candidate = jnp.tanh(zx[..., 3 * d :] + self.dot(entering, self.memory_kernel))
        return OscillatorCarry(h=(1 - ty) * carry.h + ty * candidate, z=(1 - tz) * carry.z + drive)
