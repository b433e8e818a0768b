"""Weights of classes, from the labels of the training set, in the training loss alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

from lrd_jax.config import checks
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.class_weights import balanced
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.errors import UserError
from lrd_jax.objectives import make_objective
from lrd_jax.streams import StepContext
from tests.training.harness import SPEC, RandomData, make_config

RNG = np.random.default_rng(0)


def of_labels(spec, labels):
    """A data set of these training labels."""
    inputs = RNG.normal(size=(len(labels), spec.length, spec.features)).astype(np.float32)
    every = (inputs, labels)
    return ArrayDataset(spec, {"train": every, "valid": every, "test": every}, 4, "labels")


def test_balanced_as_scikit_learn_has_it():
    labels = np.array([0] * 7 + [1] * 2 + [3] * 11, np.int32)  # class 2 never occurs
    found = balanced(of_labels(SPEC, labels), "x").class_weights
    wanted = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(found, [*wanted[:2], 0, wanted[2]], rtol=1e-12)
    assert np.array(found)[labels].mean() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_only_the_training_loss_is_weighed(kind):
    spec = dataclasses.replace(SPEC, kind=kind, scored=3 * (kind == "tag"))
    shape = (6, 3) if kind == "tag" else (6,)
    targets = RNG.integers(0, SPEC.classes, shape).astype(np.int32)
    targets[0] = -1  # not scored
    weights = (0.5, 2.0, 3.0, 0.25)
    plain, weighed = (
        make_objective(make_config(), dataclasses.replace(spec, class_weights=w), Horizon(1, 1))
        for w in ((), weights)
    )
    outputs = jnp.array(RNG.normal(size=(*shape, SPEC.classes)))
    batch = {"targets": jnp.array(targets), "mask": jnp.ones(6)}
    step = StepContext(jax.random.key(0))
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, np.maximum(targets, 0))
    each = np.array(losses * np.array(weights)[targets] * (targets >= 0)).reshape(6, -1).mean(1)
    total, sums = weighed.scored(outputs, batch, step)
    assert total == pytest.approx(each.sum(), rel=1e-5)
    expected = plain.scored(outputs, batch, step)[1]
    assert sums["loss"][1] == expected["loss"][1] == 5
    assert sums["accuracy"] == expected["accuracy"]
    assert weighed.scored(outputs, batch, None)[0] == plain.scored(outputs, batch, None)[0]


def test_where_there_is_nothing_to_weigh():
    numbers = dataclasses.replace(SPEC, kind="regress")
    with pytest.raises(UserError, match=r"adding has none: set data\.class_weights=none"):
        balanced(of_labels(numbers, np.zeros(4, np.float32)), "adding")

    class Drawn(RandomData):
        def eval_batches(self, split, batch_size, rows=slice(None)):
            raise UserError("there is no training split")

    with pytest.raises(UserError, match=r"recall draws its examples anew at every step"):
        balanced(Drawn(), "recall")
    with pytest.raises(UserError, match=r"weights='even': must be one of none, balanced"):
        checks.validate(make_config(data__class_weights="even"))


def test_padded_steps_are_no_labels():
    class Padded(RandomData):
        spec = dataclasses.replace(SPEC, kind="tag")

        def eval_batches(self, split, batch_size, rows=slice(None)):
            labels = np.array([[1, 3, 3, 0], [3, 0, 0, 0], [2, 2, 2, 2]], np.int32)
            yield {"targets": labels, "mask": np.array([1, 1, 0]), "lengths": np.array([3, 1, 4])}

    found = balanced(Padded(), "x").class_weights
    np.testing.assert_allclose(found, [0, 2, 0, 2 / 3])
