"""Noise on the inputs, and dropout before the head: in training alone, from the step's draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.objectives import make_objective
from lrd_jax.streams import StepContext
from tests.training.harness import SPEC, RandomData, make_config

BATCH = RandomData().train_batch(0, 0, slice(None))
NOISY = {"model__input_noise": 0.5, "model__backend": "scan"}
DRAWS = StepContext(jax.random.key(3))


@pytest.mark.parametrize("options", [NOISY, {"model__output_dropout": 0.5, "model__pool": "mean"}])
def test_draws_are_of_training_alone_and_keyed_by_the_place_in_the_batch(options):
    objective = make_objective(make_config(**options), SPEC, Horizon(1, 1))
    plain = make_objective(
        make_config(**{key: "mean" for key in options if key.endswith("pool")}), SPEC, Horizon(1, 1)
    )
    params = objective.init(jax.random.key(0))

    def loss(objective, step, rows=slice(None)):
        part = {name: values[rows] for name, values in BATCH.items()}
        return float(objective.loss({"params": params}, (), part, step)[0])

    assert loss(objective, None) == pytest.approx(loss(plain, None), rel=1e-6)
    once = loss(objective, DRAWS)
    assert once != loss(objective, None) and once == loss(objective, DRAWS)
    assert once != loss(objective, StepContext(jax.random.key(4)))
    halves = loss(objective, DRAWS, slice(0, 4))
    halves += loss(objective, DRAWS._replace(first=4), slice(4, 8))
    assert halves == pytest.approx(once, rel=1e-5)


def test_the_noise_is_normal_and_does_not_know_how_long_a_batch_is_padded():
    objective = make_objective(make_config(**NOISY), SPEC, Horizon(1, 1))
    zeros = jnp.zeros((200, 20, 2))
    noise = np.asarray(objective.noisy(zeros, DRAWS))
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(objective.noisy(zeros[:, :7], DRAWS), noise[:, :7])


def test_a_window_of_an_auxiliary_loss_reads_what_the_pass_read():
    """With no reach lost, the decoders' windows give the gradient of the whole pass."""
    whole = {**NOISY, "aux__kind": "predict", "aux__segment_length": 4, "aux__n_anchors": 1}
    grads = []
    for steps in (0, SPEC.length):
        config = make_config(**whole, truncate__steps=steps)
        objective = make_objective(config, SPEC, Horizon(1, 1))
        params = objective.init(jax.random.key(0))

        def total(params, objective=objective):
            return objective.loss({"params": params}, (), BATCH, DRAWS)[0]

        grads.append(jax.jit(jax.grad(total))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *grads)


def test_ids_take_no_noise():
    ids = DataSpec("classify", length=4, features=5, classes=3, one_hot=True, symbols=True)
    with pytest.raises(UserError, match=r"model\.input_noise=0\.5 is added to numbers"):
        make_objective(make_config(model__input_noise=0.5), ids, Horizon(1, 1))
