"""Gated recurrent units: the stock form, and the form with composed gates."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import HiddenCarry, RecurrentCell, materialise
from lrd_jax.cells.forms import PointwiseCell
from lrd_jax.cells.gates import (
    AUXILIARY_GATES,
    MAIN_GATES,
    BiasOptions,
    check_bias_options,
    effective_gate,
)
from lrd_jax.errors import check_choice

GRU_CODES = ("--", "U-", "-R", "UR")


class GRUCell(PointwiseCell):
    r"""GRU with the reset gate after the recurrent product, as in cuDNN, torch and Flax.

    $$s = \sigma(z_s), \qquad k = \sigma(z_k), \qquad z = W_x x_t + W_h h_{t-1} + b$$
    $$u = \tanh(W_x^u x_t + b^u + s (W_h^u h_{t-1} + b_h)), \qquad h_t = k h_{t-1} + (1 - k) u$$

    packed as reset gate s, keep gate k, candidate u: the order and meaning of torch's weights.

    Reference: Cho et al. (2014), "Learning Phrase Representations using RNN Encoder-Decoder",
    arXiv 1406.1078, in the version 1 form.

    Differences from earlier code: one bias vector for the gates instead of two; the candidate
    keeps its second one, `candidate_bias`, because it is inside the reset.
    """

    carry_type: ClassVar[type[Any]] = HiddenCarry

    def setup(self):
        """Creates the parameters."""
        super().setup()
        self.candidate_bias = self.param(
            "candidate_bias", nn.initializers.zeros, (self.hidden_size,), self.param_dtype
        )

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Reset gate, keep gate, candidate, `d` units each."""
        return dict.fromkeys("sku", self.hidden_size)

    def recurrent_weights(self) -> tuple[Array, Array]:
        """Recurrent kernel `(d, 3 d)` and the bias inside the reset, zero for the gates."""
        return self.recurrent_kernel, jnp.pad(self.candidate_bias, (2 * self.hidden_size, 0))

    @nn.nowrap
    def update(self, carry: HiddenCarry, zx: Array, zh: Array) -> HiddenCarry:
        """The step after the matrix products; shapes as in `PointwiseCell.update`."""
        d = self.hidden_size
        s, keep = jnp.split(materialise(nn.sigmoid(zx[..., : 2 * d] + zh[..., : 2 * d])), 2, -1)
        u = materialise(jnp.tanh(zx[..., 2 * d :] + s * zh[..., 2 * d :]))
        return HiddenCarry(keep * carry.h + (1 - keep) * u)


class GatedGRUCell(RecurrentCell):
    r"""GRU whose update gate, and if asked for whose reset gate, is composed from a gate code.

    $$s = \mathrm{gate}(z_s), \qquad g = \mathrm{gate}(z_g), \qquad z = W_x x_t + W_h h_{t-1} + b$$
    $$u = \tanh(W_x^u x_t + b^u + W_h^u (s h_{t-1})), \qquad h_t = (1 - g) h_{t-1} + g u$$

    A gate is $f = \sigma(z_f)$, for codes with `R` refined to $2 r f + (1 - 2 r) f^2$ by
    $r = \sigma(z_r)$; the bias starts uniform for codes with `U`, at 0 otherwise. Blocks are packed
    as update gate g, its refine gate r, reset gate s, its refine gate sr, candidate u; absent ones
    are skipped. The reset comes before the recurrent product, so this cell has no fast path.

    Reference: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
    arXiv 1910.09890, eq. 9-12, on the GRU of Cho et al. (2014), arXiv 1406.1078, eq. 5-8.

    Differences from earlier code: g multiplies the new content; the refine gate of a GRU is never
    shifted; the reset gate is plain unless `reset_gate` says otherwise.

    Attributes:
      gates: code of the update gate, one of `GRU_CODES`.
      reset_gate: code of the reset gate, one of `GRU_CODES`.
      ugi_margin: margin of the uniform gate initialisation; 0 means 1/d.
    """

    gates: str = "UR"
    reset_gate: str = "--"
    ugi_margin: float = 0.0

    carry_type: ClassVar[type[Any]] = HiddenCarry

    def __post_init__(self):
        super().__post_init__()
        check_choice("gates", self.gates, GRU_CODES)
        check_choice("reset_gate", self.reset_gate, GRU_CODES)
        for code in (self.gates, self.reset_gate):
            self._main_bias_init(code)  # raises on too few units
        check_bias_options(BiasOptions(ugi_margin=self.ugi_margin))

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """See `RecurrentCell.without_effect`."""
        if "U" in (self.gates[0], self.reset_gate[0]):
            return {}
        return {"ugi_margin": f"gates={self.gates} and reset_gate={self.reset_gate} have no use"}

    @nn.nowrap
    def _main_bias_init(self, code: str):
        return MAIN_GATES[code[0]].bias(self.hidden_size, BiasOptions(ugi_margin=self.ugi_margin))

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Update gate, reset gate, each with its refine gate, and candidate, `d` units each."""
        update = ("g", "r")[: len(AUXILIARY_GATES[self.gates[1]].forget)]
        reset = ("s", "sr")[: len(AUXILIARY_GATES[self.reset_gate[1]].forget)]
        return dict.fromkeys((*update, *reset, "u"), self.hidden_size)

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """The two main gates as their codes say, the others at 0."""
        del shape
        bias = {name: jnp.zeros(width, dtype) for name, width in self.blocks().items()}
        for name, code, sub in zip(
            ("g", "s"), (self.gates, self.reset_gate), jax.random.split(key), strict=True
        ):
            bias[name] = self._main_bias_init(code)(sub, bias[name].shape, dtype)
        return jnp.concatenate(list(bias.values()))

    def step(self, carry: HiddenCarry, zx: Array, h: Array) -> HiddenCarry:
        """One step from projected inputs; `h` is what enters both matrix products."""
        kernel, _ = self.recurrent_weights()
        gates = kernel.shape[1] - self.hidden_size
        z = zx[..., :gates] + self.dot(h, kernel[:, :gates])
        values = materialise(nn.sigmoid(z))
        values = jnp.split(values, gates // self.hidden_size, axis=-1)
        n = len(AUXILIARY_GATES[self.gates[1]].forget)
        g = effective_gate(self.gates, *values[:n])
        s = effective_gate(self.reset_gate, *values[n:])
        u = jnp.tanh(zx[..., gates:] + self.dot(s * h, kernel[:, gates:]))
        return HiddenCarry((1 - g) * carry.h + g * u)
