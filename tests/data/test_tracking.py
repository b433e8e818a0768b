"""State tracking and selective copying: closed forms, baselines, curriculum and bad values."""

import math

import numpy as np
import pytest

from lrd_jax.data.pipeline import borders
from lrd_jax.data.selective_copying import SelectiveCopying
from lrd_jax.data.synthetic import SyntheticDataset
from lrd_jax.data.task import stream
from lrd_jax.data.tracking import Tracking, automaton, baselines, permutations
from lrd_jax.errors import UserError

PROBLEMS = ("parity", "cycle5", "flipflop", "S3", "A5", "S5")


def examples(task, count=50):
    inputs, targets = task.expand(task.draw(stream("test"), count))
    return inputs[..., 0].astype(int), targets.astype(int)


def test_parity_and_cycle_are_sums():
    x, y = examples(Tracking("parity", 40))
    np.testing.assert_array_equal(y, x.cumsum(1) % 2)
    x, y = examples(Tracking("cycle5", 40))
    np.testing.assert_array_equal(y, np.array([0, 1, -1])[x].cumsum(1) % 5)


def test_flipflop_is_the_last_write():
    x, y = examples(Tracking("flipflop", 60))
    for symbols, labels in zip(x, y, strict=True):
        bit = 0
        for symbol, label in zip(symbols, labels, strict=True):
            bit = bit if symbol == 0 else symbol - 1
            assert label == bit
    assert (x == 0).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("name", "order"), [("S3", 6), ("A5", 60), ("S5", 120)])
def test_words_are_products_of_matrices(name, order):
    """The permutation matrix of a label is the product of those of the symbols so far."""
    points = int(name[1])
    elements = permutations(points, name[0] == "A")
    assert automaton(name).table.shape == (order, order) and len(elements) == order
    matrices = np.eye(points, dtype=int)[elements]  # row i has its one at p(i)
    determinants = np.linalg.det(matrices)
    assert (determinants > 0).all() == (name[0] == "A")
    x, y = examples(Tracking(name, 20), 10)
    for symbols, labels in zip(x, y, strict=True):
        product = np.eye(points, dtype=int)
        for symbol, label in zip(symbols, labels, strict=True):
            product = matrices[symbol].T @ product  # columns: where each point is taken
            np.testing.assert_array_equal(product, matrices[label].T)
    assert len(np.unique(x)) > 0.7 * order  # of 200 draws


def test_baselines_in_closed_form():
    """Parity: only the first label is told by its symbol. Flip-flop: a write tells its label."""
    length = 32
    for name, order in (("parity", 2), ("S3", 6), ("S5", 120)):
        known = 1 / length + (1 - 1 / length) / order
        assert baselines(name, length)["accuracy"] == pytest.approx(known)
        rest = (1 - 1 / length) / order
        loss = -known * math.log(known) - (order - 1) * rest * math.log(rest)
        assert baselines(name, length)["loss"] == pytest.approx(loss)
    never = (1 - 0.8**length) / (length * 0.2)  # nothing was written before a step
    zero = 0.5 + 0.5 * never
    found = baselines("flipflop", length)
    assert found["accuracy"] == pytest.approx(0.2 + 0.8 * zero)
    entropy = -zero * math.log(zero) - (1 - zero) * math.log(1 - zero)
    assert found["loss"] == pytest.approx(0.8 * entropy)


@pytest.mark.parametrize("name", PROBLEMS)
def test_baselines_are_what_counting_finds(name):
    x, y = examples(Tracking(name, 12), 20_000)
    counts = np.zeros(automaton(name).table.shape)
    np.add.at(counts, (x, y), 1)
    found = counts.max(1).sum() / counts.sum()
    assert found == pytest.approx(baselines(name, 12)["accuracy"], abs=0.01)


# ---- Curriculum -------------------------------------------------------------------------------


def dataset(task, batch_size=8):
    splits = {split: task.draw(stream(split), 5) for split in ("validation", "test")}
    return SyntheticDataset(task, splits, batch_size, 10)


def test_a_curriculum_is_a_function_of_the_step():
    data = dataset(Tracking("S3", 16, ((2, 4), (3, 8))))
    assert borders(data) == (2, 5) and data.spec.length == 16
    lengths = [data.train_batch(0, step, slice(None))["targets"].shape[1] for step in range(7)]
    assert lengths == [4, 4, 8, 8, 8, 16, 16]
    whole = data.train_batch(0, 3, slice(None))
    np.testing.assert_array_equal(
        data.train_batch(0, 3, slice(2, 5))["inputs"], whole["inputs"][2:5]
    )
    assert next(data.eval_batches("test", 5))["targets"].shape == (5, 16)
    assert borders(dataset(Tracking("S3", 16))) == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tracking("S4", 8), "data.problem='S4': use parity, cycle<n>"),
        (lambda: Tracking("cycle2", 8), "a cycle has 3 to 256 places"),
        (lambda: Tracking("S3", 0), "data.length=0: state tracking needs at least 1 step"),
        (lambda: Tracking("S3", 8, ((5, 9),)), r"the pair \(5, 9\) must be at least 1 training"),
        (lambda: Tracking("S3", 8, ((0, 4),)), r"the pair \(0, 4\)"),
        (lambda: Tracking.of_variant("S3"), "PROBLEM-LENGTH, for instance tracking/S3-32"),
        (lambda: SelectiveCopying(31), "data.length=31 is too short for data.num_items=16"),
        (lambda: SelectiveCopying(32, 0), "data.num_items=0 must be at least 1"),
        (lambda: SelectiveCopying(32, 4, 1), "data.vocabulary=1 must be from 2"),
        (lambda: SelectiveCopying.of_variant("8"), "LENGTH-ITEMS-VOCABULARY"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


# ---- Selective copying --------------------------------------------------------------------------


def test_selective_copying_asks_for_what_it_showed():
    task = SelectiveCopying(30, 5, 7)
    x, y = examples(task, 2000)
    for symbols, labels in zip(x, y, strict=True):
        shown = symbols[:25]
        np.testing.assert_array_equal(shown[shown != 0] - 2, labels)
        assert (symbols[25:] == 1).all() and len(labels) == 5
    assert x.max() == task.spec.features - 1 and y.max() == task.spec.classes - 1 == 6
    np.testing.assert_allclose((x[:, :25] > 0).mean(0), 5 / 25, atol=0.05)  # at any place alike
    np.testing.assert_allclose(np.bincount(y.ravel()) / y.size, 1 / 7, atol=0.02)
    assert task.spec.baselines == {"loss": math.log(7), "accuracy": 1 / 7}
    assert SelectiveCopying.of_variant(task.variant) == task
