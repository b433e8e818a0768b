"""Copying and adding: definitions, baselines, determinism, stored splits and bad values."""

import dataclasses
import math
import shutil
import tracemalloc
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import get_config
from lrd_jax.config.horizon import Horizon, make_horizon
from lrd_jax.data import DATASETS, Entry, make_dataset, synthetic
from lrd_jax.data.adding import Adding
from lrd_jax.data.copying import Copying
from lrd_jax.data.prepare import main, prepare, read_records
from lrd_jax.data.spec import DataSpec
from lrd_jax.data.synthetic import SyntheticDataset
from lrd_jax.data.task import Task, stream
from lrd_jax.errors import UserError
from lrd_jax.metrics import ReportedMetric
from lrd_jax.objectives import make_objective
from lrd_jax.objectives.base import encode

PRESETS = ("hdetach", "gu", "marker")
DELAYS = (1, 7, 100, 480)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def symbols(data_dir):
    """The stored symbols of the preset `hdetach`, by split."""
    builder = prepare("copy/hdetach", data_dir)
    return {split: read_records(builder, split) for split in builder.info.splits}


def make(data_dir, name="copy", **keys):
    config = get_config()
    defaults = {"preset": "gu", "delay": 5, "length": 12, "batch_size": 20}
    for key, value in (defaults | {"name": name, "data_dir": data_dir} | keys).items():
        config.data[key] = value
    return make_dataset(config)


def fresh(task, batch_size=1000):
    """A data set that streams; its stored splits are small."""
    splits = {split: task.draw(stream(split), 17) for split in ("validation", "test")}
    return SyntheticDataset(task, splits, batch_size, 10)


def whole(dataset, seed=0, step=0, size=None):
    return dataset.train_batch(seed, step, slice(0, size))


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in ("inputs", "targets", "mask"))


# ---- Definitions -----------------------------------------------------------------------------


@pytest.mark.parametrize("delay", DELAYS)
def test_copying_hdetach(delay):
    # ORC-25
    batch = whole(fresh(Copying("hdetach", delay)))
    x, y = batch["inputs"][..., 0], batch["targets"]
    assert x.shape == y.shape == (1000, delay + 20)
    assert x.dtype == y.dtype == np.uint8
    assert set(np.unique(x[:, :10])) == set(range(1, 9))
    assert (x[:, delay + 9] == 9).all() and ((x == 9).sum(axis=1) == 1).all()
    assert (np.delete(x, [*range(10), delay + 9], axis=1) == 0).all()
    assert (y[:, : delay + 10] == 0).all()
    np.testing.assert_array_equal(y[:, delay + 10 :], x[:, :10])


@pytest.mark.parametrize("delay", DELAYS)
def test_copying_gu(delay):
    # ORC-25
    batch = whole(fresh(Copying("gu", delay)))
    x, y = batch["inputs"][..., 0], batch["targets"]
    assert x.shape == (1000, delay + 20) and y.shape == (1000, 10)
    assert set(np.unique(x[:, :10])) == set(range(1, 9))
    assert (x[:, 10:-10] == 0).all() and (x[:, -10:] == 9).all()
    np.testing.assert_array_equal(y, x[:, :10])


@pytest.mark.parametrize("delay", DELAYS)
def test_copying_marker(delay):
    # ORC-25
    batch = whole(fresh(Copying("marker", delay)))
    x, y = batch["inputs"][..., 0], batch["targets"]
    assert x.shape == y.shape == (1000, delay + 20)
    assert set(np.unique(x[:, :10])) == set(range(1, 9))
    assert (x[:, delay + 10] == 9).all() and ((x == 9).sum(axis=1) == 1).all()
    assert (np.delete(x, [*range(10), delay + 10], axis=1) == 0).all()
    assert (y[:, : delay + 10] == 0).all()
    np.testing.assert_array_equal(y[:, delay + 10 :], x[:, :10])


@pytest.mark.parametrize("length", [2, 3, 50, 51])
def test_adding(length):
    # ORC-27
    batch = whole(fresh(Adding(length)))
    values, markers = batch["inputs"][..., 0], batch["inputs"][..., 1]
    assert batch["inputs"].dtype == batch["targets"].dtype == np.float32
    assert set(np.unique(markers)) <= {0.0, 1.0}
    half = length // 2
    assert (markers[:, :half].sum(axis=1) == 1).all() and (markers[:, half:].sum(axis=1) == 1).all()
    assert (markers.sum(axis=0) > 0).all()  # every position can be marked
    np.testing.assert_allclose(batch["targets"], (values * markers).sum(axis=1), rtol=1e-6)
    assert values.min() >= 0 and values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=0.02)


