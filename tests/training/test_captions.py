"""Captioning through the training program: devices, seeds, resume (ORC-38, ORC-42)."""

import jax
import numpy as np
import pytest

from lrd_jax.config.members import Member
from tests.objectives.test_captioning import ATTEND, SHOW_TELL, config, dataset
from tests.training.harness import assert_identical, largest_difference, make_program, run

DRAWS = {
    "data.batch_size": 4,
    "data.captions_per_image": 2,
    "detach.p_block": 0.5,
    "model.output_dropout": 0.3,
    # Not Adam: the softmax takes no notice of the score's bias, whose gradient is rounding alone.
    "optim.name": "sgd",
    "optim.learning_rate": 0.5,
    "optim.clip_value": 0.1,
    "train.num_steps": 6,
}


def program(caption, devices, **changes):
    data = dataset(pictures=12, batch_size=4, att=caption == ATTEND, standardise=True)
    return make_program(config(caption, **DRAWS | changes), devices, data)


@pytest.mark.parametrize(
    "caption, scope",
    [
        pytest.param(ATTEND, "example", marks=pytest.mark.slow),
        pytest.param(ATTEND, "batch", marks=pytest.mark.slow),
        pytest.param(SHOW_TELL, "example", marks=pytest.mark.slow),
    ],
)
def test_devices_agree(caption, scope):
    """The draws of a caption are those of its place in the global batch; a word counts once."""
    changes = {"detach.scope": scope}
    one, four = (program(caption, devices, **changes) for devices in (1, 4))
    trained, other = run(one, 3), run(four, 3)
    assert largest_difference(trained.params, other.params) <= 1e-5
    np.testing.assert_array_equal(trained.sums["loss"][1], other.sums["loss"][1])
    params = jax.device_get(trained.params)
    scores, same = (p.evaluate(params, "valid") for p in (one, four))
    assert set(scores) >= {"loss", "perplexity", "cider", "bleu_4", "rouge_l"}
    for name in scores:
        np.testing.assert_allclose(scores[name], same[name], rtol=1e-5, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("caption", [SHOW_TELL, ATTEND])
def test_seeds_together_and_one_by_one(caption):
    together = run(program(caption, 1, num_seeds=2, seed=3), 4)
    alone = program(caption, 1)
    for index in range(2):
        alone.members = [Member(3 + index, {})]
        own = jax.tree.map(lambda x, i=index: x[i : i + 1], jax.device_get(together.params))
        assert largest_difference(own, run(alone, 4).params) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("caption", [SHOW_TELL, ATTEND])
def test_going_on_is_exact(caption):
    made = program(caption, 1)
    whole = run(made, 5)
    state = jax.device_get(run(made, 2))
    assert_identical(run(made, 3, jax.device_put(state, made.template().step.sharding)), whole)


@pytest.mark.parametrize("value", [0.0, 0.01])
def test_elements_of_the_gradient_are_cut(value):
    """One step of SGD moves no parameter by more than rate times the bound."""
    from lrd_jax.config import defaults
    from lrd_jax.config.horizon import Horizon
    from lrd_jax.training.optimizer import make_optimizer

    optim = defaults.get_config().optim
    optim.update(name="sgd", learning_rate=1.0, clip_norm=0.0, clip_value=value)
    tx, gradient = make_optimizer(optim, Horizon(1, 1)), {"a": np.array([3.0, -0.005], np.float32)}
    moved, _ = tx.update(gradient, tx.init(gradient), gradient)
    expected = [-3.0, 0.005] if not value else [-0.01, 0.005]
    np.testing.assert_allclose(moved["a"], expected, rtol=1e-6)
