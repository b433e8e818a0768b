"""LSTMs whose forget gate is composed from a gate code: the UR-LSTM and its relatives."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Initializer, LSTMCarry, materialise
from lrd_jax.cells.forms import AdditiveCell
from lrd_jax.cells.gates import (
    AUXILIARY_GATES,
    GATE_CODES,
    MAIN_GATES,
    BiasOptions,
    check_bias_options,
    effective_gate,
    widen,
)
from lrd_jax.errors import UserError, check_choice

REFINE_BIASES = ("neg_forget", "zero")


class GatedLSTMCell(AdditiveCell):
    r"""LSTM with one of nine forget gates and, by default, the input gate tied to it.

    $$c_t = g c_{t-1} + (1 - g) u, \qquad h_t = o \tanh(c_t)$$
    $$u = \tanh(z_u), \qquad o = \sigma(z_o), \qquad z = W_x x_t + W_h h_{t-1} + b$$

    The first letter of `gates` is the main gate $f$: `-` sigmoid with bias `forget_bias`, `C`
    sigmoid with chrono bias, `O` cumax, `U` sigmoid with uniform gate initialisation. The second
    letter makes the effective gate g of it:

    * `-`: $g = f$.
    * `R`: $g = 2 r f + (1 - 2 r) f^2$ with a refine gate $r = \sigma(z_r)$, for `UR` with
      $r = \sigma(z_r - b_f)$.
    * `M`: $g = f_m^2 + f f_m (1 - f_m)$ with the main gate as master $f_m$ over chunks of
      `chunk_size` units and a plain sigmoid f (our tied form of ordered neurons).

    Untied, $c_t = g c_{t-1} + i u$ with $i = \sigma(z_i)$; its initial bias is minus the forget
    bias for `C-`, `U-` and `UR`, 0 otherwise. The untied `M` codes are ordered neurons, see
    `ONLSTMCell`. Blocks are packed as f, r, i, o, u (`M`: fm, f, im, i, o, u); absent ones are
    skipped.

    Reference: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
    arXiv 1910.09890, eq. 9-12.

    Differences from earlier code: one tanh on the candidate; one bias per gate, so nothing
    disturbs the uniform initialisation; the uniform bias is drawn once and trained; all codes
    share this cell, so `U-` and `UR` differ in the refinement only.

    Attributes:
      gates: one of `GATE_CODES`.
      tied_input: input gate 1 - g; otherwise a gate of its own.
      forget_bias: initial bias of plain sigmoid forget gates.
      refine_bias: `UR` only. `neg_forget`: the refine gate is shifted by minus the forget bias;
        `zero`: it is not.
      share_refine_bias: the shift is the live forget bias, one parameter in two places. Otherwise
        the refine bias starts at minus the forget bias and is independent of it.
      ugi_margin: margin of the uniform gate initialisation; 0 means 1/units.
      chrono_t_max: longest time scale of the chrono bias, in steps.
      chunk_size: C, `M` codes only: units that share one master gate; divides `hidden_size`.
    """

    gates: str = "UR"
    tied_input: bool = True
    forget_bias: float = 1.0
    refine_bias: str = "neg_forget"
    share_refine_bias: bool = True
    ugi_margin: float = 0.0
    chrono_t_max: float = 0.0
    chunk_size: int = 1

    carry_type: ClassVar[type[Any]] = LSTMCarry

    def __post_init__(self):
        super().__post_init__()
        check_choice("gates", self.gates, GATE_CODES)
        check_choice("refine_bias", self.refine_bias, REFINE_BIASES)
        masters = self.gates[1] == "M"
        if self.chunk_size < 1 or (masters and self.hidden_size % self.chunk_size):
            raise UserError(
                f"chunk_size={self.chunk_size} does not divide hidden_size={self.hidden_size}; "
                "choose a divisor"
            )
        self._main_bias_init()  # raises on units or time scales that leave no range
        check_bias_options(self._bias_options)  # also where this code does not read them

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """See `RecurrentCell.without_effect`."""
        main, auxiliary = self.gates
        used = {
            "forget_bias": main == "-" or auxiliary == "M",
            "chrono_t_max": main == "C",
            "ugi_margin": main == "U",
            "chunk_size": auxiliary == "M",
            "refine_bias": self.gates == "UR",
            "share_refine_bias": self.gates == "UR",
        }
        off = {name: f"gates={self.gates} has no use for it" for name in used if not used[name]}
        if self.gates == "UR" and not self._shifts_refine:
            off["share_refine_bias"] = f"refine_bias={self.refine_bias} shares nothing"
        return off

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """Gates f, r, i, output gate o, candidate u, `d` units each; masters `d / C`."""
        auxiliary = AUXILIARY_GATES[self.gates[1]]
        names = auxiliary.forget + (() if self.tied_input else auxiliary.input) + ("o", "u")
        masters = {"fm", "im"}
        return {n: self.hidden_size // (self.chunk_size if n in masters else 1) for n in names}

    @nn.nowrap
    def _main_bias_init(self) -> Initializer:
        units = next(iter(self.blocks().values()))
        return MAIN_GATES[self.gates[0]].bias(units, self._bias_options)

    @property
    def _bias_options(self) -> BiasOptions:
        return BiasOptions(self.forget_bias, self.ugi_margin, self.chrono_t_max)

    @property
    def _shifts_refine(self) -> bool:
        return self.gates == "UR" and self.refine_bias == "neg_forget"

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """Main gate as its code says; what mirrors it starts at minus its value; others at 0."""
        del shape
        main_init = self._main_bias_init()
        main_key, input_key = jax.random.split(key)
        blocks = self.blocks()
        bias = {name: jnp.zeros(width, dtype) for name, width in blocks.items()}

        main_name = next(iter(blocks))
        main = main_init(main_key, bias[main_name].shape, dtype)
        bias[main_name] = main
        if main_name == "fm":
            bias["f"] += self.forget_bias
            if "im" in bias:
                bias["im"] = main_init(input_key, bias["im"].shape, dtype)
        elif "i" in bias and MAIN_GATES[self.gates[0]].mirrored:
            bias["i"] = -main
        if self._shifts_refine and not self.share_refine_bias:
            bias["r"] = -main
        return jnp.concatenate(list(bias.values()))

    def effective_bias(self) -> Array:
        """The bias, its refine slice shifted by minus the live forget bias if that is shared."""
        if not (self._shifts_refine and self.share_refine_bias):
            return self.bias
        d = self.hidden_size
        return self.bias - jnp.pad(self.bias[:d], (d, self.bias.size - 2 * d))

    @nn.nowrap
    def advance(self, carry: LSTMCarry, z: Array) -> LSTMCarry:
        """The step after the matrix products; shapes as in `AdditiveCell.advance`."""
        auxiliary, main = AUXILIARY_GATES[self.gates[1]], MAIN_GATES[self.gates[0]].activation
        mains = {name: main for name in (auxiliary.forget[0], *auxiliary.input[:-1])}
        a = self.activate(z, u=jnp.tanh, **mains)
        forget = [a[name] for name in auxiliary.forget]
        if self.tied_input:
            keep = effective_gate(self.gates, *forget)
            write = 1 - keep
        elif auxiliary.untied is None:
            keep, write = effective_gate(self.gates, *forget), a["i"]
        else:
            im, i = widen(*(a[name] for name in auxiliary.input))
            keep, write = auxiliary.untied(*widen(*forget), 1 - im, i)
        c = materialise(keep * carry.c + write * a["u"])
        return LSTMCarry(c=c, h=a["o"] * jnp.tanh(self.memory(c)))


class URLSTMCell(GatedLSTMCell):
    r"""LSTM with uniform gate initialisation and a refine gate, `GatedLSTMCell(gates="UR")`.

    $$f = \sigma(z_f), \quad r = \sigma(z_r - b_f), \quad g = 2 r f + (1 - 2 r) f^2$$
    $$c_t = g c_{t-1} + (1 - g) \tanh(z_u), \qquad h_t = \sigma(z_o) \tanh(c_t)$$

    Reference: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
    arXiv 1910.09890, eq. 9-12.

    Differences from earlier code: see `GatedLSTMCell`.
    """

    gates: str = dataclasses.field(default="UR", init=False)


class ONLSTMCell(GatedLSTMCell):
    r"""Ordered neurons as published: `GatedLSTMCell("OM")`, untied, all biases starting at 0.

    $$f_m = \mathrm{cumax}(z_{fm}), \quad i_m = 1 - \mathrm{cumax}(z_{im}), \quad w = f_m i_m$$
    $$\hat f = \sigma(z_f) w + (f_m - w), \qquad \hat i = \sigma(z_i) w + (i_m - w)$$
    $$c_t = \hat f c_{t-1} + \hat i \tanh(z_u), \qquad h_t = \sigma(z_o) \tanh(c_t)$$

    The masters have d/C units, each repeated over C = `chunk_size` neighbouring units.

    Reference: Shen et al. (2019), "Ordered Neurons: Integrating Tree Structures into Recurrent
    Neural Networks", arXiv 1810.09536, eq. 9-14.

    Differences from earlier code: `chunk_size` is the number of units that share a master, as in
    the authors' code, not the number of chunks; blocks are packed as fm, f, im, i, o, u; no
    DropConnect and no layer norm.
    """

    gates: str = dataclasses.field(default="OM", init=False)
    tied_input: bool = dataclasses.field(default=False, init=False)
    forget_bias: float = dataclasses.field(default=0.0, init=False)
