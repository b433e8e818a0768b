"""minLSTM: forget and input gate without the state, scaled to a sum of one."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.forms import LinearCell
from lrd_jax.cells.mingru import positive


class MinLSTMCell(LinearCell):
    r"""Minimal long short-term memory, run by the parallel scan.

    $$f = \sigma(z_f), \quad i = \sigma(z_i), \qquad
      h_t = \frac{f}{f + i} h_{t-1} + \frac{i}{f + i} g(z_u), \qquad z = W x_t + b$$

    packed as f, i, u, with g = `positive` of minGRU. 3 d (n + 1) parameters.

    Reference: Feng et al. (2024), "Were RNNs All We Needed?", arXiv 2410.01201, appendix B.

    Differences from earlier code: as in minGRU.
    """

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Forget and input gate, candidate, `d` units each."""
        return dict.fromkeys("fiu", self.hidden_size)

    def coefficients(self, x: Array) -> tuple[Array, Array]:
        """See `LinearCell.coefficients`."""
        f, i, u = jnp.split(self.affine(x), 3, axis=-1)
        # f / (f + i) as a sigmoid of log f - log i: it stays finite where both gates vanish.
        keep = nn.log_sigmoid(f) - nn.log_sigmoid(i)
        return nn.sigmoid(keep), nn.sigmoid(-keep) * positive(u)