def test_symbols_are_uniform():
    symbols = whole(fresh(Copying("gu", 1), 2000))["targets"]
    counts = np.bincount(symbols.reshape(-1), minlength=9)[1:]
    assert abs(counts / counts.sum() * 8 - 1).max() < 0.07  # 4 standard deviations


def test_encodings():
    inputs = whole(fresh(Copying("hdetach", 3)), size=2)["inputs"]
    scalar = encode(jnp.asarray(inputs), Copying("hdetach", 3).spec)
    np.testing.assert_array_equal(scalar, inputs.astype(np.float32))  # ordinal code 0 .. 9
    for task in (Copying("hdetach", 3, "onehot"), Copying("gu", 3), Copying("marker", 3)):
        encoded = encode(jnp.asarray(inputs), task.spec)
        assert encoded.shape == (2, 23, task.spec.features) == (2, 23, 10)
        np.testing.assert_array_equal(encoded.argmax(-1), inputs[..., 0])
        assert (encoded.sum(-1) == 1).all()
    assert not Copying("gu", 3, "scalar").spec.one_hot
    assert [Copying(preset, 3).spec.classes for preset in PRESETS] == [9, 10, 9]


# ---- Baselines -------------------------------------------------------------------------------


def score(task, batch, outputs):
    """The objective's metrics for outputs that are given instead of computed."""
    config = get_config()
    objective = make_objective(config, task.spec, Horizon(10, 10))
    objective.outputs = lambda *_: jnp.asarray(outputs)
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    total, (sums, _) = objective.loss({}, (), batch, None)
    assert total == sums["loss"][0]
    names = [m.name for m in objective.metrics if not isinstance(m, ReportedMetric)]
    return {name: float(sums[name][0] / sums[name][1]) for name in names}


def without_memory(task, batch):
    """Logits of a model that knows the form of the answer and none of its content."""
    logits = np.full((*batch["targets"].shape, task.spec.classes), -1e9, np.float32)
    logits[:, :, 0] = 0
    logits[:, -10:] = -1e9
    logits[:, -10:, 1:9] = 0
    return logits


@pytest.mark.parametrize(
    ("preset", "delay", "loss"),
    [
        pytest.param("hdetach", 100, 0.173287, marks=pytest.mark.slow),
        ("hdetach", 300, 0.064983),
        pytest.param("marker", 1000, 0.020387, marks=pytest.mark.slow),
        pytest.param("gu", 480, 2.079442, marks=pytest.mark.slow),
    ],
)
def test_copying_without_memory_scores_the_baseline(preset, delay, loss):
    # ORC-26
    task = Copying(preset, delay)
    assert task.spec.baselines["loss"] == pytest.approx(loss, abs=1e-6)
    assert task.spec.baselines["accuracy"] == 0.125
    batch = whole(fresh(task, 50))
    assert score(task, batch, without_memory(task, batch))["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    "preset", [pytest.param(p, marks=() if p == "marker" else pytest.mark.slow) for p in PRESETS]
)
def test_guessing_scores_chance(preset):
    # ORC-26, by Monte Carlo: 200 000 symbols, one standard deviation is 0.6 %.
    task = Copying(preset, 1)
    batch = whole(fresh(task, 20_000))
    noise = np.random.default_rng(0).normal(size=(20_000, task.spec.scored, 10))
    logits = without_memory(task, batch) + noise[..., : task.spec.classes]
    accuracy = score(task, batch, logits)["accuracy"]
    assert accuracy == pytest.approx(task.spec.baselines["accuracy"], rel=0.02)


def test_adding_always_saying_one_scores_the_baseline():
    # ORC-26, by Monte Carlo: 300 000 sums, one standard deviation is 0.2 %.
    task = Adding(4)
    batch = whole(fresh(task, 300_000))
    loss = score(task, batch, np.ones((300_000, 1), np.float32))["loss"]
    assert loss == pytest.approx(1 / 6, rel=0.01)
    assert task.spec.baselines == {"loss": pytest.approx(1 / 6)}


