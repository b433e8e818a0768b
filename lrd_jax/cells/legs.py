"""HiPPO-LegS: a nonlinear recurrent network with a linear memory of all that it has written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.cells.arguments import check_input_shape
from lrd_jax.cells.base import InputKernel, RecurrentCell
from lrd_jax.cells.gates import (
    AUXILIARY_GATES,
    MAIN_GATES,
    BiasOptions,
    check_bias_options,
    effective_gate,
)
from lrd_jax.cells.gru import GRU_CODES
from lrd_jax.cells.prefix import prefix
from lrd_jax.errors import UserError, check_choice

_WRITE, _REST = slice(0, 1), slice(1, None)  # of the packed pre-activation


class LegSCarry(NamedTuple):
    """State of a HiPPO-LegS network.

    Attributes:
      h: hidden state and output, `(batch, hidden)`.
      m: coefficients of all that was written so far in Legendre polynomials, `(batch, N)`.
      k: steps made since the start, `(batch, 1)`; whole numbers, in the dtype of the others. Part
        of the state, so that it is held, put back and carried on with the memory that it belongs
        to.
    """

    h: Array
    m: Array
    k: Array


class GatedLegSCell(RecurrentCell):
    r"""HiPPO-LegS network whose update gate is composed from a gate code.

    $$u = w [x_k, h_{k-1}] + b_u, \qquad
      m_k = (I - A / 2k)^{-1} ((I + A / 2k) m_{k-1} + (B / k) u)$$
    $$h_k = (1 - g) h_{k-1} + g \tanh(W_h [x_k, m_k] + b_h), \qquad
      g = \mathrm{gate}(W_g [x_k, m_k] + b_g)$$

    with one number u, m_0 = (u, 0, ..., 0) at the first step k = 0, and the fixed
    $A_{ij} = -\sqrt{(2i+1)(2j+1)}$ below the diagonal, $A_{ii} = -(i + 1)$, 0 above it,
    $B_i = \sqrt{2i + 1}$. A gate is $f = \sigma(z_f)$, for codes with `R` refined to
    $2 r f + (1 - 2 r) f^2$ by $r = \sigma(z_r)$; its bias starts uniform for codes with `U`. Packed
    as u, g, r, h; an absent r is skipped. Parameters: n + d + 1, and d (n + N + 1) for each of the
    others.

    h-detach stops the states where they enter a learnt product: h_{k-1} in w, and in W_g and W_h
    the copy of m_k that is made of stopped m_{k-1} and h_{k-1}; what this step's weights did to
    that copy keeps its gradient. The first step reads no memory, so that none is learnt to start
    from, and a decoder of another width gets h alone.

    The matrices are not stored, which would take N^2 numbers for each of T steps, and for each
    example where the examples of a batch do not count alike: A below its diagonal is a product of
    two vectors, so that its systems are solved with 2 log2 N rounds of products of elements.

    Reference: Gu, Dao, Ermon, Rudra and Re (2020), "HiPPO: Recurrent Memory with Optimal Polynomial
    Projections", arXiv 2008.07669, section 3 and appendix; codes with `R` or `U` are of Gu et al.
    (2020), arXiv 1910.09890, eq. 9-12, and untried here before.

    Differences from earlier code (HazyResearch/hippo-code): k has no largest value; initial values
    follow it but for the fan-in, which leaves out the few features of the input.

    Attributes:
      gates: code of the gate, one of `GRU_CODES`.
      state_size: N; 0 = hidden_size.
      ugi_margin: margin of the uniform gate initialisation; 0 means 1/d.
    """

    gates: str = "UR"
    state_size: int = 0
    ugi_margin: float = 0.0

    carry_type: ClassVar[type[Any]] = LegSCarry
    recurrent_inputs: ClassVar[tuple[str, ...]] = ("h", "m")
    derived: ClassVar[tuple[str, ...]] = ("m", "k")

    def __post_init__(self):
        super().__post_init__()
        check_choice("gates", self.gates, GRU_CODES)
        if self.state_size < 0:
            raise UserError(f"state_size={self.state_size} must be 0 (hidden_size) or more")
        check_bias_options(BiasOptions(ugi_margin=self.ugi_margin))
        self._main_bias_init()  # raises on too few units

    @property
    def units(self) -> int:
        """N, coefficients of the memory."""
        return self.state_size or self.hidden_size

    @nn.nowrap
    def _main_bias_init(self) -> Any:
        return MAIN_GATES[self.gates[0]].bias(
            self.hidden_size, BiasOptions(ugi_margin=self.ugi_margin)
        )

    @nn.nowrap
    def without_effect(self) -> dict[str, str]:
        """See `RecurrentCell.without_effect`."""
        drawn = "the cell draws its weights as its authors do"
        off = {"kernel_init": drawn, "recurrent_init": drawn}
        if self.gates[0] != "U":
            off["ugi_margin"] = f"gates={self.gates} has no use for it"
        return off

    @nn.nowrap
    def blocks(self) -> dict[str, int]:
        """What is written, 1 number; gate, its refine gate, candidate, `d` units each."""
        gate = ("g", "r")[: len(AUXILIARY_GATES[self.gates[1]].forget)]
        return {"u": 1} | dict.fromkeys((*gate, "h"), self.hidden_size)

    def setup(self) -> None:
        """Creates the parameters: `recurrent_write` reads h, `recurrent_kernel` the memory."""
        width, dtype = sum(self.blocks().values()), self.param_dtype
        self.input = InputKernel(width, self.init_kernel, dtype)

        def columns(part: slice, rows: int) -> Callable[[Array], Array]:
            return lambda key: self.init_kernel(key, (rows, width), dtype)[:, part]

        self.recurrent_write = self.param("recurrent_write", columns(_WRITE, self.hidden_size))
        self.recurrent_kernel = self.param("recurrent_kernel", columns(_REST, self.units))
        self.bias = self.make_bias(width)

    @nn.nowrap
    def init_kernel(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        """U(-sqrt(3/d), sqrt(3/d)) for u, N(0, 1/N) for gates, N(0, 2/(N + d)) for the rest."""
        n, d = self.units, self.hidden_size
        keys = jax.random.split(key, len(self.blocks()))
        parts = []
        for name, key in zip(self.blocks(), keys, strict=True):
            if name == "u":
                bound = math.sqrt(3 / d)
                parts.append(jax.random.uniform(key, (shape[0], 1), dtype, -bound, bound))
            else:
                deviation = math.sqrt(2 / (n + d) if name == "h" else 1 / n)
                parts.append(deviation * jax.random.normal(key, (shape[0], d), dtype))
        return jnp.concatenate(parts, axis=1)

    @nn.nowrap
    def init_bias(self, key: Array, shape: tuple[int], dtype: Any) -> Array:
        """As PyTorch's linear layers; of a uniform gate as its code says, of a refine gate 0."""
        n, d = self.units, self.hidden_size
        gate_key, key = jax.random.split(key)
        bound = jnp.full(shape, n**-0.5, dtype).at[0].set(d**-0.5)
        bias = bound * jax.random.uniform(key, shape, dtype, -1, 1)
        if self.gates[0] == "U":
            bias = bias.at[1 : 1 + d].set(self._main_bias_init()(gate_key, (d,), dtype))
        return bias.at[1 + d : -d].set(0)

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> LegSCarry:
        """Zeros: nothing written in no steps."""
        del rng
        batch = check_input_shape(input_shape)[:-1]
        h, m, k = (
            jnp.zeros((*batch, width), self.param_dtype)
            for width in (self.hidden_size, self.units, 1)
        )
        return LegSCarry(h, m, k)

    def step(self, carry: LegSCarry, zx: Array, h: Array) -> LegSCarry:
        """One step; `h` is h and m side by side, stopped where the step is detached."""
        d = self.hidden_size
        u = zx[..., _WRITE] + self.dot(h[..., :d], self.recurrent_write)
        entering = write(carry.k, h[..., d:], u)
        z = zx[..., _REST] + self.dot(entering, self.recurrent_kernel)
        *gates, candidate = jnp.split(z, z.shape[-1] // d, axis=-1)
        g = effective_gate(self.gates, *map(nn.sigmoid, gates))
        new = (1 - g) * carry.h + g * jnp.tanh(candidate)
        return LegSCarry(h=new, m=write(carry.k, carry.m, u), k=carry.k + 1)


class LegSCell(GatedLegSCell):
    r"""HiPPO-LegS network as published, `GatedLegSCell(gates="--")`.

    Reference: Gu, Dao, Ermon, Rudra and Re (2020), "HiPPO: Recurrent Memory with Optimal Polynomial
    Projections", arXiv 2008.07669.

    Differences from earlier code: see `GatedLegSCell`.
    """

    gates: str = dataclasses.field(default="--", init=False)


def write(k: Array, m: Array, u: Array) -> Array:
    r"""The memory after a number is written, by the bilinear transform of LegS.

    $m' = (I - A/2k)^{-1} ((I + A/2k) m + (B/k) u)$ is $y - m$ with $(2k I - A) y = 4k m + 2 B u$.

    Args:
      k: steps made before, `(..., 1)`; at 0 what m holds is not read.
      m: the memory before, `(..., N)`.
      u: what is written, `(..., 1)`.

    Returns:
      The memory after the step, `(..., N)`.
    """
    k = lax.stop_gradient(k)
    order = jnp.arange(m.shape[-1])
    root = jnp.sqrt(2 * order + 1).astype(m.dtype)
    y = _solve(2 * jnp.maximum(k, 1), root, 4 * k * m + 2 * root * u)
    return jnp.where(k > 0, y - m, jnp.where(order == 0, u, 0))


def _solve(double: Array, root: Array, b: Array) -> Array:
    """Solves (2k I - A) y = b for y, `(..., N)`; `double` is 2k, `(..., 1)`.

    Below the diagonal that matrix is the product of `root` with itself, on it 2k + i + 1. So with
    the sum S_i of root_j y_j over all j < i, y_i = (b_i - root_i S_i) / (2k + i + 1), and S follows
    a first-order recurrence over i.
    """
    order = jnp.arange(b.shape[-1])

    def before(sums: Array, backwards: bool) -> Array:
        """Sums over what comes before each place, from those that count it."""
        shifted = sums[..., 1:] if backwards else sums[..., :-1]
        place = (0, 1) if backwards else (1, 0)
        return jnp.pad(shifted, [(0, 0)] * (sums.ndim - 1) + [place])

    def product(y: Array) -> Array:
        sums = lax.cumsum(root * y, axis=y.ndim - 1)
        return (double + order + 1) * y + root * before(sums, False)

    def solution(b: Array, backwards: bool) -> Array:
        scaled = b / (double + order + 1)
        ratio = jnp.broadcast_to((double - order) / (double + order + 1), b.shape)
        sums = prefix(ratio, root * scaled, axis=b.ndim - 1, reverse=backwards)
        return scaled - root * before(sums, backwards) / (double + order + 1)

    return lax.custom_linear_solve(
        product, b, lambda _, b: solution(b, False), lambda _, b: solution(b, True)
    )
