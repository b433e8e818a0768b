"""What given outputs cost, by hand: padding and labels of -1 count in no sum."""

import numpy as np
import pytest

from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.objectives.sequence import Classification, Regression, Tagging
from tests.training.harness import make_config

RNG = np.random.default_rng(0)
MASK = np.array([1, 1, 0, 1, 0, 1], np.float32)


def make(objective, **spec):
    return objective(make_config(), DataSpec(length=5, features=2, **spec), Horizon(10, 5))


def costs(outputs, targets):
    """Cross-entropies."""
    log = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    return -np.take_along_axis(log, targets[..., None], -1)[..., 0]


def test_a_classification():
    outputs = RNG.normal(size=(6, 4)).astype(np.float32)
    # Right in all rows but the second, also in the padding.
    targets = outputs.argmax(-1)
    targets[1] = (targets[1] + 1) % 4
    expected = costs(outputs, targets)[[0, 1, 5]].sum()
    targets[3] = -1
    batch = {"targets": targets, "mask": MASK}
    total, sums = make(Classification, kind="classify", classes=4).score(outputs, batch)
    assert total == pytest.approx(expected, rel=1e-5)
    assert sums["loss"] == pytest.approx((expected, 3), rel=1e-5)
    assert sums["accuracy"] == (2, 3)


def test_a_regression():
    outputs = RNG.normal(size=(6, 1)).astype(np.float32)
    targets = RNG.normal(size=6).astype(np.float32)
    batch = {"targets": targets, "mask": MASK}
    total, sums = make(Regression, kind="regress", classes=1).score(outputs, batch)
    expected = ((outputs[:, 0] - targets) ** 2)[MASK > 0].sum()
    assert total == pytest.approx(expected, rel=1e-5)
    assert sums["loss"] == pytest.approx((expected, 4), rel=1e-5)


def test_a_tagging():
    outputs = RNG.normal(size=(6, 3, 4)).astype(np.float32)
    targets = outputs.argmax(-1)
    # Of the last two, which are recalled: one wrong in row 0, both wrong in row 1; in row 5 the
    # step before them is wrong, which accuracy leaves out.
    for row, step in ((0, 2), (1, 1), (1, 2), (5, 0)):
        targets[row, step] = (targets[row, step] + 1) % 4
    spec = {"kind": "tag", "classes": 4, "scored": 3, "recalled": 2}
    batch = {"targets": targets, "mask": MASK}
    total, sums = make(Tagging, **spec).score(outputs, batch)
    expected = costs(outputs, targets).mean(-1)[MASK > 0].sum()
    assert total == pytest.approx(expected, rel=1e-5)
    assert sums["loss"] == pytest.approx((expected, 4), rel=1e-5)
    assert sums["accuracy"] == pytest.approx((0.5 + 0 + 1 + 1, 4))
