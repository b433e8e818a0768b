"""YAR-nn: cells that ours are compared with, against values of their authors' code (float64)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import make_cell
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Recurrence

X = (1.0, -0.5, 2.0)
LRU = {
    "nu": np.log(0.5),
    "theta": np.log(0.3),
    "gain": np.log(0.795060097621),
    "input_map": [0.5, 0.25],
    "read_out": [0.2, 0.1],
    "skip": 0.7,
}
S5 = {
    "poles": [-0.5, 0.3],
    "log_step": np.log(0.1),
    "input_map": [0.5, 0.25],
    "read_out": [0.2, 0.1],
    "skip": 0.7,
}

# Cell -> options, parameters by the start of their names (else weights 0.5, biases 0.1), state.
ORACLES = {
    "lem": ({"step_size": 0.31}, {"bias": 0.2}, {"h": 0.296243381554, "z": 0.287232429821}),
    "cornn": (
        {"step_size": 0.076, "stiffness": 0.4, "damping": 8.0},
        {},
        {"h": 0.008386335976, "z": 0.063303571251},
    ),
    "unicornn": (
        {"step_size": 0.19, "stiffness": 30.65},
        {"rate": 0.1},
        {"h": -0.015404970237, "z": -0.078751419803},  # z as the step by hand has it, and y
    ),
    "slstm": (
        {},
        {},
        {"h": 0.493934852700, "c": 0.946606287941, "n": 1.461658723184, "m": 1.167467056834},
    ),
    "mingru": ({}, {"bias": 0, "input": [0.3, 0.5]}, {"h": 1.149641481005}),
    "minlstm": ({}, {"bias": 0, "input": [0.3, 0.2, 0.5]}, {"h": 0.961980478855}),
    "lru": ({}, LRU, {"h": 1.510698471574}),
    # By hand, in NumPy: s = exp(0.1 p) s + (exp(0.1 p) - 1) / p B x with p = -0.5 + 0.3 i.
    "s5": ({}, S5, {"h": 1.434023214145}),
    # YAR-06; m to more digits, as the dense matrices have it, and h.
    "legs": (
        {"state_size": 2},
        {},
        {"h": 0.798275721213, "m": (0.642348543260, 0.334904309221)},
    ),
    "gated_legs": (
        {"state_size": 2, "gates": "-R"},
        {},
        {"h": 0.872317191067, "m": (0.664974360017, 0.343102675220), "k": 3},
    ),
    # By hand: relu(0.6 + 0) = 0.6, relu(-0.15 + 0.3) = 0.15, relu(1.1 + 0.075) = 1.175.
    "indrnn": ({}, {}, {"h": 1.175}),
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", ORACLES)
def test_oracle(name, x64):
    options, values, expected = ORACLES[name]
    cell = make_cell({"cell": name, "hidden_size": 1, **options}).clone(param_dtype=jnp.float64)
    x = jnp.array(X)[None, :, None]
    carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, x[:, 0])

    def value(path, shape):
        names = [key.key for key in path]
        given = values.get(names[1], 0.1 if names[1] == "bias" else 0.5)
        return jnp.broadcast_to(jnp.array(given, shape.dtype), shape.shape)

    params = jax.tree_util.tree_map_with_path(value, shapes)
    for step in range(x.shape[1]):
        carry, _ = cell.apply(params, carry, x[:, step])
    for leaf, number in expected.items():
        np.testing.assert_allclose(
            getattr(carry, leaf), np.atleast_2d(number), rtol=0, atol=2e-12, err_msg=leaf
        )


# ---- Parameters, with one bias for each pre-activation -----------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "d", "options", "expected"),
    [
        ("lem", 1, 128, {}, 67_072 - 4 * 128),  # theirs has two biases
        ("cornn", 1, 256, {}, 131_584),
        ("slstm", 3, 8, {"heads": 4}, 4 * 8 * (3 + 2 + 1)),
        ("mingru", 3, 8, {}, 2 * 8 * 4),
        ("minlstm", 3, 8, {}, 3 * 8 * 4),
        ("lru", 8, 8, {"state_size": 5}, 3 * 5 + 4 * 5 * 8 + 8),
        ("lru", 3, 8, {}, 3 * 8 + 2 * 8 * (3 + 8) + 3 * 8),
        ("s5", 8, 8, {"state_size": 5}, 3 * 5 + 4 * 5 * 8 + 8),
        ("s5", 3, 8, {}, 3 * 8 + 2 * 8 * (3 + 8) + 3 * 8),
        ("legs", 1, 512, {}, 1 + 512 + 1 + 2 * 512 * (1 + 512 + 1)),  # 0.5M
        ("gated_legs", 3, 8, {"state_size": 5}, 3 + 8 + 1 + 3 * 8 * (3 + 5 + 1)),
        ("indrnn", 3, 8, {}, 8 * 5),
        ("unicornn", 3, 8, {}, 8 * 6),
    ],
)
def test_parameter_counts(name, n, d, options, expected):
    cell = make_cell({"cell": name, "hidden_size": d, **options})
    x = jnp.zeros((1, n))
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


# ---- Paths ------------------------------------------------------------------------------------


FAST = {
    "mingru": "linear",
    "minlstm": "linear",
    "lru": "linear",
    "s5": "linear",
    "cornn": "fused",
    "slstm": "fused",
}


@pytest.mark.parametrize("name", FAST)
def test_fast_paths_equal_the_scan(name, x64):
    """Values and gradients, with padding and two sequences in a row."""
    options = {"heads": 2} if name == "slstm" else {}
    cell = make_cell({"cell": name, "hidden_size": 4, **options}).clone(param_dtype=jnp.float64)
    x = jax.random.normal(jax.random.key(0), (2, 9, 3))
    resets = jnp.zeros((2, 9), bool).at[0, 4].set(True)
    scan, fast = (Recurrence(cell, backend=path) for path in ("scan", FAST[name]))
    shapes = jax.eval_shape(scan.init, jax.random.key(1), x)
    keys = iter(jax.random.split(jax.random.key(2), 20))
    draw = lambda s: 0.5 * jax.random.normal(next(keys), s.shape, s.dtype)  # noqa: E731
    params = jax.tree.map(draw, shapes)

    def loss(params, path):
        out = path.apply(params, x, lengths=jnp.array([9, 7]), resets=resets).outputs
        return (out * jnp.cos(jnp.arange(9.0))[:, None]).sum()

    graded = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    for slow, quick in zip(
        *map(jax.tree.leaves, (graded(params, scan), graded(params, fast))), strict=True
    ):
        np.testing.assert_allclose(quick, slow, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["cornn", "lem", "slstm"])
def test_a_detached_step_passes_no_gradient_through_its_products(name, x64):
    """What is left of d h_t / d h_{t-1} is what it is when every recurrent weight is 0."""
    cell = make_cell({"cell": name, "hidden_size": 3}).clone(param_dtype=jnp.float64)
    x = jnp.ones((1, 2))
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, x)
    keys = iter(jax.random.split(jax.random.key(3), 20))
    draw = lambda s: jax.random.normal(next(keys), s.shape, s.dtype)  # noqa: E731
    params, carry = jax.tree.map(draw, shapes), jax.tree.map(lambda s: jnp.abs(draw(s)), carry)

    def after(carry, stops):
        def one(module, carry):
            h = module.recurrent_input(carry)
            h = jax.lax.stop_gradient(h) if stops else h
            return module.step(carry, module.project(x), h)

        return cell.apply(params, carry, method=one)

    values = [after(carry, stops) for stops in (False, True)]
    jax.tree.map(np.testing.assert_array_equal, *values)
    stopped = jax.jacobian(lambda c: after(c, True))(carry)
    for leaf in jax.tree.leaves(stopped):  # (1, d, 1, d): what is left acts unit by unit
        matrix = leaf[0, :, 0]
        np.testing.assert_array_equal(matrix, np.diag(np.diag(matrix)))
    attached = jax.jacobian(lambda c: after(c, False))(carry).h.h[0, :, 0]
    assert np.abs(attached - np.diag(np.diag(attached))).max() > 0.01


# ---- Initial values and bad ones ---------------------------------------------------------------


def initial(name, d=64, n=5, **options):
    cell = make_cell({"cell": name, "hidden_size": d, **options})
    x = jnp.zeros((1, n))
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    return jax.jit(cell.init)(jax.random.key(0), carry, x)["params"]


def test_lru_starts_on_its_ring():
    params = initial("lru", d=2000, r_min=0.6, r_max=0.9, max_phase=0.5)
    radius = np.exp(-np.exp(params["nu"]))
    assert radius.min() >= 0.6 - 1e-6 and radius.max() <= 0.9 + 1e-6
    np.testing.assert_allclose((radius**2).mean(), (0.36 + 0.81) / 2, rtol=0.02)
    np.testing.assert_allclose(np.exp(params["gain"]), np.sqrt(1 - radius**2), rtol=1e-4)
    np.testing.assert_allclose(np.exp(params["theta"]).mean(), 0.25, rtol=0.05)


def test_s5_starts_at_the_modes_of_hippo():
    params = initial("s5", d=40, n=400, state_size=40, hippo_size=10)
    order = np.arange(20)
    root = np.sqrt(order + 0.5)
    hippo = -2 * np.tril(np.outer(root, root), -1) - np.diag(order + 1.0)  # A of YAR-06
    modes = np.linalg.eigvals(hippo + np.outer(root, root))  # and its normal part
    np.testing.assert_array_equal(params["poles"][:, 0], -0.5)
    for block in params["poles"][:, 1].reshape(4, 10):
        np.testing.assert_allclose(block, np.sort(modes.imag)[10:], rtol=1e-5)
    assert np.log(1e-3) <= params["log_step"].min() < params["log_step"].max() <= np.log(0.1)
    # V is orthonormal: B and C keep the deviation of what was drawn, half of it in each pair.
    b, c = np.asarray(params["input_map"]["value"]), np.asarray(params["read_out"])
    np.testing.assert_allclose((b**2).sum() / (400 * 40), 1 / 80, rtol=0.03)
    np.testing.assert_allclose((c**2).sum() / 40**2, 1 / 40, rtol=0.1)


def test_s5_forgets_by_its_steps_alone(x64):
    """YAR-08: with x = 0 and s_0 = 1, s_T = exp(T Lambda Delta); Lambda is kept off the axis."""
    cell = make_cell({"cell": "s5", "hidden_size": 2}).clone(param_dtype=jnp.float64)
    path, x = Recurrence(cell), jnp.zeros((1, 784, 3))
    shapes = jax.eval_shape(path.init, jax.random.key(0), x)
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)
    step, poles = np.array([0.01, 0.02]), np.array([[-0.5, 3], [0.2, -7]])
    params["params"]["layer_0"] |= {"poles": jnp.array(poles), "log_step": jnp.log(step)}
    start = cell.initialize_carry(None, (1, 3))
    start = start._replace(s=jnp.ones_like(start.s))
    final = jax.jit(path.apply)(params, x, initial=(start,)).final[0].s[0]
    expected = np.exp(784 * step * np.array([-0.5 + 3j, -1e-4 - 7j]))
    np.testing.assert_allclose(final, expected, rtol=1e-10)


def test_slstm_forgets_at_many_scales():
    params = initial("slstm", d=8, heads=2)
    assert not params["recurrent_kernel"].any()
    i, f, v, o = np.split(np.asarray(params["bias"]), 4)
    assert not i.any() and not v.any() and not o.any()
    np.testing.assert_allclose(f[[0, 3, 4, 7]], [5, -7, 5, -7], rtol=1e-6)
    np.testing.assert_allclose(f[1], 5 - 12 * (1 / 3) ** 0.3, rtol=1e-6)


def test_indrnn_bounds_its_weight():
    cell = make_cell({"cell": "indrnn", "hidden_size": 1, "recurrent_max": 0.25})
    params = {"input": {"kernel": jnp.ones((1, 1))}, "bias": jnp.zeros(1), "recurrent": jnp.ones(1)}
    out = cell.apply({"params": params}, (jnp.full((1, 1), 2.0),), jnp.ones((1, 1)))[1]
    assert out == 1 + 0.25 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "slstm", "heads": 3}, "heads=3 must divide hidden_size=8"),
        ({"cell": "lem", "step_size": 0.0}, "step_size=0.0 must be above 0"),
        ({"cell": "cornn", "step_size": -1.0}, "step_size=-1.0 must be above 0"),
        ({"cell": "lru", "r_min": 0.9, "r_max": 0.5}, "need 0 <= r_min < r_max <= 1"),
        ({"cell": "lru", "max_phase": 7.0}, "max_phase=7.0 must be above 0"),
        ({"cell": "lru", "state_size": -1}, "state_size=-1 must be 0"),
        ({"cell": "s5", "state_size": -1}, "state_size=-1 must be 0"),
        ({"cell": "s5", "hippo_size": 3}, "hippo_size=3 must be 0 .all., or divide the 8 numbers"),
        ({"cell": "s5", "step_min": 0.2}, "step_min=0.2, step_max=0.1: need 0 < step_min"),
        ({"cell": "legs", "state_size": -1}, "state_size=-1 must be 0"),
        ({"cell": "gated_legs", "gates": "OM"}, "gates='?OM"),
        ({"cell": "gated_legs", "ugi_margin": 0.7}, "ugi_margin=0.7 must lie in"),
        ({"cell": "indrnn", "recurrent_max": -1.0}, "recurrent_max=-1.0 must be 0"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_cell({"hidden_size": 8, **options})
