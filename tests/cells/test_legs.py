"""HiPPO-LegS against its dense matrices; its count of steps is a part of its state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lrd_jax.cells import make_cell
from lrd_jax.cells.gates import effective_gate
from lrd_jax.cells.legs import LegSCarry, write
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Recurrence

D, N, FEATURES, T = 4, 5, 2, 6
GATED = {"cell": "gated_legs", "hidden_size": D, "state_size": N}
CELLS = {"legs": {**GATED, "cell": "legs"}, "UR": GATED, "U-": {**GATED, "gates": "U-"}}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def hippo(n):
    """A and B, as the paper has them."""
    order = np.arange(n)
    root = np.sqrt(2 * order + 1)
    return -np.tril(np.outer(root, root), -1) - np.diag(order + 1.0), root


def transition(k, n):
    """What a step makes of the memory before it, and of the number that is written."""
    (a, b), eye = hippo(n), np.eye(n)
    found = np.linalg.solve(eye - a / 2 / k, np.column_stack([eye + a / 2 / k, b / k]))
    return found[:, :n], found[:, n]


def build(name):
    cell = make_cell(CELLS[name]).clone(param_dtype=jnp.float64)
    x = jnp.array(np.random.default_rng(1).standard_normal((2, T, FEATURES)))
    model = Recurrence(cell)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda p: jnp.array(rng.standard_normal(p.shape)), shapes), x


def test_memory_is_that_of_the_dense_matrices(x64):
    rng = np.random.default_rng(0)
    m, u = rng.standard_normal((3, 7)), rng.standard_normal((3, 1))
    steps = np.array([[1.0], [2.0], [783.0]])
    found = jax.jit(write)(steps, m, u)
    jacobian = jax.jit(jax.vmap(jax.jacrev(write, (1, 2))))(steps, m, u)
    for row, k in enumerate(steps[:, 0]):
        keep, add = transition(k, 7)
        np.testing.assert_allclose(found[row], keep @ m[row] + add * u[row], rtol=0, atol=1e-13)
        np.testing.assert_allclose(jacobian[0][row], keep, rtol=0, atol=1e-13)
        np.testing.assert_allclose(jacobian[1][row][:, 0], add, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CELLS)
def test_equations(name, x64):
    model, params, x = build(name)
    p = params["params"]["layer_0"]
    h, m, states = np.zeros((2, D)), np.zeros((2, N)), []
    for k in range(T):
        zx = x[:, k] @ p["input"]["kernel"] + p["bias"]
        u = zx[:, :1] + h @ p["recurrent_write"]
        keep, add = transition(max(k, 1), N)
        m = m @ keep.T + u * add if k else np.pad(u, ((0, 0), (0, N - 1)))
        parts = np.split(zx[:, 1:] + m @ p["recurrent_kernel"], zx.shape[1] // D, axis=1)
        gates = [1 / (1 + np.exp(-z)) for z in parts[:-1]]
        g = effective_gate(model.cell.gates, *gates)
        h = (1 - g) * h + g * np.tanh(parts[-1])
        states.append(h)
    out = jax.jit(model.apply)(params, x)
    np.testing.assert_allclose(out.outputs, np.stack(states, axis=1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(out.final[0].m, m, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(out.final[0].k, np.full((2, 1), T))


def test_the_count_goes_with_the_memory(x64):
    """Resets, padding and a state that is carried on: as if each sequence were run alone."""
    model, params, x = build("UR")
    run = jax.jit(model.apply)
    resets = jnp.zeros((2, T), bool).at[0, 2].set(True)
    out = run(params, x, resets=resets, lengths=jnp.array([T, 3]))
    alone = [run(params, x[:1, :2]), run(params, x[:1, 2:]), run(params, x[1:, :3])]
    found = [out.outputs[:1, :2], out.outputs[:1, 2:], out.outputs[1:, :3]]
    for part, whole in zip(found, alone, strict=True):
        np.testing.assert_allclose(part, whole.outputs, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(out.final[0].k, [[T - 2], [3]])
    whole = run(params, x)
    first = run(params, x[:, :2])
    then = run(params, x[:, 2:], initial=first.final)
    np.testing.assert_allclose(then.outputs, whole.outputs[:, 2:], rtol=0, atol=1e-13)
    np.testing.assert_array_equal(then.final[0].k, whole.final[0].k)


def test_gradients(x64):
    model, params, x = build("UR")

    def loss(params, x):
        return (model.apply(params, x).outputs * jnp.cos(jnp.arange(D))).sum()

    check_grads(jax.jit(loss), (params, x), order=1, modes=["rev"], rtol=1e-6)


def test_a_detached_step_keeps_the_linear_memory_alone(x64):
    """What is left of the Jacobian of a step: the gate's own path, and the fixed matrix."""
    model, params, x = build("legs")
    cell, own = model.cell, {"params": params["params"]["layer_0"]}
    rng = np.random.default_rng(2)
    h, m = (jnp.array(rng.standard_normal((1, width))) for width in (D, N))
    carry = LegSCarry(h, m, jnp.full((1, 1), 3.0))

    def after(carry, stops):
        def one(module):
            h = module.recurrent_input(carry)
            h = jax.lax.stop_gradient(h) if stops else h
            return module.step(carry, module.project(x[:1, 0]), h)

        return cell.apply(own, method=one)

    @jax.jit
    def both(carry):
        found = [(after(carry, s), jax.jacobian(after)(carry, s)) for s in (True, False)]
        return tuple(zip(*found, strict=True))

    values, (stopped, attached) = both(carry)
    jax.tree.map(np.testing.assert_array_equal, *values)
    of_h = np.asarray(stopped.h.h)[0, :, 0]
    np.testing.assert_array_equal(of_h, np.diag(np.diag(of_h)))
    assert ((np.diag(of_h) > 0) & (np.diag(of_h) < 1)).all()
    assert not np.any(stopped.h.m) and not np.any(stopped.m.h)
    np.testing.assert_allclose(stopped.m.m[0, :, 0], transition(3, N)[0], rtol=0, atol=1e-13)
    assert np.abs(attached.h.m).max() > 0.01 and np.abs(attached.m.h).max() > 0.01


