r"""The gates of recurrent cells: pure functions and the two tables that compose them.

A gate code has two letters. The first names the main gate (its activation and the distribution of
its initial bias, a row of `MAIN_GATES`), the second the auxiliary gate that bends the main gate
(a row of `AUXILIARY_GATES`). A new gate is one function and one row.

Reference: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
arXiv 1910.09890.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lrd_jax.arrays import Array
from lrd_jax.cells.base import Initializer
from lrd_jax.errors import UserError


def ugi_bias(units: int, margin: float = 0.0) -> Initializer:
    r"""Uniform gate initialisation: the gate, not its bias, starts uniformly distributed.

    $b = \log\frac{u}{1 - u}$ with $u \sim U(m, 1 - m)$ and the margin $m = 1/d$, so that with
    zero weights $\sigma(b) = u$ and the time scales $1/(1 - u)$ span 1 to d steps.

    Reference: Gu et al. (2020), arXiv 1910.09890, eq. 12.

    Args:
      units: number of units d that the gate has.
      margin: m; 0 means 1/d.

    Returns:
      An initialiser for a bias of shape `(units,)`.

    Raises:
      UserError: if `units < 3` (1/d would leave no range) or `margin` is not in [0, 0.5).
    """
    if units < 3:
        raise UserError(f"uniform gates need at least 3 units, not {units}; enlarge hidden_size")
    check_bias_options(BiasOptions(ugi_margin=margin))
    low = margin or 1 / units

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        u = jax.random.uniform(key, shape, dtype, low, 1 - low)
        return jnp.log(u) - jnp.log1p(-u)

    return init


def chrono_bias(t_max: float) -> Initializer:
    r"""Chrono initialisation: time scales $1/(1 - \sigma(b))$ start uniform on [2, t_max].

    $b = \log k$ with $k \sim U(1, T_{max} - 1)$.

    Reference: Tallec and Ollivier (2018), "Can recurrent neural networks warp time?",
    arXiv 1804.11188, section 2.

    Args:
      t_max: longest time scale, in steps.

    Returns:
      An initialiser for a bias of any shape.

    Raises:
      UserError: if `t_max < 3`, which leaves no range.
    """
    if not t_max >= 3:
        raise UserError(f"chrono gates need chrono_t_max of at least 3 steps, not {t_max}; set it")

    def init(key: Array, shape: Any, dtype: Any = jnp.float32) -> Array:
        return jnp.log(jax.random.uniform(key, shape, dtype, 1, t_max - 1))

    return init


def cumax(x: Array) -> Array:
    """Cumulative softmax over the last axis: non-decreasing over units, the last value is 1.

    Reference: Shen et al. (2019), "Ordered Neurons", arXiv 1810.09536, section 4.1.
    """
    return jnp.cumsum(jax.nn.softmax(x, axis=-1), axis=-1)


def plain(f: Array) -> Array:
    """The main gate itself."""
    return f


def refine(f: Array, r: Array) -> Array:
    r"""Moves the gate f within the band from $f^2$ (r = 0) to $1 - (1 - f)^2$ (r = 1).

    $g = r (1 - (1 - f)^2) + (1 - r) f^2 = 2 r f + (1 - 2 r) f^2$, and g = f at r = 1/2.

    Reference: Gu et al. (2020), arXiv 1910.09890, eq. 10.
    """
    r2 = 2 * r
    return f * (r2 + (1 - r2) * f)


def master(fm: Array, f: Array) -> Array:
    r"""Tied master gate: $g = f_m^2 + f f_m (1 - f_m)$, always within $[f_m^2, f_m]$.

    Our derivation: the forget gate of `master_pair` with $i_m = 1 - f_m$ and $i = 1 - f$. The
    input gate of the cell is then $1 - g$, not that of `master_pair`.
    """
    return fm * (fm + f * (1 - fm))


def master_pair(fm: Array, f: Array, im: Array, i: Array) -> tuple[Array, Array]:
    r"""Forget and input gate of ordered neurons.

    $w = f_m i_m$, $\hat f = f w + (f_m - w)$, $\hat i = i w + (i_m - w)$.

    Args:
      fm: master forget gate, `(batch, d)`, as all of them.
      f: forget gate.
      im: master input gate.
      i: input gate.

    Reference: Shen et al. (2019), arXiv 1810.09536, eq. 11-13.
    """
    w = fm * im
    return f * w + (fm - w), i * w + (im - w)


class BiasOptions(NamedTuple):
    """What the initial biases of main gates depend on; the fields are those of the cells."""

    forget_bias: float = 0.0
    ugi_margin: float = 0.0
    chrono_t_max: float = 0.0


def check_bias_options(options: BiasOptions) -> None:
    """Raises UserError where one has a value that no gate can work with."""
    if not 0 <= options.ugi_margin < 0.5:
        raise UserError(
            f"ugi_margin={options.ugi_margin} must lie in (0, 0.5), or be 0 for 1/hidden_size"
        )
    if options.chrono_t_max < 0:
        raise UserError(
            f"chrono_t_max={options.chrono_t_max} must be a number of steps, or 0 for those of a"
            " sequence"
        )


class MainGate(NamedTuple):
    """A row of `MAIN_GATES`.

    Attributes:
      activation: from pre-activations to gate values, `(..., units) -> (..., units)`.
      bias: `(units, options)` to the initialiser of the gate's bias.
      mirrored: an untied plain input gate starts from minus this gate's bias instead of 0.
    """

    activation: Callable[[Array], Array]
    bias: Callable[[int, BiasOptions], Initializer]
    mirrored: bool = False


class AuxiliaryGate(NamedTuple):
    """A row of `AUXILIARY_GATES`.

    Attributes:
      forget: names of the blocks of the forget gate, the main gate first.
      input: names of the blocks of an untied input gate, in the same order.
      tied: the values of the forget blocks to the effective gate g; the input gate is 1 - g.
      untied: the values of the forget and input blocks to the pair of effective gates. None: the
        forget gate is `tied` and the input gate is one plain sigmoid.
    """

    forget: tuple[str, ...]
    input: tuple[str, ...]
    tied: Callable[..., Array]
    untied: Callable[..., tuple[Array, Array]] | None = None


MAIN_GATES = {
    "-": MainGate(nn.sigmoid, lambda units, o: nn.initializers.constant(o.forget_bias)),
    "C": MainGate(nn.sigmoid, lambda units, o: chrono_bias(o.chrono_t_max), mirrored=True),
    "O": MainGate(cumax, lambda units, o: nn.initializers.zeros),
    "U": MainGate(nn.sigmoid, lambda units, o: ugi_bias(units, o.ugi_margin), mirrored=True),
}

AUXILIARY_GATES = {
    "-": AuxiliaryGate(("f",), ("i",), plain),
    "R": AuxiliaryGate(("f", "r"), ("i",), refine),
    "M": AuxiliaryGate(("fm", "f"), ("im", "i"), master, master_pair),
}

GATE_CODES = ("--", "C-", "O-", "U-", "-R", "OM", "UM", "OR", "UR")


def widen(main: Array, *others: Array) -> tuple[Array, ...]:
    """Repeats a master gate over its chunks, C neighbouring units, to the width of the last array.

    Args:
      main: values of the main gate, `(..., units)`.
      *others: values of the auxiliary gate, if the code has one, `(..., C * units)`.

    Returns:
      The same arrays, all of the width of the last one.
    """
    repeats = others[-1].shape[-1] // main.shape[-1] if others else 1
    return (jnp.repeat(main, repeats, axis=-1) if repeats > 1 else main, *others)


def effective_gate(code: str, *values: Array) -> Array:
    """The effective gate g of a code, from the values of its forget blocks (see `widen`)."""
    return AUXILIARY_GATES[code[1]].tied(*widen(*values))