@pytest.mark.parametrize("preset", PRESETS)
def test_copying_told_the_answer_scores_everything(preset):
    task = Copying(preset, 5)
    batch = whole(fresh(task, 50))
    answer = 100 * np.eye(task.spec.classes, dtype=np.float32)[batch["targets"]]
    assert score(task, batch, answer) == {"loss": pytest.approx(0, abs=1e-6), "accuracy": 1.0}
    # Accuracy counts the ten symbols alone, the loss every scored step.
    answer[:, :-10] = -answer[:, :-10]
    scores = score(task, batch, answer)
    assert scores["accuracy"] == 1.0
    assert (scores["loss"] > 1) == (preset != "gu")
    # Nine of ten.
    answer[:, -1] = -answer[:, -1]
    assert score(task, batch, answer)["accuracy"] == pytest.approx(0.9)


def test_adding_told_the_answer_scores_everything():
    task = Adding(9)
    batch = whole(fresh(task, 50))
    assert score(task, batch, batch["targets"][:, None])["loss"] == 0


def test_padding_does_not_score():
    for task in (Copying("hdetach", 5), Adding(9)):
        dataset = fresh(task)
        results = []
        for size in (17, 8):
            total = count = 0.0
            for batch in dataset.eval_batches("test", size):
                assert len(batch["inputs"]) == len(batch["targets"]) == size
                shape = (size, task.spec.scored, task.spec.classes)
                outputs = np.zeros(shape if task.spec.kind == "tag" else (size, 1), np.float32)
                value, weight = score(task, batch, outputs)["loss"], batch["mask"].sum()
                total, count = total + value * weight, count + weight
            results.append((total / count, count))
        assert results[0] == pytest.approx(results[1], rel=1e-5)
        assert results[0][1] == 17


@pytest.mark.parametrize("task", [Copying("hdetach", 5), Adding(9)])
def test_rows_of_evaluation_batches_make_up_the_batches(task):
    dataset = fresh(task)  # 17 examples: the last batch has but one, in the first process
    parts = [list(dataset.eval_batches("test", 8, rows)) for rows in (slice(0, 4), slice(4, 8))]
    for batch, first, second in zip(dataset.eval_batches("test", 8), *parts, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), array)


# ---- Determinism -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["copy", "adding"])
def test_batches_are_pure_functions_of_seed_and_step(data_dir, name):
    dataset, again = make(data_dir, name), make(data_dir, name)
    batch = whole(dataset, 1, 7)
    assert same(batch, whole(again, 1, 7))
    assert not same(batch, whole(dataset, 1, 8))
    assert not same(batch, whole(dataset, 2, 7))
    parts = [dataset.train_batch(1, 7, slice(a, b)) for a, b in ((0, 3), (3, 15), (15, 20))]
    for key, array in batch.items():
        np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), array)


def test_hdetach_draws_from_fixed_sequences_with_replacement(symbols):
    dataset = SyntheticDataset(Copying("hdetach", 1), symbols, 1000, 100)
    records = symbols["train"]["symbols"]
    assert records.shape == (100_000, 10) and dataset.eval_size("train") == 100_000
    rows = {row.tobytes(): number for number, row in enumerate(records)}
    batch = whole(dataset, 0, 3)
    numbers = [rows[row.tobytes()] for row in np.ascontiguousarray(batch["inputs"][:, :10, 0])]
    assert 950 < len(set(numbers)) <= 1000
    parts = [dataset.train_batch(0, 3, slice(a, b)) for a, b in ((0, 400), (400, 1000))]
    joined = np.concatenate([part["inputs"] for part in parts])
    np.testing.assert_array_equal(joined, batch["inputs"])
    # With replacement: an epoch as long as the set leaves out about 1/e of it.
    epoch = [whole(dataset, 0, step)["inputs"][:, :10, 0] for step in range(100)]
    seen = {row.tobytes() for row in np.ascontiguousarray(np.concatenate(epoch))}
    assert len(seen) / 100_000 == pytest.approx(1 - 1 / math.e, abs=0.01)
    assert "train / valid / test 100000 / 5000 / 5000" in dataset.describe()


def test_streams_and_splits_are_disjoint(data_dir, symbols):
    # Values are real numbers, so two that agree come from the same draw.
    adding = make(data_dir, "adding", length=50, batch_size=200)
    sets = [whole(adding, seed, step) for seed in (0, 1) for step in (0, 1)]
    sets += [next(adding.eval_batches(split, 200)) for split in ("valid", "test")]
    firsts = [row.tobytes() for batch in sets for row in batch["inputs"][..., 0]]
    assert len(firsts) == len(set(firsts)) == 1200
    splits = {
        split: {row.tobytes() for row in records["symbols"]} for split, records in symbols.items()
    }
    assert {split: round(len(rows), -2) for split, rows in splits.items()} == {
        "train": 100_000,
        "validation": 5_000,
        "test": 5_000,
    }
    # There are 8**10 sequences: by chance, 0.47 of a test set's are in the training set too.
    assert len(splits["train"] & splits["validation"]) <= 3
    assert len(splits["train"] & splits["test"]) <= 3
    assert len(splits["validation"] & splits["test"]) <= 1


