"""Clipping, weight decay and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrd_jax.cells import CELLS, LSTMCell, ParameterGroup
from lrd_jax.config.horizon import Horizon
from lrd_jax.errors import UserError
from lrd_jax.training.optimizer import make_optimizer, make_schedule
from lrd_jax.training.program import make_program
from tests.training.harness import RandomData, make_config

HORIZON = Horizon(num_steps=100, steps_per_epoch=10)
PARAMS = {
    "recurrence": {"layer_0": {"recurrent_kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
    "head": {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}},
}


def optim(**overrides):
    return make_config(**{f"optim__{key}": value for key, value in overrides.items()}).optim


def update(grads, **overrides):
    tx = make_optimizer(optim(**{"learning_rate": 1.0, **overrides}), HORIZON)
    return tx.update(grads, tx.init(PARAMS), PARAMS)[0]


def test_clipping_is_by_the_norm_of_all_parameters():
    grads = jax.tree.map(lambda p: 3.0 * p, PARAMS)  # norm 3 sqrt(15)
    step = update(grads, name="sgd", clip_norm=2.0)
    np.testing.assert_allclose(optax.tree.norm(step), 2.0, rtol=1e-6)
    for leaf in jax.tree.leaves(step):
        np.testing.assert_allclose(leaf, -2 / np.sqrt(15), rtol=1e-6)


def test_clipping_of_the_cell_leaves_the_head_alone():
    grads = jax.tree.map(lambda p: 3.0 * p, PARAMS)
    step = update(grads, name="sgd", clip_norm=2.0, clip_scope="cell")
    for leaf in jax.tree.leaves(step["recurrence"]):
        np.testing.assert_allclose(leaf, -2 / np.sqrt(6), rtol=1e-6)
    for leaf in jax.tree.leaves(step["head"]):
        np.testing.assert_array_equal(leaf, -3)


@pytest.mark.parametrize("scope", ["all", "cell"])
def test_small_gradients_are_not_clipped(scope):
    grads = jax.tree.map(lambda p: 0.1 * p, PARAMS)
    step = update(grads, name="sgd", clip_norm=2.0, clip_scope=scope)
    for leaf in jax.tree.leaves(step):
        np.testing.assert_allclose(leaf, -0.1, rtol=1e-6)


def test_without_a_norm_nothing_is_clipped():
    grads = jax.tree.map(lambda p: 1e6 * p, PARAMS)
    for leaf in jax.tree.leaves(update(grads, name="sgd", clip_norm=0.0)):
        np.testing.assert_array_equal(leaf, -1e6)


def test_weight_decay_never_touches_a_bias():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    step = update(zero, name="adamw", weight_decay=0.25)
    for path, leaf in jax.tree_util.tree_leaves_with_path(step):
        np.testing.assert_array_equal(leaf, 0 if path[-1].key == "bias" else -0.25)


def test_rmsprop_is_the_one_of_the_papers():
    # The square average starts at zero: g / (sqrt(0.01 g^2) + eps) = 10.
    grads = jax.tree.map(lambda p: 0.5 * p, PARAMS)
    for leaf in jax.tree.leaves(update(grads, name="rmsprop", clip_norm=0.0)):
        np.testing.assert_allclose(leaf, -10, rtol=1e-6)


def test_elements_are_clipped_before_the_norm_is_taken():
    grads = jax.tree.map(lambda p: 3.0 * p, PARAMS)
    grads["head"]["Dense_0"]["bias"] = jnp.array([-7.0, 0.5, 0.0])
    step = update(grads, name="sgd", clip_norm=0.0, clip_value=2.0)
    np.testing.assert_array_equal(step["head"]["Dense_0"]["bias"], [2.0, -0.5, 0.0])
    np.testing.assert_array_equal(step["head"]["Dense_0"]["kernel"], -2.0)
    both = update(grads, name="sgd", clip_norm=1.0, clip_value=2.0)
    norm = np.sqrt(13 * 4 + 0.25)
    np.testing.assert_allclose(both["head"]["Dense_0"]["kernel"], -2 / norm, rtol=1e-6)
    cell = update(grads, name="sgd", clip_norm=0.0, clip_value=2.0, clip_scope="cell")
    np.testing.assert_array_equal(cell["head"]["Dense_0"]["kernel"], -3)
    np.testing.assert_array_equal(cell["recurrence"]["layer_0"]["bias"], -2)


def test_rmsprop_with_momentum_is_pytorchs_at_a_constant_rate():
    tx = make_optimizer(optim(name="rmsprop", learning_rate=0.1, momentum=0.9), HORIZON)
    state = tx.init(PARAMS)
    square = buffer = 0.0
    for gradient in (0.5, -0.2, 0.3):
        grads = jax.tree.map(lambda p, g=gradient: g * p / 10, PARAMS)  # too small to be clipped
        square = 0.99 * square + 0.01 * (gradient / 10) ** 2
        buffer = 0.9 * buffer + gradient / 10 / (np.sqrt(square) + 1e-8)
        updates, state = tx.update(grads, state, PARAMS)
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_allclose(leaf, -0.1 * buffer, rtol=1e-5)


def test_weight_decay_leaves_recurrent_kernels_alone_where_it_is_told_to():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    step = update(zero, name="adamw", weight_decay=0.25, decay_recurrent=False)
    for path, leaf in jax.tree_util.tree_leaves_with_path(step):
        np.testing.assert_array_equal(leaf, -0.25 if path[-1].key == "kernel" else 0)


@pytest.mark.parametrize("scope", ["all", "cell"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_values_given_to_an_update_take_the_place_of_the_configs(schedule, scope):
    common = {"name": "adamw", "clip_scope": scope, "schedule": schedule}
    common |= {"warmup_steps": 2, "decay_every_epochs": 1}
    grads = jax.tree.map(lambda p: 3.0 * p, PARAMS)
    general = make_optimizer(optim(**common, learning_rate=0.5, clip_norm=7.0), HORIZON)
    for values in (
        {"learning_rate": 0.1, "clip_norm": 0.0, "weight_decay": 0.0},
        {"learning_rate": 0.2, "clip_norm": 2.0, "weight_decay": 0.3},
    ):
        own = make_optimizer(optim(**common, **values), HORIZON)
        swept = {name: jnp.float32(value) for name, value in values.items()}
        states = own.init(PARAMS), general.init(PARAMS)
        for _ in range(12):
            one, state = own.update(grads, states[0], PARAMS)
            other, others = jax.jit(general.update)(grads, states[1], PARAMS, **swept, p_block=0.5)
            states = state, others
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)


def rates(steps, **overrides):
    schedule = make_schedule(optim(learning_rate=0.8, **overrides), HORIZON)
    return [float(schedule(step)) for step in steps]


def test_schedules():
    np.testing.assert_allclose(rates([0, 50, 99]), 0.8, rtol=1e-6)
    np.testing.assert_allclose(
        rates([0, 50, 100], schedule="cosine"), [0.8, 0.4, 0.0], rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        rates([0, 19, 20, 39, 40], schedule="step", decay_every_epochs=2, decay_rate=0.5),
        [0.8, 0.8, 0.4, 0.4, 0.2],
        rtol=1e-6,
    )


def test_warm_up_is_linear_and_the_cosine_ends_with_the_run():
    np.testing.assert_allclose(
        rates([0, 5, 10, 55, 100], schedule="cosine", warmup_steps=10),
        [0.0, 0.4, 0.8, 0.4, 0.0],
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"name": "adamm"}, "unknown optim.name='adamm': did you mean adam"),
        ({"weight_decay": 0.1}, "needs optim.name=adamw"),
        ({"momentum": 0.9}, "optim.momentum=0.9 needs optim.name=rmsprop or sgd"),
        ({"clip_scope": "head"}, "unknown optim.clip_scope='head': use one of all, cell"),
        ({"schedule": "linear"}, "unknown optim.schedule='linear': use one of constant, cosine"),
        ({"schedule": "step"}, "optim.decay_every_epochs >= 1"),
    ],
)
def test_wrong_values_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(optim(**overrides), HORIZON)


@pytest.mark.parametrize("rate", [0.0, -0.5])
def test_a_decay_that_ends_or_reverses_learning_is_refused(rate):
    with pytest.raises(UserError, match=r"optim\.decay_rate"):
        make_optimizer(optim(schedule="step", decay_every_epochs=1, decay_rate=rate), HORIZON)


# ---- Parameters with a rate and a decay of their own ------------------------------------------


GROUPS = (ParameterGroup(("decay", "step"), 0.5, 0.0), ParameterGroup(("input",), 0.25))
CELL = {
    "recurrence": {
        "layer_0": {
            "decay": jnp.ones((2, 2)),
            "input": {"kernel": jnp.ones((2, 2))},
            "recurrent_kernel": jnp.ones((2, 2)),
            "bias": jnp.ones(2),
        }
    },
    "head": {"decay": jnp.ones((2, 2))},  # of the same name, but not the cell's
}


def cell_updates(groups, horizon=HORIZON, **overrides):
    tx = make_optimizer(optim(**overrides), horizon, groups)
    state = tx.init(CELL)
    found, _ = tx.update(jax.tree.map(jnp.ones_like, CELL), state, CELL)
    return jax.tree.map(lambda u: float(u.mean()), found), state


def test_groups_have_a_rate_and_a_decay_of_their_own():
    options = {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.3, "clip_norm": 0.0}
    found, _ = cell_updates(GROUPS, **options)
    layer = found["recurrence"]["layer_0"]
    # AdamW's first step is -rate (1 + decay * weight), all gradients and weights being 1.
    assert layer["decay"] == pytest.approx(-0.05, rel=1e-5)
    assert layer["input"]["kernel"] == pytest.approx(-0.025 * 1.3, rel=1e-5)
    assert layer["recurrent_kernel"] == pytest.approx(-0.13, rel=1e-5)
    assert layer["bias"] == pytest.approx(-0.1, rel=1e-5)
    assert found["head"]["decay"] == pytest.approx(-0.13, rel=1e-5)
    # Pre-training holds the head, and the groups keep their rates.
    held, _ = cell_updates(GROUPS, Horizon(20, 10, pretrain_steps=5), **options)
    assert held["head"]["decay"] == 0
    assert held["recurrence"]["layer_0"]["decay"] == pytest.approx(-0.05, rel=1e-5)


def test_a_group_of_a_swept_rate():
    tx = make_optimizer(optim(name="sgd", learning_rate=7.0, clip_norm=0.0), HORIZON, GROUPS)
    args = jax.tree.map(jnp.ones_like, CELL), tx.init(CELL), CELL
    found = tx.update(*args, learning_rate=jnp.array(0.2))[0]["recurrence"]["layer_0"]
    np.testing.assert_allclose(found["decay"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(found["bias"], -0.2, rtol=1e-6)


def test_without_groups_the_state_is_the_same():
    states = [cell_updates(groups)[1] for groups in ((), GROUPS)]
    plain = make_optimizer(optim(), HORIZON).init(CELL)
    assert jax.tree.structure(states[0]) == jax.tree.structure(plain)
    assert jax.tree.structure(states[1]) != jax.tree.structure(plain)


def test_a_decay_of_its_own_needs_adamw():
    with pytest.raises(UserError, match=r"needs optim.name=adamw \(it is sgd\)"):
        make_optimizer(optim(name="sgd"), HORIZON, (ParameterGroup(("decay",), 1.0, 0.1),))


def test_a_parameter_beside_the_layers_has_no_group():
    """Nor has one that is called like them: only what lies inside a layer is the cell's."""
    params = {"recurrence": {"layer_scale": jnp.ones(2), **CELL["recurrence"]}}
    tx = make_optimizer(optim(name="sgd", learning_rate=0.2, clip_norm=0.0), HORIZON, GROUPS)
    found = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[0]
    np.testing.assert_allclose(found["recurrence"]["layer_scale"], -0.2, rtol=1e-6)
    np.testing.assert_allclose(found["recurrence"]["layer_0"]["decay"], -0.1, rtol=1e-6)


def test_a_decay_of_its_own_is_welcome_with_adamw():
    groups = (ParameterGroup(("decay",), 1.0, 0.1),)
    found, _ = cell_updates(groups, name="adamw", learning_rate=0.1, clip_norm=0.0)
    assert found["recurrence"]["layer_0"]["decay"] == pytest.approx(-0.11, rel=1e-5)


class DecayingCell(LSTMCell):
    groups = (ParameterGroup(("bias",), 1.0, 0.1),)


def test_groups_of_a_cell_can_be_switched_off(monkeypatch):
    monkeypatch.setitem(CELLS, "decaying", DecayingCell)
    options = {"model__cell": "decaying", "optim__name": "sgd"}
    with pytest.raises(UserError, match=r"or set optim\.groups=False"):
        make_program(make_config(**options), RandomData())
    make_program(make_config(**options, optim__groups=False), RandomData())
