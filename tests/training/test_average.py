"""The moving average of the parameters: optax's, and what is validated, chosen and tested."""

import jax
import numpy as np
import optax
import pytest

from lrd_jax.metrics import stored
from lrd_jax.training.state import update_best
from tests.training.harness import assert_identical, make_config, make_program

DECAY = 0.9


@pytest.fixture(scope="module")
def program():
    return make_program(make_config(optim__ema_decay=DECAY, num_seeds=2), num_devices=1)


@pytest.fixture(scope="module")
def states(program):
    """The state after each of the first steps, on the host."""
    state, found = program.init(), []
    for step in range(4):
        state = program.train_step(state, program.batch(step))
        found.append(jax.device_get(state))
    return found


def test_it_is_the_unbiased_average_of_optax(states):
    ema = optax.ema(DECAY)
    kept = ema.init(states[0].params)
    for state in states:
        expected, kept = ema.update(state.params, kept)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            state.average,
            expected,
        )


def test_training_is_the_same_to_the_bit_as_without_it(states):
    plain = make_program(make_config(num_seeds=2), num_devices=1)
    state = plain.init()
    assert jax.tree.leaves(state.average) == []
    for step in range(4):
        state = plain.train_step(state, plain.batch(step))
    assert_identical(state.params, states[-1].params)
    assert_identical(state.opt_state, states[-1].opt_state)


def test_what_is_scored_and_kept_as_the_best_is_the_average(program, states):
    state, nothing = states[-1], ((lambda: None), (lambda _: None))
    assert state.scored is state.average
    scored, raw = program.validate(state, *nothing)
    expected = program.evaluate(state.average, "valid")
    np.testing.assert_array_equal(scored["loss"], expected["loss"])
    np.testing.assert_array_equal(raw["loss"], program.evaluate(state.params, "valid")["loss"])
    assert (scored["loss"] != raw["loss"]).all()
    kept = {metric.name: scored[metric.name] for metric in stored(program.objective.metrics)}
    best = update_best(state, kept, program.objective.select).best
    assert_identical(best.params, state.average)


def test_a_frozen_seed_keeps_its_average(program, states):
    batch = jax.device_get(program.batch(4))
    batch["inputs"] = batch["inputs"].copy()
    batch["inputs"][1] *= np.nan
    after = jax.device_get(program.train_step(jax.device_put(states[-1]), batch))
    for new, old in zip(*map(jax.tree.leaves, (after.average, states[-1].average)), strict=True):
        np.testing.assert_array_equal(new[1], old[1])
        assert (new[0] != old[0]).any()
