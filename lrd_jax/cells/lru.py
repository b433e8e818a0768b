"""The linear recurrent unit: a complex diagonal recurrence with a learnt decay and frequency."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.arguments import check_input_shape, check_made_for
from lrd_jax.cells.base import ParameterGroup
from lrd_jax.cells.forms import LinearCarry, LinearCell
from lrd_jax.errors import UserError


class LRUCell(LinearCell):
    r"""Linear recurrent unit, run by the parallel scan.

    $$\lambda = \exp(-e^{\nu} + i e^{\theta}), \quad s_t = \lambda s_{t-1} + e^{g} (B x_t), \quad
      h_t = \mathrm{Re}(C s_t) + D x_t$$

    with s in C^N. At first |lambda|^2 is uniform over (r_min^2, r_max^2), the phase uniform over
    (0, max_phase) and e^g = sqrt(1 - |lambda|^2). Parameters: 3 N + 2 N n + 2 N d + d.

    Reference: Orvieto et al. (2023), "Resurrecting Recurrent Neural Networks for Long Sequences",
    arXiv 2303.06349. nu, theta, g and B learn at half the rate without decay, as in the
    reimplementation NicolasZucchet/minimal-LRU.

    Differences from earlier code: the cell alone; norm, activation and the layers around it are
    those of the network. With inputs as wide as the output D is a vector, as there; with others it
    is a matrix (n, d) drawn from N(0, 1/n).

    Attributes:
      state_size: N, complex numbers of state; 0 = hidden_size.
      r_min: least initial |lambda|.
      r_max: largest initial |lambda|, at most 1.
      max_phase: largest initial phase, radians.
    """

    state_size: int = 0
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 6.28

    groups: ClassVar[tuple[ParameterGroup, ...]] = (
        ParameterGroup(("nu", "theta", "gain", "input_map"), rate=0.5, weight_decay=0.0),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.state_size < 0:
            raise UserError(f"state_size={self.state_size} must be 0 (hidden_size) or more")
        if not 0 <= self.r_min < self.r_max <= 1:
            raise UserError(f"r_min={self.r_min}, r_max={self.r_max}: need 0 <= r_min < r_max <= 1")
        if not 0 < self.max_phase <= 6.3:
            raise UserError(f"max_phase={self.max_phase} must be above 0, at most 2 pi")

    @property
    def units(self) -> int:
        """N, complex numbers of state."""
        return self.state_size or self.hidden_size

    def setup(self) -> None:
        """Creates the parameters that no input tells the size of."""
        n, d, dtype = self.units, self.hidden_size, self.param_dtype

        def nu(key: Array) -> Array:
            low, high = self.r_min**2, self.r_max**2
            squared = jax.random.uniform(key, (n,), dtype, minval=max(low, 1e-12), maxval=high)
            return jnp.log(-0.5 * jnp.log(squared))

        def theta(key: Array) -> Array:
            draws = jax.random.uniform(key, (n,), dtype, minval=1e-6, maxval=1)
            return jnp.log(self.max_phase * draws)

        self.nu = self.param("nu", nu)
        self.theta = self.param("theta", theta)
        norm = jnp.exp(-2 * jnp.exp(self.nu))
        self.gain = self.param("gain", lambda _: jnp.log(jnp.sqrt(1 - norm)))
        normal = nn.initializers.normal(1 / math.sqrt(n))
        self.read_out = self.param("read_out", normal, (n, d, 2), dtype)
        self.input_map = Sized(
            lambda key, m: nn.initializers.normal(1 / math.sqrt(2 * m))(key, (m, n, 2), dtype)
        )
        self.skip = Sized(skip_init(d, dtype))

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> LinearCarry:
        """A complex state of zeros."""
        del rng
        return complex_zeros(input_shape, self.hidden_size, self.units, self.param_dtype)

    def coefficients(self, x: Array) -> tuple[Array, Array]:
        """See `LinearCell.coefficients`."""
        decay = jnp.exp(lax.complex(-jnp.exp(self.nu), jnp.exp(self.theta)))
        kernel = self.input_map(x.shape[-1]) * jnp.exp(self.gain)[:, None]
        b = lax.complex(x @ kernel[..., 0], x @ kernel[..., 1])
        return jnp.broadcast_to(decay, b.shape), b

    def read(self, s: Array, x: Array) -> Array:
        """Re(C s) + D x."""
        c = self.read_out
        return s.real @ c[..., 0] - s.imag @ c[..., 1] + skipped(self.skip(x.shape[-1]), x)


class Sized(nn.Module):
    """The parameter `value`, whose shape the first input tells.

    Attributes:
      init: `(key, n)` to its initial value, for inputs of n features.
    """

    init: Callable[[Array, int], Array]

    @nn.compact
    def __call__(self, n: int) -> Array:
        """The parameter for inputs of n features."""
        drawn = jax.eval_shape(lambda: self.init(jax.random.key(0), n))
        check_made_for(self, "value", n, drawn.shape)
        return self.param("value", self.init, n)


def skip_init(d: int, dtype: Any) -> Callable[[Array, int], Array]:
    """What inputs add to outputs: a vector where they are as wide, else a matrix `(n, d)`."""

    def init(key: Array, n: int) -> Array:
        shape, deviation = ((d,), 1.0) if n == d else ((n, d), n**-0.5)
        return nn.initializers.normal(deviation)(key, shape, dtype)

    return init


def complex_zeros(
    input_shape: tuple[int, ...], hidden_size: int, units: int, dtype: Any
) -> LinearCarry:
    """A complex state (batch, units) and an output (batch, hidden_size) of zeros.

    Args:
      input_shape: (batch, features) of a step.
      hidden_size: numbers of the output.
      units: complex numbers of the state.
      dtype: of the output; real.
    """
    batch = check_input_shape(input_shape)[:-1]
    h = jnp.zeros((*batch, hidden_size), dtype)
    return LinearCarry(jnp.zeros((*batch, units), jnp.result_type(h, jnp.complex64)), h)


def skipped(skip: Array, x: Array) -> Array:
    """The share of the inputs `(..., n)` in the outputs, `(..., d)`."""
    return x * skip if skip.ndim == 1 else x @ skip
