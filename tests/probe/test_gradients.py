"""Gradient flow: equal to finite differences and to a loop of its own, its horizon, its figure."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.objectives import make_objective
from lrd_jax.probe import gradients
from lrd_jax.recurrence import truncation_cuts
from lrd_jax.streams import StepContext

B, T, N, D, CLASSES = 2, 5, 2, 3, 3
SPEC = DataSpec("classify", length=T, features=N, classes=CLASSES)
CELLS = ("rnn", "lstm", "gru", "urlstm")
KEY = jax.random.key(3)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def case(cell, **changes):
    """A float64 objective, its parameters and a batch."""
    config = defaults.get_config()
    config.update_from_flattened_dict(
        {"model.cell": cell, "model.hidden_size": D, "model.head_hidden": ()} | changes
    )
    objective = make_objective(config, SPEC, Horizon(1, 1))
    recurrence = objective.model.recurrence
    recurrence = recurrence.clone(cell=recurrence.cell.clone(param_dtype=jnp.float64))
    objective.model = objective.model.clone(recurrence=recurrence)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: jnp.array(rng.normal(size=p.shape)), jax.eval_shape(objective.init, KEY)
    )
    batch = {
        "inputs": jnp.array(rng.normal(size=(B, T, N))),
        "targets": jnp.array(rng.integers(0, CLASSES, B)),
        "mask": jnp.ones(B),
    }
    return objective, params, batch


def loop(objective, params, batch, moved, blocked=None, cuts=None):
    """The loss by a loop over time that shares nothing with `Recurrence`.

    Args:
      moved: leaf -> what is added to it after every step, `(T, B, d)`.
      blocked: `(T,)`; at such a step h is stopped where it enters the product.
      cuts: `(T,)`; at such a step the whole state is stopped.
    """
    cell = objective.model.recurrence.cell
    own = {"params": params["recurrence"]["layer_0"]}
    state = cell.initialize_carry(KEY, (B, N))
    for t in range(T):
        if cuts is not None and cuts[t]:
            state = jax.lax.stop_gradient(state)
        h = state.h
        if blocked is not None and blocked[t]:
            h = jax.lax.stop_gradient(h)
        zx = cell.apply(own, batch["inputs"][:, t], method="project")
        state = cell.apply(own, state, zx, h, method="step")
        state = type(state)(**{k: v + moved[k][t] for k, v in state._asdict().items()})
    head = params["head"]["Dense_0"]
    logits = state.h @ head["kernel"] + head["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"]).sum()


def zeros(objective):
    fields = objective.model.recurrence.cell.carry_type._fields
    return {name: jnp.zeros((T, B, D)) for name in fields}


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_finite_differences(cell):
    objective, params, batch = case(cell)
    found = gradients.state_gradients(objective, params, batch)["layer_0"]
    nothing, small = zeros(objective), 1e-5

    @jax.jit
    def differences(directions):
        def one(direction):
            def at(size):
                moved = jax.tree.map(lambda z, d: z + size * d, nothing, direction)
                return loop(objective, params, batch, moved)

            return (at(small) - at(-small)) / (2 * small)

        return jax.lax.map(one, directions)

    for leaf, gradient in found.items():
        size = gradient.size
        unit = jnp.eye(size).reshape(size, *gradient.shape)
        directions = {name: unit if name == leaf else jnp.zeros_like(unit) for name in nothing}
        expected = differences(directions).reshape(gradient.shape)
        norms = jnp.sqrt((gradient**2).sum(-1))
        np.testing.assert_allclose(norms, jnp.sqrt((expected**2).sum(-1)), rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("cell", CELLS)
def test_with_detaching_and_truncation_they_are_those_of_a_stopped_loop(cell):
    objective, params, batch = case(cell, **{"detach.p_block": 0.5, "truncate.steps": 4})
    step = StepContext(jax.random.key(1))
    found = gradients.state_gradients(objective, params, batch, step)["layer_0"]
    blocked = gradients._masks(objective, step, batch)["block_h"]
    cuts = np.asarray(truncation_cuts(4, T))
    assert 0 < blocked[2:].sum() < 3 and cuts.any()
    expected = jax.grad(lambda m: loop(objective, params, batch, m, blocked, cuts))(
        zeros(objective)
    )
    for leaf in found:
        np.testing.assert_allclose(found[leaf], expected[leaf], rtol=1e-9, atol=1e-14)
    assert (found["h"][:1] == 0).all() and (found["h"][-1] != 0).all()


def test_horizon_counts_back_to_where_the_norm_stays_small():
    def of(*norms):
        return gradients.horizon(np.array(norms))

    assert of(0.1, 0.1, 0.5, 1.0) == 2
    assert of(0.1, 0.5, 0.1, 1.0) == 3  # for good
    assert of(0.5, 0.1, 0.1, 1.0) is None  # longer than T
    assert of(0.1, 0.1, 1.0, 0.0) == 1  # c has none at the last step
    assert of(0.0, 0.0) == 0
    assert of(1.0) is None
