"""What an evaluation reports of classes and of numbers, against scikit-learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.metrics import finish, stored, summed, tables
from lrd_jax.objectives import make_objective
from lrd_jax.objectives.reports import MOST_CLASSES, ClassReport, NumberReport
from tests.training.harness import make_config

CLASSES = 4


def over_batches(report, outputs, targets, weights, at):
    """The metrics of rows that come in two batches, as of one member."""
    parts = [
        report.sums(*(jnp.asarray(x[rows]) for x in (outputs, targets, weights)))
        for rows in (slice(0, at), slice(at, None))
    ]
    return {
        name: tuple(np.asarray(a + b, np.float64)[None] for a, b in zip(*both, strict=True))
        for name in parts[0]
        for both in [(parts[0][name], parts[1][name])]
    }


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.int64, (12, 2), elements=st.integers(-1, CLASSES - 1)),
    hnp.arrays(np.int64, (12, 2), elements=st.integers(0, CLASSES - 1)),
)
def test_classes(true, said):
    """A label of -1 counts nowhere; classes that never occur or are never said are left out."""
    weights = (true >= 0).astype(np.float32)
    report = ClassReport(CLASSES)
    sums = over_batches(report, np.eye(CLASSES, dtype=np.float32)[said], true, weights, 5)
    found, counts = finish(report.metrics, sums), tables(report.metrics, sums)["confusion"][0]
    true, said = true[true >= 0], said[true >= 0]
    if not len(true):
        assert np.isnan([found["balanced_accuracy"], found["macro_f1"]]).all()
        return
    wanted = np.mean([(said[true == c] == c).mean() for c in np.unique(true)])
    assert found["balanced_accuracy"][0] == pytest.approx(wanted, rel=1e-6)
    f1 = oracle.f1_score(true, said, average="macro", zero_division=0)
    assert found["macro_f1"][0] == pytest.approx(f1, rel=1e-6, abs=1e-9)
    confusion = oracle.confusion_matrix(true, said, labels=range(CLASSES))
    np.testing.assert_array_equal(counts, confusion)
    assert "confusion" not in found


def test_numbers():
    rng = np.random.default_rng(0)
    true, error = rng.normal(size=(2, 30, 3)).astype(np.float32)
    weights = np.ones(30, np.float32)
    weights[-4:], true[-4:] = 0, np.nan  # what is not scored may be anything
    scale = (2.0, 1.0, 0.5)
    report = NumberReport(tuple(1 / each for each in scale))
    found = finish(report.metrics, over_batches(report, true + error, true, weights, 11))
    true, said = (x[:-4] * np.array(scale) for x in (true, true + error))
    assert found["mse"][0] == pytest.approx(oracle.mean_squared_error(true, said), rel=1e-5)
    assert found["mae"][0] == pytest.approx(oracle.mean_absolute_error(true, said), rel=1e-5)
    assert found["r2"][0] == pytest.approx(oracle.r2_score(true, said), rel=1e-4)


def test_a_column_that_does_not_vary_has_no_r_squared():
    true = np.stack([np.arange(6.0), np.full(6, 1000.1)], axis=1).astype(np.float32)
    report = NumberReport()
    for columns, wanted in ((slice(0, 2), 1.0), (slice(1, 2), np.nan)):
        each = true[:, columns]
        found = finish(report.metrics, over_batches(report, each, each, np.ones(6), 3))
        np.testing.assert_equal(found["r2"][0], wanted)


def test_many_classes_have_no_table_and_training_sums_none_of_it():
    many = MOST_CLASSES + 1
    sums = ClassReport(many).sums(jnp.eye(many), jnp.arange(many), jnp.ones(many))
    assert list(sums) == ["balanced_accuracy", "macro_f1"]
    everything = (*ClassReport(3).metrics, *NumberReport.metrics)
    assert summed(everything) == stored(everything) == ()


@pytest.mark.parametrize("kind", ["tag", "regress_steps", "forecast"])
def test_steps_after_the_end_count_nowhere(kind):
    """Of sequences that differ in length, in the units of the data."""
    names = ("a", "b", "c")
    spec = DataSpec(kind, length=6, features=2, classes=3, varied=True, target_scale=(0.5,))
    spec = dataclasses.replace(spec, scored=6, class_names=names) if kind == "tag" else spec
    objective = make_objective(make_config(), spec, Horizon(1, 1))
    rng = np.random.default_rng(1)
    lengths, outputs = np.array([6, 2, 3]), rng.normal(size=(3, 6, 3)).astype(np.float32)
    targets = rng.normal(size=(3, 6, 3)).astype(np.float32)
    targets = targets.argmax(-1).astype(np.int32) if kind == "tag" else targets
    batch = {"targets": targets, "mask": np.array([1, 1, 0], np.float32), "lengths": lengths}
    sums = objective.scored(jnp.array(outputs), jax.tree.map(jnp.array, batch), None)[1]
    found = finish(objective.metrics, jax.tree.map(lambda x: np.asarray(x)[None], sums))
    valid = np.arange(6) < np.array([6, 2, 0])[:, None]
    true, said = targets[valid], outputs[valid]
    if kind == "tag":
        f1 = oracle.f1_score(true, said.argmax(-1), average="macro", zero_division=0)
        assert found["macro_f1"][0] == pytest.approx(f1, rel=1e-5)
    else:
        mse = oracle.mean_squared_error(2 * true, 2 * said)
        assert found["mse"][0] == pytest.approx(mse, rel=1e-5)
        assert found["loss"][0] == pytest.approx(mse / 4, rel=1e-5)
        assert found["r2"][0] == pytest.approx(oracle.r2_score(true, said), rel=1e-4)
