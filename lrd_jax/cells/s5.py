"""S5: a continuous diagonal state space, started at HiPPO's modes and sampled at learnt steps."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.base import ParameterGroup, to_real
from lrd_jax.cells.forms import LinearCarry, LinearCell
from lrd_jax.cells.lru import Sized, complex_zeros, skip_init, skipped
from lrd_jax.errors import UserError

_LEAST_DAMPING = 1e-4


class S5Cell(LinearCell):
    r"""Simplified state space layer with a diagonal state, run by the parallel scan.

    $$\lambda = \exp(\Lambda \Delta), \qquad
      s_t = \lambda s_{t-1} + \Lambda^{-1} (\lambda - 1) B x_t, \qquad
      h_t = 2 \mathrm{Re}(C s_t) + D x_t$$

    with s in C^N, one number of each of N conjugate pairs, and a step $\Delta$ of its own for each
    (zero-order hold). Re Lambda stays at most -1e-4. At first Lambda holds the modes of the normal
    part of the HiPPO matrix of order 2 `hippo_size`, again and again up to N; B = V* B_0 and
    C = C_0 V with its eigenvectors V, B_0 and C_0 random; log Delta is uniform over (log step_min,
    log step_max). Parameters: 3 N + 2 N n + 2 N d + d.

    Reference: Smith, Warrington and Linderman (2023), "Simplified State Space Layers for Sequence
    Modeling", arXiv 2208.04933, section 3. Lambda, Delta and B learn at 2/9 of the rate without
    decay: 1e-3 beside 4.5e-3 in the authors' setting for images.

    Differences from earlier code: the cell alone; norm, activation and the layers around it are
    those of the network. Eigenvalues are always kept left of the axis, an option there. C_0 has the
    deviation 1/sqrt(2 N) of `trunc_standard_normal`. With inputs as wide as the output D is a
    vector, as there; with others it is a matrix (n, d) drawn from N(0, 1/n).

    Attributes:
      state_size: N, complex numbers of state; 0 = hidden_size.
      hippo_size: those that share a HiPPO matrix at the start; 0 = all.
      step_min: least initial Delta.
      step_max: largest initial Delta.
    """

    state_size: int = 0
    hippo_size: int = 0
    step_min: float = 1e-3
    step_max: float = 0.1

    groups: ClassVar[tuple[ParameterGroup, ...]] = (
        ParameterGroup(("poles", "log_step", "input_map"), rate=2 / 9, weight_decay=0.0),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.state_size < 0:
            raise UserError(f"state_size={self.state_size} must be 0 (hidden_size) or more")
        if self.hippo_size < 0 or (self.hippo_size and self.units % self.hippo_size):
            raise UserError(
                f"hippo_size={self.hippo_size} must be 0 (all), or divide the {self.units} numbers"
                " of state"
            )
        if not 0 < self.step_min < self.step_max:
            raise UserError(
                f"step_min={self.step_min}, step_max={self.step_max}: need 0 < step_min < step_max"
            )

    @property
    def units(self) -> int:
        """N, complex numbers of state."""
        return self.state_size or self.hidden_size

    def setup(self) -> None:
        """Creates the parameters that no input tells the size of."""
        n, d, dtype = self.units, self.hidden_size, self.param_dtype
        size = self.hippo_size or n
        count = n // size
        poles, vectors = _modes(size)
        low, high = math.log(self.step_min), math.log(self.step_max)
        lecun = nn.initializers.lecun_normal()

        def projected(matrix: np.ndarray, random: Array) -> Array:
            """Block by block `matrix` (2 size, size) times `random` (2 n, m), as (n, m, 2)."""
            parts = jnp.asarray(matrix, jnp.result_type(dtype, jnp.complex64))
            blocks = random.reshape(count, 2 * size, -1)
            return to_real(jnp.einsum("pk,bpm->bkm", parts, blocks).reshape(n, -1)).astype(dtype)

        def input_map(key: Array, m: int) -> Array:
            return projected(vectors.conj(), lecun(key, (2 * n, m), dtype)).swapaxes(0, 1)

        def read_out(key: Array) -> Array:
            real, imaginary = jnp.split(lecun(key, (2 * n, 2 * d), dtype), 2, axis=1)
            return projected(vectors, lax.complex(real, imaginary))

        self.poles = self.param("poles", lambda _: jnp.asarray(np.tile(poles, (count, 1)), dtype))
        self.log_step = self.param("log_step", jax.random.uniform, (n,), dtype, low, high)
        self.read_out = self.param("read_out", read_out)
        self.input_map = Sized(input_map)
        self.skip = Sized(skip_init(d, dtype))

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> LinearCarry:
        """A complex state of zeros."""
        del rng
        return complex_zeros(input_shape, self.hidden_size, self.units, self.param_dtype)

    def coefficients(self, x: Array) -> tuple[Array, Array]:
        """See `LinearCell.coefficients`."""
        poles = lax.complex(jnp.minimum(self.poles[:, 0], -_LEAST_DAMPING), self.poles[:, 1])
        moved = poles * jnp.exp(self.log_step)
        kernel = self.input_map(x.shape[-1])
        b = lax.complex(x @ kernel[..., 0], x @ kernel[..., 1]) * (jnp.expm1(moved) / poles)
        return jnp.broadcast_to(jnp.exp(moved), b.shape), b

    def read(self, s: Array, x: Array) -> Array:
        """2 Re(C s) + D x."""
        c = self.read_out
        out = s.real @ c[..., 0] - s.imag @ c[..., 1]
        return 2 * out + skipped(self.skip(x.shape[-1]), x)


@functools.lru_cache(maxsize=8)
def _modes(size: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Modes of the normal part of HiPPO-LegS of order 2 `size`, one of each conjugate pair.

    The matrix A of Gu et al. (2020), "HiPPO", arXiv 2008.07669, is a normal one less p p^T with
    p_i = sqrt(i + 1/2): -1/2 on the diagonal, and -/+ sqrt(2 i + 1) sqrt(2 j + 1) / 2 below and
    above it.

    Returns:
      Eigenvalues as pairs of real numbers, `(size, 2)`; orthonormal eigenvectors, `(2 size, size)`
      complex.
    """
    root = np.sqrt(2 * np.arange(2 * size) + 1)
    half = np.outer(root, root) / 2
    imaginary, vectors = np.linalg.eigh(-1j * (np.triu(half, 1) - np.tril(half, -1)))
    kept = slice(size, None)  # in rising order: those above 0
    return np.stack([np.full(size, -0.5), imaginary[kept]], axis=1), vectors[:, kept]
