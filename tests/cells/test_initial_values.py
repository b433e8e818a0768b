"""What a cell draws its first parameters from, and small things that no longer run shows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import (
    CoRNNCell,
    GatedGRUCell,
    IndRNNCell,
    LEMCell,
    LRUCell,
    LSTMCell,
    RecurrentCell,
)
from lrd_jax.errors import UserError

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("cell", "bound", "spread"),
    [
        # U(-b, b) has the deviation b / sqrt 3, the sum of two sqrt 2 times as much.
        (CoRNNCell(800), 1600**-0.5, 1600**-0.5 / 3**0.5),
        (LEMCell(400), 2 * 400**-0.5, 400**-0.5 * (2 / 3) ** 0.5),
    ],
)
def test_biases_are_drawn_from_the_interval_of_the_paper(cell, bound, spread):
    bias = np.asarray(cell.init_bias(KEY, (4000,), jnp.float32))
    assert abs(bias).max() <= bound
    assert bias.std() == pytest.approx(spread, rel=0.05) and abs(bias.mean()) < 0.1 * spread


def test_the_input_map_of_an_lru_is_drawn_by_its_width():
    cell, x = LRUCell(64), jnp.ones((1, 32))
    params = cell.init(KEY, cell.initialize_carry(KEY, x.shape), x)["params"]
    drawn = np.asarray(params["input_map"]["value"])
    assert drawn.shape[0] == 32
    assert drawn.std() == pytest.approx(64**-0.5, rel=0.05)  # 1 / sqrt(2 * 32)


def test_what_steps_slowly_in_an_lru_is_never_decayed():
    (group,) = LRUCell.groups
    assert (group.rate, group.weight_decay) == (0.5, 0.0)


@pytest.mark.parametrize(("weight", "clipped"), [(-3.0, -2.0), (3.0, 2.0), (0.5, 0.5)])
def test_recurrent_weights_of_an_indrnn_are_clipped_at_both_ends(weight, clipped):
    cell = IndRNNCell(1, recurrent_max=2.0)
    x, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
    carry = cell.initialize_carry(KEY, x.shape)._replace(h=one)
    params = cell.init(KEY, carry, x)["params"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    zeros["recurrent"] = jnp.full_like(params["recurrent"], weight)
    after, _ = cell.apply({"params": zeros | {"bias": 5 * one[0]}}, carry, x)
    assert after.h.item() == pytest.approx(5 + clipped)


def test_a_batch_may_be_empty():
    assert LSTMCell(3).initialize_carry(KEY, (0, 2)).h.shape == (0, 3)
    with pytest.raises(UserError, match="must be the shape of an input"):
        LSTMCell(3).initialize_carry(KEY, (-1, 2))


def test_a_cell_may_not_set_what_is_its_forms():
    assert LSTMCell.fixed and issubclass(GatedGRUCell, RecurrentCell)
    with pytest.raises(UserError, match=r"has .*, which is not for a .* to set"):
        type("Odd", (LSTMCell,), {"__call__": lambda self, carry, x: (carry, x)})
    type("Fine", (LSTMCell,), {})