def test_stored_splits_are_the_same_everywhere(data_dir, tmp_path):
    for name in ("copy", "adding"):
        one, other = make(data_dir, name), make(str(tmp_path), name)
        for split in ("valid", "test"):
            pairs = zip(one.eval_batches(split, 999), other.eval_batches(split, 999), strict=True)
            assert all(same(*pair) for pair in pairs)
    assert make(data_dir).eval_size("valid") == make(data_dir).eval_size("test") == 5000
    assert (tmp_path / "lrd_copy" / "gu" / "1.0.0").is_dir()
    assert (tmp_path / "lrd_adding" / "12" / "1.0.0").is_dir()


def test_symbols_are_those_of_every_delay(data_dir):
    first = [next(make(data_dir, delay=delay).eval_batches("test", 5)) for delay in (5, 400)]
    np.testing.assert_array_equal(first[0]["targets"], first[1]["targets"])


def test_long_delays_take_the_memory_of_one_batch(symbols):
    tracemalloc.start()
    try:
        dataset = SyntheticDataset(Copying("hdetach", 5000), symbols, 100, 1000)
        batch = whole(dataset, 0, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert batch["inputs"].nbytes == batch["targets"].nbytes == 100 * 5020
    assert peak < 4 * 100 * 5020


def test_an_epoch_is_what_the_config_says(data_dir):
    config = get_config()
    config.train.num_epochs = 600.0
    dataset = make(data_dir, batch_size=100, steps_per_epoch=1000)
    horizon = make_horizon(config.train, dataset.num_train, 100)
    assert (horizon.num_steps, horizon.steps_per_epoch) == (600_000, 1000)
    # ORC-12 at this length: the last 39 epochs do not block.
    assert horizon.detach_active(560_999, 39) and not horizon.detach_active(561_000, 39)


# ---- Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("copy", "preset", "", "data.preset='': name one of hdetach, gu, marker"),
        ("copy", "preset", "gru", "data.preset='gru': name one of"),
        ("copy", "delay", 0, "data.delay=0 must be at least 1"),
        ("copy", "delay", -5, "data.delay=-5 must be at least 1"),
        ("copy", "encoding", "one", "unknown data.encoding 'one'"),
        ("copy", "steps_per_epoch", 0, "data.steps_per_epoch=0 must be at least 1"),
        ("adding", "length", 1, "data.length=1: the adding task needs at least 2"),
        ("adding", "length", 0, "data.length=0: "),
        ("adding", "length", -4, "data.length=-4: "),
        ("adding", "batch_size", 0, "data.batch_size=0 must be at least 1"),
    ],
)
def test_bad_values_are_refused(data_dir, name, key, value, message):
    with pytest.raises(UserError, match=message):
        make(data_dir, name, **{key: value})


def test_bad_splits_are_refused(data_dir):
    dataset = make(data_dir)
    with pytest.raises(UserError, match="fresh training examples"):
        dataset.eval_batches("train", 5)
    with pytest.raises(UserError, match="unknown split 'tset'"):
        dataset.eval_size("tset")
    with pytest.raises(UserError, match="evaluation batch size 0"):
        dataset.eval_batches("test", 0)
    assert "train / valid / test fresh / 5000 / 5000" in dataset.describe()


