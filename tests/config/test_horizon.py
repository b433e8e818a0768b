"""Length of a run, and the epochs without h-detach."""

import jax
import jax.numpy as jnp
import pytest

from lrd_jax.config.horizon import Horizon, make_horizon
from lrd_jax.errors import UserError
from tests.training.harness import make_config


@pytest.mark.parametrize(
    ("num_steps", "num_epochs", "expected"),
    [
        (0, 3.0, (21, 7, 0)),  # ceil(52 / 8) = 7 steps an epoch
        (0, 0.5, (4, 7, 0)),
        (5, 3.0, (5, 7, 0)),
        (0, 1e-9, (1, 7, 0)),
    ],
)
def test_steps_win_over_epochs(num_steps, num_epochs, expected):
    train = make_config(train__num_steps=num_steps, train__num_epochs=num_epochs).train
    assert make_horizon(train, 52, 8) == expected


@pytest.mark.parametrize("epochs", [1e9, 1e308])
def test_more_steps_than_the_counter_holds_are_refused(epochs):
    train = make_config(train__num_steps=0, train__num_epochs=epochs).train
    with pytest.raises(UserError, match="fewer than"):
        make_horizon(train, 52, 8)


def test_detach_is_off_in_the_last_epochs():
    # ORC-12: E = 200, N = 39: off from epoch 161 (counted from 0) on, on in epoch 160.
    horizon = Horizon(num_steps=200 * 7, steps_per_epoch=7)
    assert horizon.num_epochs == 200
    assert horizon.detach_active(161 * 7 - 1, 39) and not horizon.detach_active(161 * 7, 39)
    steps = jnp.arange(200 * 7)
    active = jax.jit(lambda step: horizon.detach_active(step, 39))(steps)
    assert (active == (steps // 7 < 161)).all()


def test_detach_is_always_on_without_such_epochs():
    horizon = Horizon(num_steps=10, steps_per_epoch=3)
    assert horizon.num_epochs == 4  # the last one is cut short
    assert horizon.detach_active(9, 0) is True
    assert not horizon.detach_active(0, 4)
