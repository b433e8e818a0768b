"""Cross-entropy on one label per sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.objectives import make_objective
from lrd_jax.objectives.base import encode

SPEC = DataSpec("classify", length=6, features=2, classes=10, scale=(1 / 255,))


@pytest.fixture(scope="module")
def objective():
    config = defaults.get_config()
    config.model.hidden_size = 4
    config.model.head_hidden = (3,)
    return make_objective(config, SPEC, Horizon(10, 5))


@pytest.fixture(scope="module")
def params(objective):
    return objective.init(jax.random.key(0))


def make_batch(mask):
    rng = np.random.default_rng(1)
    return {
        "inputs": jnp.array(rng.integers(0, 256, (len(mask), 6, 2), np.uint8)),
        "targets": jnp.array(rng.integers(0, 10, len(mask)), jnp.int32),
        "mask": jnp.array(mask, jnp.float32),
    }


def loss(objective, params, batch):
    total, (sums, carry) = objective.loss(
        {"params": params}, objective.initial_carry(5), batch, None
    )
    assert carry == ()
    return total, sums


def test_uniform_logits_cost_log_10(objective, params):
    flat = jax.tree.map(jnp.zeros_like, params)
    total, sums = loss(objective, flat, make_batch([1, 1, 1, 1, 1]))
    np.testing.assert_allclose(total / 5, np.log(10), rtol=1e-6)
    np.testing.assert_allclose(sums["loss"], (total, 5))


@pytest.mark.slow
def test_masked_rows_do_not_count(objective, params):
    batch = make_batch([1, 0, 1, 1, 0])
    real = jax.tree.map(lambda x: x[np.array([0, 2, 3])], batch)
    other = batch | {
        "inputs": batch["inputs"].at[np.array([1, 4])].set(7),
        "targets": batch["targets"].at[np.array([1, 4])].set(3),
    }
    expected, expected_sums = loss(objective, params, real)
    gradient = jax.grad(lambda p, b: loss(objective, p, b)[0])
    for found in (batch, other):
        total, sums = loss(objective, params, found)
        np.testing.assert_allclose(total, expected, rtol=1e-6)
        for name, value in expected_sums.items():
            np.testing.assert_allclose(sums[name], value, rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            gradient(params, found),
            gradient(params, real),
        )


def test_accuracy_counts_the_most_likely_class(objective, params):
    batch = make_batch([1, 1, 1, 1, 1])
    flat = jax.tree.map(jnp.zeros_like, params)
    bias = jnp.zeros(10).at[int(batch["targets"][0])].set(1.0)
    flat["head"]["Dense_1"]["bias"] = bias
    _, sums = loss(objective, flat, batch)
    same = (batch["targets"] == batch["targets"][0]).sum()
    np.testing.assert_array_equal(sums["accuracy"], (same, 5))


def test_encoding_scales_each_channel():
    spec = DataSpec("classify", 1, 2, 10, offset=(1.0, 2.0), scale=(2.0, 0.5))
    inputs = jnp.array([[[3, 3]]], jnp.uint8)
    np.testing.assert_array_equal(encode(inputs, spec), [[[4.0, 0.5]]])


def test_examples_without_a_label_do_not_score(objective, params):
    masked, unlabelled = make_batch([1, 1, 1, 0, 0]), make_batch([1, 1, 1, 1, 1])
    unlabelled["targets"] = masked["targets"].at[3:].set(-1)
    gradient = jax.grad(lambda p, b: loss(objective, p, b)[0])
    for batch, one in ((unlabelled, masked),):
        jax.tree.map(
            np.testing.assert_array_equal,
            (loss(objective, params, batch), gradient(params, batch)),
            (loss(objective, params, one), gradient(params, one)),
        )