def test_no_place_to_write(data_dir, tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    dataset = make(str(blocker / "below"), "adding")
    assert same(whole(dataset), whole(make(data_dir, "adding")))
    assert dataset.eval_size("test") == 1000


def test_prepare_on_the_command_line(tmp_path, capsys):
    assert main(["copy/marker", f"--data_dir={tmp_path}"]) == 0
    assert "validation 5000, test 5000" in capsys.readouterr().out
    for name, message in (
        ("copy", "data.preset='': name one of"),
        ("adding/x", "data.length=x: "),
        ("digits/8", "digits has no variants: leave out /8"),
    ):
        assert main([name, f"--data_dir={tmp_path}"]) == 2
        assert message in capsys.readouterr().err


def test_arrays_go_to_the_device_unchanged(data_dir):
    batch = jax.tree.map(jnp.asarray, whole(make(data_dir, "adding"), size=3))
    np.testing.assert_array_equal(encode(batch["inputs"], Adding(12).spec), batch["inputs"])


def test_published_sizes():
    """Of the codes that the presets are of; one without training examples streams them."""
    held_out = {"validation": 5_000, "test": 5_000}
    assert Copying("hdetach", 7).splits == {"train": 100_000, **held_out}
    assert Copying("gu", 7).splits == Copying("marker", 7).splits == held_out


def test_every_encoding_has_ten_symbols():
    """Eight to remember, the blank and the marker, whatever the preset."""
    for preset in ("hdetach", "gu", "marker"):
        spec = Copying(preset, 7, "onehot").spec
        assert spec.values == spec.features == 10
        assert spec.classes == (10 if preset == "gu" else 9)


# ---- Tasks of one's own ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Coins(Task):
    """Throws, and how many of them showed the last side; its variant forgets the sides."""

    length: int
    sides: int = 2
    STORED: ClassVar[str] = "Throws."

    @property
    def variant(self):
        return f"of-{self.length}"

    @classmethod
    def of_variant(cls, variant):
        return cls(int(variant.removeprefix("of-")))

    @property
    def splits(self):
        return {"validation": 7, "test": 9}

    @property
    def spec(self):
        return DataSpec("regress", self.length, 1, 1)

    def draw(self, rng, count):
        return {"throws": rng.integers(0, self.sides, (count, self.length), np.int32)}

    def expand(self, records):
        throws = records["throws"][..., None].astype(np.float32)
        return throws, (throws == self.sides - 1).mean(1, dtype=np.float32)


@pytest.fixture
def coins(monkeypatch, tmp_path):
    def make_with(task=Coins, **keys):
        monkeypatch.setitem(DATASETS, "coins", Entry(task))
        synthetic._fixed_examples.cache_clear()
        config = get_config().unlock()
        config.data.update({"name": "coins", "data_dir": str(tmp_path), "length": 5} | keys)
        return make_dataset(config)

    return make_with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owned(Coins):
    people: int


def test_what_the_config_lacks_has_the_default_of_the_field(coins):
    assert coins().eval_size("test") == 9
    with pytest.raises(UserError, match=r"data.name=coins needs data.people: set config.data.peop"):
        coins(Owned)


class Edited(Coins):
    def draw(self, rng, count):
        return {"throws": 1 - super().draw(rng, count)["throws"]}


class Longer(Coins):
    @property
    def splits(self):
        return {"validation": 7, "test": 10}


class Renamed(Coins):
    def draw(self, rng, count):
        return {"coins": super().draw(rng, count)["throws"]}


@pytest.mark.parametrize("edited", [Edited, Longer, Renamed])
def test_examples_of_an_earlier_version_of_a_task_are_refused(coins, tmp_path, edited):
    coins()
    with pytest.raises(UserError) as caught:
        coins(edited)
    folder = tmp_path / "lrd_coins" / "of-5"
    assert f"stored in {folder}" in str(caught.value) and "edited since" in str(caught.value)
    shutil.rmtree(folder)
    assert coins(edited).eval_size("test") == edited(5).splits["test"]


def test_a_variant_that_forgets_an_option_is_refused(coins):
    with pytest.raises(UserError, match=r"`variant` leaves out an option that changes the draws"):
        coins(sides=3)
    assert coins(sides=2).eval_size("valid") == 7


def test_a_rounding_of_another_processor_is_no_edit(coins):
    class Weighed(Coins):
        @property
        def splits(self):
            return {"validation": 7, "test": 200}

        def draw(self, rng, count):
            throws = rng.random((count, self.length))
            throws[:1] *= 1 + 1e-7 * shift
            throws[1:3] += shift == 2
            throws[4:5] = np.nan
            return {"throws": throws}

    shift = 1
    coins(Weighed)
    shift = 0  # the last digit of one in two hundred
    coins(Weighed)
    digests = {shift: synthetic.digest(Weighed(5)) for shift in (0, 1)}
    assert digests[0] == digests[1]
    shift = 2  # and two more: 1.5 %
    with pytest.raises(UserError, match="edited since"):
        coins(Weighed)


def test_a_digest_tells_tasks_apart():
    tasks = [Coins(5), Coins(6), Coins(5, 3), Edited(5), Adding(12), Adding(13)]
    assert len({synthetic.digest(task) for task in tasks}) == len(tasks)
    assert synthetic.digest(Coins(5)) == synthetic.digest(Coins(5))


def test_what_a_task_of_ones_own_has_to_say():
    """A class without one of them cannot be instantiated, whatever else it has."""
    members = {"variant", "of_variant", "splits", "spec", "draw", "expand"}
    assert Task.__abstractmethods__ == members
