"""Linear cells of the tests: real, complex with an output of its own, one that asks the time."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from lrd_jax.cells import LinearCarry, LinearCell


class MinGRUCell(LinearCell):
    """z = sigmoid(W_z x), s = (1 - z) s + z (W_u x); the output is the state."""

    @nn.nowrap
    def blocks(self):
        return {"z": self.hidden_size, "u": self.hidden_size}

    def coefficients(self, x):
        z, u = jnp.split(self.affine(x), 2, axis=-1)
        return 1 - nn.sigmoid(z), nn.sigmoid(z) * u


class ComplexCell(LinearCell):
    """LRU-like: three complex numbers of state, s = lambda s + B x, h = Re(C s) + sum(x)."""

    units = 3

    def setup(self):
        super().setup()
        normal, n, d = nn.initializers.normal(0.5), self.units, self.hidden_size
        self.decay = self.param("decay", normal, (n, 2), self.param_dtype)
        self.read_out = self.param("read_out", normal, (n, d, 2), self.param_dtype)

    @nn.nowrap
    def blocks(self):
        return {"real": self.units, "imaginary": self.units}

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        real = jnp.zeros((*input_shape[:-1], self.hidden_size), self.param_dtype)
        state = jnp.zeros((*input_shape[:-1], self.units), jnp.result_type(real, jnp.complex64))
        return LinearCarry(state, real)

    def coefficients(self, x):
        decay = jnp.exp(lax.complex(-jnp.exp(self.decay[:, 0]), self.decay[:, 1]))
        b = lax.complex(*jnp.split(self.affine(x), 2, axis=-1))
        return jnp.broadcast_to(decay, b.shape), b

    def read(self, s, x):
        out = (s @ lax.complex(self.read_out[..., 0], self.read_out[..., 1])).real
        return out + x.sum(-1, keepdims=True)


class AveragingCell(LinearCell):
    """The mean of what was read so far, which depends on how much that is."""

    @nn.nowrap
    def blocks(self):
        return {"u": self.hidden_size}

    def coefficients(self, x, *, time):
        share = 1 / (1 + time[..., None].astype(self.param_dtype))
        u = self.affine(x)
        return jnp.broadcast_to(1 - share, u.shape), share * u


LINEAR = {"mingru": MinGRUCell, "complex": ComplexCell, "averaging": AveragingCell}
