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


def test_the_network_reads_noise_in_training_alone():
    objective = make_objective(make_config(**NOISY), SPEC, Horizon(1, 1))
    params = objective.init(jax.random.key(0))
    read = jax.jit(lambda x, step: objective.outputs({"params": params}, {"inputs": x}, step))
    x = jnp.array(BATCH["inputs"])
    noisy = objective.noisy(x, DRAWS)
    np.testing.assert_allclose(read(x, DRAWS), read(noisy, None), rtol=1e-5, atol=1e-6)
    assert np.abs(read(x, DRAWS) - read(x, None)).max() > 1e-3


def test_what_the_head_reads_is_dropped_in_training_alone():
    objective = make_objective(make_config(model__output_dropout=0.5), SPEC, Horizon(1, 1))
    seen = []
    head = objective.model.head
    object.__setattr__(objective.model, "head", lambda x, key: seen.append(np.asarray(x)))
    features = jnp.ones((8, 50))
    for step in (None, DRAWS, DRAWS, StepContext(jax.random.key(4))):
        type(objective.model).read(objective.model, features, step)
    object.__setattr__(objective.model, "head", head)
    whole, once, again, other = seen
    assert (whole == 1).all() and set(once.ravel()) == {0, 2} and 0.3 < once.mean() / 2 < 0.7
    np.testing.assert_array_equal(once, again)
    assert (once != other).any() and (once[0] != once[1]).any()


def test_the_noise_is_normal_keyed_by_the_place_and_does_not_know_how_long_a_batch_is_padded():
    objective = make_objective(make_config(**NOISY), SPEC, Horizon(1, 1))
    zeros = jnp.zeros((200, 20, 2))
    noise = np.asarray(objective.noisy(zeros, DRAWS))
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(objective.noisy(zeros[:, :7], DRAWS), noise[:, :7])
    later = objective.noisy(zeros[4:9], DRAWS._replace(first=4))
    np.testing.assert_array_equal(later, noise[4:9])
    assert (noise != objective.noisy(zeros, StepContext(jax.random.key(4)))).any()


@pytest.mark.slow
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
