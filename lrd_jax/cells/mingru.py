"""minGRU: a gated recurrent unit whose gate does not see the state."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.forms import LinearCell


def positive(a: Array) -> Array:
    """g(a) = a + 1/2 for a >= 0, sigmoid(a) below: above 0, and so is a state made of it."""
    return jnp.where(a >= 0, a + 0.5, nn.sigmoid(a))


class MinGRUCell(LinearCell):
    r"""Minimal gated recurrent unit, run by the parallel scan.

    $$z = \sigma(W_z x_t + b_z), \qquad h_t = (1 - z) h_{t-1} + z g(W_u x_t + b_u)$$

    with g = `positive`. 2 d (n + 1) parameters; the transition is diagonal and within (0, 1).

    Reference: Feng et al. (2024), "Were RNNs All We Needed?", arXiv 2410.01201, appendix B.

    Differences from earlier code: biases (zero at first); no logarithms, which products of numbers
    in (0, 1) do not need, so that a start below 0 is legal.
    """

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Gate and candidate, `d` units each."""
        return {"z": self.hidden_size, "u": self.hidden_size}

    def coefficients(self, x: Array) -> tuple[Array, Array]:
        """See `LinearCell.coefficients`."""
        z, u = jnp.split(self.affine(x), 2, axis=-1)
        return nn.sigmoid(-z), nn.sigmoid(z) * positive(u)