def test_long_sequences_in_single_precision():
    """T = 784: the memory in float32 is that of float64."""
    u = np.random.default_rng(0).standard_normal((784, 1, 1))

    def final(dtype):
        def step(carry, u):
            k, m = carry
            return (k + 1, write(k, m, u)), None

        start = jnp.zeros((1, 1), dtype), jnp.zeros((1, 64), dtype)
        return jax.jit(lambda u: jax.lax.scan(step, start, u)[0][1])(jnp.array(u, dtype))

    single = np.asarray(final(jnp.float32))
    with jax.enable_x64(True):
        double = np.asarray(final(jnp.float64))
    assert np.linalg.norm(single - double) < 1e-4 * np.linalg.norm(double)


def test_initial_values():
    cell = make_cell({"cell": "gated_legs", "hidden_size": 100, "state_size": 400})
    carry = cell.initialize_carry(None, (1, 3))
    params = jax.jit(cell.init)(jax.random.key(0), carry, jnp.zeros((1, 3)))["params"]
    gate, refine, candidate = np.split(np.asarray(params["recurrent_kernel"]), 3, axis=1)
    np.testing.assert_allclose([gate.std(), refine.std()], 400**-0.5, rtol=0.02)
    np.testing.assert_allclose(candidate.std(), (2 / 500) ** 0.5, rtol=0.02)
    assert 0.9 * 0.03**0.5 < np.abs(params["recurrent_write"]).max() <= 0.03**0.5
    bias = np.asarray(params["bias"])
    open_at_first = np.sort(1 / (1 + np.exp(-bias[1:101])))
    np.testing.assert_allclose(open_at_first, np.linspace(0, 1, 100), atol=0.15)
    assert not bias[101:201].any() and np.abs(bias[201:]).max() <= 400**-0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zoneout_c": 0.5}, "zoneout_c=0.5 needs a cell with a memory c"),
        ({"c_block": 0.5}, "c_block=0.5 needs a cell with a memory c"),
        ({"backend": "fused"}, "fused cannot run LegSCell.*use model.backend=scan"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(UserError, match=message):
        Recurrence(make_cell(CELLS["legs"]), **options).check()
