"""coRNN: a network of coupled, damped and driven oscillators."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.forms import AdditiveCell
from lrd_jax.errors import UserError


class OscillatorCarry(NamedTuple):
    """Places and velocities of oscillators.

    Attributes:
      h: places y, the output, `(batch, hidden)`.
      z: velocities, `(batch, hidden)`.
    """

    h: Array
    z: Array


def check_step_size(cell: Any) -> None:
    """Raises UserError where a step in time is not above 0."""
    if cell.step_size <= 0:
        raise UserError(f"step_size={cell.step_size} must be above 0")


class CoRNNCell(AdditiveCell):
    r"""Coupled oscillatory recurrent neural network.

    $$z_t = z_{t-1} + \Delta (\tanh(W [x_t, z_{t-1}, y_{t-1}] + b) - \gamma y_{t-1}
      - \epsilon z_{t-1}), \qquad y_t = y_{t-1} + \Delta z_t$$

    The output is y. Parameters: d (n + 2 d + 1). h-detach stops z and y where they enter the
    product with W; the terms of gamma and epsilon, and z in the sum, stay attached.

    Reference: Rusch and Mishra (2021), "Coupled Oscillatory Recurrent Neural Network (coRNN): An
    accurate and (gradient) stable architecture for learning long time dependencies", arXiv
    2010.00951, eq. 3.

    Differences from earlier code: none in the equations. With `kernel_init=uniform_rsqrt` W and b
    come from U(-1/sqrt(2 d), 1/sqrt(2 d)); there, torch's Linear has n + 2 d in the place of 2 d.

    Attributes:
      step_size: Delta.
      stiffness: gamma.
      damping: epsilon.
    """

    step_size: float = 0.1
    stiffness: float = 1.0
    damping: float = 1.0

    carry_type: ClassVar[type[Any]] = OscillatorCarry
    recurrent_inputs: ClassVar[tuple[str, ...]] = ("z", "h")

    def __post_init__(self):
        super().__post_init__()
        check_step_size(self)

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """The one pre-activation, `d` units."""
        return {"u": self.hidden_size}

    @nn.nowrap
    def init_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """With `uniform_rsqrt`, that of a layer that reads 2 d units (and the few of the input)."""
        kernel = super().init_kernel(key, shape, dtype)
        return kernel / jnp.sqrt(2).astype(dtype) if self.kernel_init == "uniform_rsqrt" else kernel

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """From the same interval."""
        bound = (2 * self.hidden_size) ** -0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    @nn.nowrap
    def advance(self, carry: OscillatorCarry, z: Array) -> OscillatorCarry:
        """The step after the matrix product."""
        force = jnp.tanh(z) - self.stiffness * carry.h - self.damping * carry.z
        velocity = carry.z + self.step_size * force
        return OscillatorCarry(h=carry.h + self.step_size * velocity, z=velocity)
