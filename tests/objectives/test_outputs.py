"""What the outputs of a decoder mean, and what it reads of them, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.data.spec import DataSpec
from lrd_jax.objectives.outputs import Outputs

# Two channels of the values 0, 1, 2, which the network sees as -1, 1, 3.
PIXELS = DataSpec("classify", 9, 2, 4, offset=(0.5,), scale=(2.0,), values=3)
SYMBOLS = DataSpec("tag", 9, 3, 4, one_hot=True, values=3, symbols=True)
IDS = np.array([[[0, 2], [1, 1], [2, 0]], [[1, 0], [0, 0], [2, 2]]])  # (rows, steps, channels)


def logits(ids):
    """Of which these are the likeliest."""
    scores = np.full((*ids.shape, 3), -1.0)
    np.put_along_axis(scores, ids[..., None], 0.25, -1)
    return jnp.array(scores.reshape(*ids.shape[:-1], -1), jnp.float32)


@pytest.mark.parametrize("looks_up", [False, True])
def test_logits_stand_for_the_likeliest_value(looks_up):
    outputs = Outputs(PIXELS, cross_entropy=True, looks_up=looks_up)
    assert outputs.width == 6
    np.testing.assert_array_equal(outputs.seen(logits(IDS)), 2 * IDS - 1)
    # What it reads of its last step is what it would have read of the data.
    expected = IDS[:, 1] if looks_up else 2 * IDS[:, 1] - 1
    np.testing.assert_array_equal(outputs.read_back(logits(IDS)[:, 1]), expected)


def test_logits_of_symbols():
    outputs = Outputs(SYMBOLS, cross_entropy=True, looks_up=False)
    assert outputs.width == 3
    ids = IDS[..., :1]
    np.testing.assert_array_equal(outputs.seen(logits(ids)), np.eye(3)[ids[..., 0]])
    np.testing.assert_array_equal(outputs.read_back(logits(ids)[:, 0]), np.eye(3)[ids[:, 0, 0]])


def test_values_stand_for_themselves():
    outputs = Outputs(PIXELS, cross_entropy=False, looks_up=False)
    assert outputs.width == 2
    said = jnp.array([[[0.3, -7.0]]])
    np.testing.assert_array_equal(outputs.seen(said), said)
    np.testing.assert_array_equal(outputs.read_back(said[:, 0]), said[:, 0])


def test_a_table_is_read_at_the_nearest_value():
    outputs = Outputs(PIXELS, cross_entropy=False, looks_up=True)
    said = jnp.array([[-1.0, 1.0], [3.0, 1.8], [2.2, -9.0], [99.0, -0.2]])
    found = outputs.read_back(said)
    np.testing.assert_array_equal(found, [[0, 1], [2, 1], [2, 0], [2, 0]])


def test_costs():
    ids = jnp.array(IDS)
    squares = Outputs(PIXELS, cross_entropy=False, looks_up=False)
    said = jnp.array(2.0 * IDS - 1).at[0, 0, 0].add(3.0)
    np.testing.assert_allclose(squares.cost(said, ids), [9 / 6, 0])
    entropy = Outputs(PIXELS, cross_entropy=True, looks_up=False)
    right = np.log(np.exp(0.25) + 2 * np.exp(-1.0)) - 0.25
    np.testing.assert_allclose(entropy.cost(logits(IDS), ids), [right, right], rtol=1e-5)
    wrong = entropy.cost(logits(IDS), ids.at[0, 0, 0].set(1))
    np.testing.assert_allclose(wrong, [right + 1.25 / 6, right], rtol=1e-5)
