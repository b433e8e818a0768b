"""Which step of which seed counts as the best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.metrics import ACCURACY, LOSS
from lrd_jax.training.state import update_best
from tests.training.harness import make_config, make_program

SELECT = (ACCURACY, LOSS)


def metrics(accuracy, loss):
    return {"accuracy": jnp.array(accuracy), "loss": jnp.array(loss)}


@pytest.fixture(scope="module")
def fresh():
    """Three seeds before the first step."""
    return make_program(make_config(num_seeds=3)).init()


@pytest.fixture
def state(fresh):
    """They were validated at step 5; parameters carry the step that they are from."""
    return after(fresh, 5, metrics([0.5, 0.5, 0.5], [1.0, 1.0, 1.0]))


def after(state, step, valid):
    params = jax.tree.map(lambda p: jnp.full_like(p, step), state.params)
    return update_best(state.replace(step=jnp.int32(step), params=params), valid, SELECT)


def assert_best(state, steps):
    np.testing.assert_array_equal(state.best.step, steps)
    for leaf in jax.tree.leaves(state.best.params):
        for seed, step in enumerate(steps):
            np.testing.assert_array_equal(leaf[seed], step)


def test_the_first_validation_is_the_best_so_far(state):
    assert_best(state, [5, 5, 5])


def test_each_seed_has_its_own_best(state):
    new = after(state, 10, metrics([0.6, 0.4, 0.5], [2.0, 0.1, 1.0]))
    assert_best(new, [10, 5, 5])
    np.testing.assert_array_equal(new.best.valid["loss"], [2.0, 1.0, 1.0])
    np.testing.assert_array_equal(new.best.valid["accuracy"], np.float32([0.6, 0.5, 0.5]))


def test_ties_go_to_the_lower_loss_then_to_the_earlier_step(state):
    new = after(state, 10, metrics([0.5, 0.5, 0.5], [0.9, 1.0, 1.1]))
    assert_best(new, [10, 5, 5])


def test_nan_and_frozen_seeds_never_become_the_best(state):
    frozen = state.replace(first_nonfinite_step=jnp.array([-1, 7, -1]))
    new = after(frozen, 10, metrics([jnp.nan, 0.9, 0.9], [0.1, 0.1, jnp.nan]))
    assert_best(new, [5, 5, 10])


def test_a_seed_frozen_before_any_validation_has_none(fresh):
    frozen = fresh.replace(first_nonfinite_step=jnp.array([2, -1, -1]))
    new = after(frozen, 5, metrics([0.9, 0.1, 0.2], [0.1, 2.0, 2.0]))
    np.testing.assert_array_equal(new.best.step, [0, 5, 5])


def test_a_number_replaces_a_first_validation_that_was_nan(fresh):
    first = update_best(
        fresh.replace(step=jnp.int32(5)), metrics([0.5] * 3, [jnp.nan] * 3), (LOSS,)
    )
    second = update_best(first.replace(step=jnp.int32(10)), metrics([0.5] * 3, [0.5] * 3), (LOSS,))
    np.testing.assert_array_equal(second.best.step, [10, 10, 10])
