"""Multi-query associative recall: its definition, chance, determinism and bad values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data import known_keys, make_dataset
from lrd_jax.data.prepare import main
from lrd_jax.data.recall import Recall
from lrd_jax.data.synthetic import SyntheticDataset
from lrd_jax.data.task import stream
from lrd_jax.errors import UserError
from lrd_jax.objectives import make_objective

SMALL = Recall(20, 4, 32)


def batch_of(task, count, seed=0, step=0):
    splits = {split: task.draw(stream(split), 5) for split in ("validation", "test")}
    return SyntheticDataset(task, splits, count, 10).train_batch(seed, step, slice(None))


@given(st.integers(1, 6), st.integers(0, 9), st.integers(0, 9), st.floats(0.01, 2))
def test_every_query_can_be_answered(pairs, more_steps, more_symbols, power):
    """The label of a query is the value that stood after that key; there are no other labels."""
    task = Recall(4 * pairs + more_steps, pairs, 2 * (pairs + 1) + more_symbols, power)
    batch = batch_of(task, 7)
    inputs, targets = batch["inputs"][..., 0], batch["targets"]
    context, half = 2 * pairs, task.vocabulary // 2
    assert inputs.shape == (7, task.length) and targets.shape == (7, task.length - context)
    for row, labels in zip(inputs, targets, strict=True):
        keys, values = row[0:context:2], row[1:context:2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert keys.min() >= 1 and keys.max() < half
        assert values.min() >= half and values.max() < task.vocabulary
        answers, asked = dict(zip(keys, values, strict=True)), row[context:]
        # Every key is asked for once, where alone there is a label.
        assert sorted(asked[asked > 0]) == sorted(keys)
        np.testing.assert_array_equal(labels >= 0, asked > 0)
        assert all(answers[key] == label for key, label in zip(asked, labels, strict=True) if key)
        assert not (np.flatnonzero(asked) % 2).any()


def test_places_follow_the_power_law():
    # One pair among S places: the probability of place i is i^(a-1) / sum.
    task = Recall(22, 1, 8, 0.5)
    places = task.draw(stream("test"), 100_000)["places"][:, 0]
    expected = np.arange(1, 11) ** -0.5
    expected /= expected.sum()
    np.testing.assert_allclose(np.bincount(places, minlength=10) / 100_000, expected, atol=0.006)
    # And keys are uniform.
    keys = SMALL.draw(stream("test"), 50_000)["keys"]
    for column in keys.T:
        np.testing.assert_allclose(np.bincount(column)[1:] / 50_000, 1 / 15, atol=0.006)


def test_batches_are_pure_functions_of_seed_and_step():
    batch = batch_of(SMALL, 20, 1, 7)
    for name, array in batch.items():
        np.testing.assert_array_equal(array, batch_of(SMALL, 20, 1, 7)[name])
    for other in ((1, 8), (2, 7)):
        assert not np.array_equal(batch["inputs"], batch_of(SMALL, 20, *other)["inputs"])


# ---- What is scored ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objective():
    config = defaults.get_config()
    config.data.name = "recall"
    config.model.embedding = "table"
    config.model.update(embedding_size=6, hidden_size=5, head_hidden=())
    return make_objective(config, SMALL.spec, Horizon(10, 10))


def score(objective, batch, outputs):
    sums = objective.score(jnp.asarray(outputs), jax.tree.map(jnp.asarray, batch))[1]
    return {name: float(total / count) for name, (total, count) in sums.items()}


def test_chance_is_the_baseline(objective):
    """Any value is as likely as any other: ln 16, and one of 16 right."""
    batch = batch_of(SMALL, 5000)
    logits = np.full((*batch["targets"].shape, 32), -1e9, np.float32)
    logits[..., 16:] = 0
    assert SMALL.spec.baselines == {"loss": math.log(16), "accuracy": 1 / 16}
    assert score(objective, batch, logits)["loss"] == pytest.approx(math.log(16), rel=1e-5)
    logits[..., 16:] += np.random.default_rng(0).normal(size=(*batch["targets"].shape, 16))
    # 20 000 queries: one standard deviation is 0.0017.
    assert score(objective, batch, logits)["accuracy"] == pytest.approx(1 / 16, abs=0.006)


def test_what_is_not_asked_for_does_not_score(objective):
    batch = batch_of(SMALL, 50)
    answer = 100 * np.eye(32, dtype=np.float32)[batch["targets"]]
    answer[batch["targets"] < 0] = np.random.default_rng(0).normal(size=32)
    perfect = {"loss": pytest.approx(0, abs=1e-6), "accuracy": 1.0}
    assert score(objective, batch, answer) == perfect
    # One of the four labels of the first example wrong: 1 of 200.
    place = np.flatnonzero(batch["targets"][0] >= 0)[0]
    answer[0, place] = -answer[0, place]
    assert score(objective, batch, answer)["accuracy"] == pytest.approx(199 / 200)


def test_labels_count_alike_whatever_example_they_are_in(objective):
    """The mean over scored labels is that of the batch, not of each example first."""
    batch = jax.tree.map(np.array, batch_of(SMALL, 3))
    scored = np.argwhere(batch["targets"] >= 0)
    for row, place in scored[:3]:  # one label is left in the first example
        batch["targets"][row, place] = -1
    batch["mask"][2] = 0
    logits = np.random.default_rng(1).normal(size=(*batch["targets"].shape, 32))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    kept = (batch["targets"] >= 0) & (batch["mask"][:, None] > 0)
    assert kept.sum() == 5
    expected = -np.take_along_axis(logs, batch["targets"][..., None], -1)[..., 0][kept].mean()
    assert score(objective, batch, logits.astype(np.float32))["loss"] == pytest.approx(
        expected, rel=1e-5
    )


# ---- From the config ----------------------------------------------------------------------------


def make(tmp_path, **data):
    config = defaults.get_config()
    options = {"name": "recall", "data_dir": str(tmp_path), "length": 20, "pairs": 4}
    config.data.update(options | {"vocabulary": 32, "batch_size": 8} | data)
    return make_dataset(config)


def test_it_is_stored_and_described(tmp_path, monkeypatch):
    monkeypatch.setattr(Recall, "NUM_FIXED", 6)
    dataset = make(tmp_path)
    assert (tmp_path / "lrd_recall" / "20-4-32-0.01" / "1.0.0").is_dir()
    assert dataset.describe() == (
        "recall (4 pairs, 32 symbols): 20 steps of 32, train / valid / test fresh / 6 / 6"
    )
    stored, fresh = (next(d.eval_batches("test", 6)) for d in (make(tmp_path), dataset))
    for name, array in stored.items():
        np.testing.assert_array_equal(array, fresh[name])
    assert main(["recall/20-4-32-0.01", f"--data_dir={tmp_path}"]) == 0
    assert {"length", "pairs", "vocabulary", "query_power"} < known_keys("recall")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"pairs": 0}, "data.pairs=0 must be at least 1"),
        ({"length": 15}, "data.length=15 is too short for data.pairs=4"),
        ({"vocabulary": 9}, "data.vocabulary=9 has too few symbols .*: use at least 10"),
        ({"query_power": 0.0}, "data.query_power=0.0 must be above 0"),
        ({"query_power": float("inf")}, "data.query_power=inf must be above 0 and finite"),
        ({"query_power": float("nan")}, "data.query_power=nan must be above 0 and finite"),
    ],
)
def test_bad_values_are_refused(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path, **data)


def test_a_variant_that_is_none_is_refused(tmp_path, capsys):
    assert main(["recall/64", f"--data_dir={tmp_path}"]) == 2
    assert "name a variant as LENGTH-PAIRS-VOCABULARY-POWER" in capsys.readouterr().err
