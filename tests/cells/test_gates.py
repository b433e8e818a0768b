"""The gate functions and initialisers against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_jax.cells import gates
from lrd_jax.errors import UserError

UNIT = st.floats(0, 1, width=32)
PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def band(f, r):
    return r * (1 - (1 - f) ** 2) + (1 - r) * f**2


@pytest.mark.parametrize(
    ("f", "r", "g"), [(0.9, 0, 0.81), (0.9, 0.1, 0.828), (0.9, 1, 0.99), (0.25, 0.75, 0.34375)]
)
def test_refine_values(f, r, g):
    """ORC-01."""
    close(gates.refine(jnp.float32(f), jnp.float32(r)), g)


@PROPERTY
@given(UNIT, UNIT)
def test_refine_properties(f, r):
    """ORC-01: both forms agree, g stays in the band, r = 1/2 changes nothing."""
    g = float(gates.refine(jnp.float32(f), jnp.float32(r)))
    close(g, band(f, r))
    assert f**2 - 1e-6 <= g <= 1 - (1 - f) ** 2 + 1e-6
    assert float(gates.refine(jnp.float32(f), jnp.float32(0.5))) == np.float32(f)


@PROPERTY
@given(UNIT, UNIT)
def test_refine_derivatives(f, r):
    """ORC-02."""
    df, dr = jax.grad(gates.refine, argnums=(0, 1))(jnp.float32(f), jnp.float32(r))
    close(dr, 2 * f * (1 - f))
    close(df, 2 * r + 2 * (1 - 2 * r) * f)
    assert df >= -1e-6


@pytest.mark.parametrize(("units", "bound"), [(256, 5.5413), (1024, 6.9305)])
def test_ugi_bias_range(units, bound):
    """ORC-03."""
    bias = jax.vmap(lambda key: gates.ugi_bias(units)(key, (units,)))(
        jax.random.split(jax.random.key(0), 400)
    )
    f = jax.nn.sigmoid(bias)
    assert f.min() >= 1 / units - 1e-6
    assert f.max() <= 1 - 1 / units + 1e-6
    assert jnp.abs(bias).max() <= np.log(units - 1) + 1e-5
    assert jnp.abs(bias).max() > bound - 0.05  # the range is used up to its ends
    close(np.log(units - 1), bound, 1e-4)


def test_ugi_gate_is_uniform():
    units = 20_000
    f = np.sort(jax.nn.sigmoid(gates.ugi_bias(units, 0.2)(jax.random.key(1), (units,))))
    close(f, np.linspace(0.2, 0.8, units), 0.01)  # Kolmogorov distance of 20 000 draws


@PROPERTY
@given(st.integers(0, 1000), st.floats(0.01, 0.49))
def test_ugi_margin(seed, margin):
    f = jax.nn.sigmoid(gates.ugi_bias(8, margin)(jax.random.key(seed), (8,)))
    assert f.min() >= margin - 1e-6
    assert f.max() <= 1 - margin + 1e-6


@pytest.mark.parametrize(
    ("units", "margin"), [(2, 0.0), (1, 0.0), (8, 0.5), (8, -0.1), (8, float("nan"))]
)
def test_ugi_bias_refuses(units, margin):
    """ORC-03."""
    with pytest.raises(UserError):
        gates.ugi_bias(units, margin)


def test_chrono_bias():
    """ORC-06."""
    t_max, units = 500, 20_000
    f = jax.nn.sigmoid(gates.chrono_bias(t_max)(jax.random.key(0), (units,)))
    assert f.min() >= 0.5
    assert f.max() <= 0.998 + 1e-6
    scale = np.sort(1 / (1 - np.asarray(f, np.float64)))
    close(scale, np.linspace(2, t_max, units), 0.01 * t_max)


@pytest.mark.parametrize("t_max", [0, 2, -5, float("nan")])
def test_chrono_bias_refuses(t_max):
    with pytest.raises(UserError, match="chrono_t_max"):
        gates.chrono_bias(t_max)


def test_cumax_values():
    """ORC-05."""
    close(gates.cumax(jnp.zeros(4)), [0.25, 0.5, 0.75, 1])
    close(gates.cumax(jnp.log(jnp.array([1.0, 2.0, 1.0]))), [0.25, 0.75, 1])


@PROPERTY
@given(st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5))
def test_cumax_properties(x):
    """ORC-05: non-decreasing over units, last value 1."""
    gate = np.asarray(gates.cumax(jnp.array(x, jnp.float32)))
    assert (np.diff(gate) >= 0).all()
    close(gate[-1], 1)


@PROPERTY
@given(UNIT, UNIT)
def test_master_gates(fm, f):
    """ORC-08."""
    fm, f = jnp.float32(fm), jnp.float32(f)
    g = gates.master(fm, f)
    close(g, fm**2 + f * fm * (1 - fm))
    assert fm**2 - 1e-6 <= g <= fm + 1e-6
    keep, write = gates.master_pair(fm, f, 1 - fm, 1 - f)
    close(keep, g)
    close(keep + write, 1 - fm * (1 - fm))


def test_master_value():
    """ORC-08."""
    close(gates.master(jnp.float32(0.5), jnp.float32(0.5)), 0.375)


def test_gate_codes_are_composed_from_the_tables():
    assert len(gates.GATE_CODES) == 9
    for code in gates.GATE_CODES:
        z = jnp.linspace(-2, 2, 6)
        names = gates.AUXILIARY_GATES[code[1]].forget
        f = gates.MAIN_GATES[code[0]].activation(z)
        close(f, gates.cumax(z) if code[0] == "O" else jax.nn.sigmoid(z))
        other = jax.nn.sigmoid(z)
        g = gates.effective_gate(code, f, *(other for _ in names[1:]))
        expected = {"-": f, "R": band(f, other), "M": f**2 + other * f * (1 - f)}[code[1]]
        close(g, expected)


def test_master_gate_is_repeated_over_neighbours():
    fm, f = gates.widen(gates.cumax(jnp.zeros((2, 3))), jnp.full((2, 6), 0.5))
    close(fm, np.broadcast_to(np.repeat([1 / 3, 2 / 3, 1], 2), (2, 6)))
    close(f, np.full((2, 6), 0.5))
