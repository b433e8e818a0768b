"""Batches of sequences that differ in length: their order, their buckets, and what padding is."""

import functools
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_jax.config import command_line
from lrd_jax.config.defaults import get_config
from lrd_jax.config.horizon import Horizon
from lrd_jax.config.values import conform
from lrd_jax.data import make_dataset
from lrd_jax.data.pipeline import shapes_change
from lrd_jax.data.prepare import main
from lrd_jax.data.sequence_files import Layout, Place, Sequences
from lrd_jax.data.sequence_fit import FILE, Fit, fit, statistics
from lrd_jax.data.sequence_splits import divide
from lrd_jax.data.sequences import BucketDataset, data_spec, in_memory
from lrd_jax.errors import UserError
from lrd_jax.objectives import make_objective
from lrd_jax.streams import StepContext
from lrd_jax.training.agenda import Agenda, every
from lrd_jax.training.found import keep_fit
from tests.data.test_sequence_files import rows, table
from tests.training.harness import largest_difference, make_config, make_program, run

ROOT = Path(__file__).parents[2]


def sequences(lengths, kind="class", seed=0):
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=(n, 2)).astype(np.float32) for n in lengths]
    targets = {
        "class": [np.array([str(i % 3)]) for i in range(len(lengths))],
        "class_per_step": [rng.integers(0, 3, (n, 1)) for n in lengths],
        "number_per_step": [rng.normal(size=(n, 2)) for n in lengths],
        "next": None,
    }[kind]
    places = [Place("f.npz", name=f"x_{i}") for i in range(len(lengths))]
    ids = [str(i) for i in range(len(lengths))]
    names = ("t",) if kind.startswith("class") else ("t", "u")
    per_step = kind.endswith("per_step")
    names = () if targets is None else names
    return Sequences(ids, inputs, targets, per_step, ("a", "b"), names, places)


def dataset(lengths, kind="class", batch_size=4, buckets=2, bucket_batches=1):
    some = sequences(lengths, kind)
    made = fit(statistics([some]), target=kind, scale="standard")
    part = in_memory(made.apply(some))
    parts = dict.fromkeys(("train", "valid", "test"), part)
    spec = data_spec(made, True)
    return BucketDataset(spec, made, parts, batch_size, "mine", buckets, bucket_batches)


LENGTHS = [2, 9, 4, 5, 2, 7, 3, 8, 6, 2, 5]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_an_epoch_sees_every_sequence_once_in_its_bucket(lengths, batch_size, together, buckets):
    data = dataset(lengths, "number_per_step", batch_size, buckets, together)
    count = len(lengths)
    steps = -(-3 * count // batch_size)
    index = np.concatenate([data._index(5, step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(index[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert len(data.lengths) <= buckets
    for step in (steps - 1, 0):  # by random access, in any order
        whole = data.train_batch(5, step, slice(None))
        assert whole["inputs"].shape[1] == data.bucket(5, step) in data.lengths
        assert data.bucket(5, step) >= whole["lengths"].max()
        for low, high in ((0, 1), (1, batch_size)):
            part = data.train_batch(5, step, slice(low, high))
            for name, value in part.items():
                np.testing.assert_array_equal(value, whole[name][low:high])
        for row, number in enumerate(data._index(5, step)):
            valid = whole["inputs"][row, : lengths[number]]
            np.testing.assert_array_equal(valid, sequences(lengths).inputs[number])
            assert not whole["inputs"][row, lengths[number] :].any()


def test_evaluation_sees_every_sequence_once_in_order():
    data = dataset(LENGTHS)
    batches = list(data.eval_batches("valid", 4))
    kept = [b["lengths"][b["mask"] > 0] for b in batches]
    assert np.concatenate(kept).tolist() == LENGTHS
    halves = [list(data.eval_batches("valid", 4, slice(i, i + 2))) for i in (0, 2)]
    for whole, *parts in zip(batches, *halves, strict=True):
        for name, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([p[name] for p in parts]))


def test_putting_short_ones_together_pads_less():
    lengths = [2] * 30 + [20] * 10
    padded = [
        sum(dataset(lengths, "class", 4, 2, together).bucket(0, step) for step in range(10))
        for together in (1, 5)
    ]
    assert padded[1] < padded[0]


def test_no_call_of_several_steps_meets_two_shapes():
    data, seeds, end = dataset(LENGTHS, buckets=4, batch_size=2), (0, 1), 200
    changes = shapes_change(data, seeds, end)
    assert changes is not None

    def shape(step):
        return max(data.bucket(seed, step) for seed in seeds)

    agenda = Agenda([(every(50), lambda: None), (changes, lambda: None)], end)
    for start in (0, 7):  # a resumed run meets the same borders
        stretches = list(agenda.stretches(start, 10))
        assert [n for s in stretches for n in s] == list(range(start, end))
        assert all(len({shape(step) for step in s}) == 1 for s in stretches)
        long = [s for s in stretches if len(s) > 1]
        assert long  # and they are not cut where nothing changes
    assert shapes_change(object(), seeds, end) is None  # type: ignore[arg-type]


NOISY = {
    "model__output_dropout": 0.4,
    "model__input_noise": 0.3,
    "detach__p_block": 0.5,
    "model__cell": "lstm",
    "model__hidden_size": 3,
}
DEEP = {"model__num_layers": 2, "model__dropout": 0.3}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "kind, options",
    [
        ("class", {**NOISY, "model__pool": "mean"}),
        slow("class", {**NOISY, **DEEP, "model__pool": "mean", "model__bidirectional": True}),
        slow("class", {**NOISY, "model__pool": "max"}),
        slow("class_per_step", {**NOISY, **DEEP}),
        ("number_per_step", {"model__hidden_size": 3}),
        slow("next", NOISY),
    ],
)
def test_padding_changes_neither_loss_nor_gradient_nor_draws(kind, options):
    """A batch, all of it padded, against its sequences one by one, not padded at all."""
    data = dataset([3, 6], kind, batch_size=2, buckets=1)
    objective = make_objective(make_config(**options), data.spec, Horizon(1, 1))
    params = objective.init(jax.random.key(0))

    @jax.jit
    def value(batch, first=0):
        step = StepContext(jax.random.key(1), first=first)

        def total(params):
            loss, (sums, _) = objective.loss({"params": params}, (), batch, step)
            return loss, sums

        (loss, sums), grad = jax.value_and_grad(total, has_aux=True)(params)
        return loss, grad, sums

    order = dict(enumerate(data._index(0, 0)))
    batch = data.train_batch(0, 0, slice(None))

    def longer(array):
        return np.pad(array, [(0, 0), (0, 3)] + [(0, 0)] * (array.ndim - 2))

    stepped = {"inputs", "targets"} if kind != "class" else {"inputs"}
    padded = value({k: longer(v) if k in stepped else v for k, v in batch.items()})
    single = []
    for row in order:
        steps = int(batch["lengths"][row])
        one = {k: v[row : row + 1] for k, v in batch.items() if k != "lengths"}
        one = {k: v[:, :steps] if k in stepped else v for k, v in one.items()}
        if kind == "class_per_step":  # without lengths a sequence is counted, not its labels
            one["lengths"] = batch["lengths"][row : row + 1]
        single.append(value(one, first=row))
    summed = functools.reduce(functools.partial(jax.tree.map, jnp.add), single)
    assert largest_difference(padded, summed) < 3e-6


@pytest.mark.slow
def test_several_seeds_are_padded_alike_and_equal_to_single_runs():
    data = dataset(LENGTHS, batch_size=2, buckets=2)
    assert len({(data.bucket(0, s), data.bucket(1, s)) for s in range(6)}) > 1
    options = {"data__batch_size": 2, "model__hidden_size": 3, "model__pool": "mean"}
    together = make_program(make_config(**options, num_seeds=2), 1, data)
    both = run(together, 6)
    alone = run(make_program(make_config(**options, seed=1), 1, data), 6)
    assert largest_difference(jax.tree.map(lambda x: x[1:], both.params), alone.params) < 1e-6


def test_labels_of_each_step_are_counted_one_by_one():
    """Against NumPy: what stands behind the end of a sequence is not scored."""
    data = dataset(LENGTHS, "class_per_step", batch_size=5, buckets=1)
    objective = make_objective(make_config(), data.spec, Horizon(1, 1))
    batch = data.train_batch(0, 0, slice(None))
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*batch["targets"].shape, 3)).astype(np.float32)
    batch["mask"][2] = 0
    total, sums = objective.score(jnp.asarray(logits), batch)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = [(i, t) for i in (0, 1, 3, 4) for t in range(batch["lengths"][i])]
    right = sum(int(logits[i, t].argmax()) == batch["targets"][i, t] for i, t in rows)
    losses = [-logs[i, t, batch["targets"][i, t]] for i, t in rows]
    np.testing.assert_allclose(total, np.sum(losses), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], (np.sum(losses), len(rows)), rtol=1e-5)
    np.testing.assert_allclose(sums["accuracy"], (right, len(rows)))


# ---- From files ---------------------------------------------------------------------------------


def config_for(path, **keys):
    config = get_config()
    config.data.update(name="sequences", path=str(path), batch_size=4, **keys)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "mine"
    path.mkdir()
    rng = np.random.default_rng(1)
    values = [rng.normal(size=(2 + i % 5, 2)) for i in range(20)]
    text = table(rows(values, ["ab"[i % 2] for i in range(20)]))
    (path / "all.csv").write_text(text, encoding="utf-8")
    return path


PARTS = {"valid_split": "0.2", "test_split": "last:3"}


def test_what_is_prepared_gives_the_same_batches(folder, tmp_path, capsys):
    argv = ["sequences", f"--from_dir={folder}", f"--data_dir={tmp_path}"]
    assert main(argv) == 2  # no file for a test, and nothing said of it
    assert "there is no file for test" in capsys.readouterr().err and not list(tmp_path.iterdir())
    argv += ["--valid_split=last:4", "--test_split=last:3"]
    assert main(argv) == 0
    where = tmp_path / "lrd_sequences" / "mine" / "1.0.0"
    out = capsys.readouterr().out
    assert f"{where} is prepared: train 13, valid 4, test 3" in out.replace("test 3, ", "")
    options = {"scale": "standard", "valid_split": "last:4", "test_split": "last:3"}
    memory, disk = (make_dataset(config_for(path, **options)) for path in (folder, where))
    assert disk.spec == memory.spec and disk.fit == memory.fit
    for step in (3, 0):
        one, other = (data.train_batch(7, step, slice(None)) for data in (memory, disk))
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert main(argv) == 0 and "was already prepared" in capsys.readouterr().out


@pytest.mark.parametrize("prepared", [False, True])
def test_columns_are_matched_by_name(tmp_path, prepared):
    """The file for the test has them in another order, and both own names for some."""
    rng = np.random.default_rng(4)
    names = {"id": "patient", "time": "hour", "target": "state"}
    train, test = (
        rows([rng.normal(size=(3, 2)) for _ in range(6)], ["up", "down"] * 3) for _ in range(2)
    )
    (tmp_path / "own").mkdir()
    for name, found, order in (("train", train, (0, 1, 2, 3, 4)), ("test", test, (3, 4, 2, 0, 1))):
        named = [[names.get(x, x) for x in found[0]], *found[1:]]
        text = table([[row[i] for i in order] for row in named])
        (tmp_path / "own" / f"{name}.csv").write_text(text, encoding="utf-8")
    options = {"id_column": "patient", "time_column": "hour", "target_columns": "state"}
    options |= {"valid_split": "last:2"}
    path = tmp_path / "own"
    if prepared:
        flags = [f"--{key}={value}" for key, value in options.items()]
        assert main(["sequences", f"--from_dir={path}", f"--data_dir={tmp_path}", *flags]) == 0
        path, options = tmp_path / "lrd_sequences" / "own" / "1.0.0", {}
    config = config_for(path).unlock()
    with config.ignore_type():
        config.data.update(options)
    data = make_dataset(conform(config))
    (batch,) = data.eval_batches("test", 6)
    expected = np.array([row[2:4] for row in test[1:]], np.float32).reshape(6, 3, 2)
    np.testing.assert_allclose(batch["inputs"], expected, rtol=1e-6)
    layout = Layout("patient", "hour", ("state",))
    assert data.fit.layout == layout and data.fit.channels == ("a", "b")
    assert Fit.from_json(data.fit.to_json()).layout == layout
    if prepared:
        config.data.id_column = "person"
        with pytest.raises(UserError, match=r"data.id_column='person': .* prepared with 'patient'"):
            make_dataset(config)


def test_what_is_prepared_has_its_splits(folder, tmp_path, caplog):
    argv = ["sequences", f"--from_dir={folder}", f"--data_dir={tmp_path}"]
    assert main([*argv, "--valid_split=last:4", "--test_split=last:3"]) == 0
    where = tmp_path / "lrd_sequences" / "mine" / "1.0.0"
    caplog.clear()
    make_dataset(config_for(where))
    assert not caplog.messages
    make_dataset(config_for(where, test_split="0.5"))
    assert caplog.messages == [f"data.test_split=0.5 has no effect: {where} is prepared"]


def test_other_columns_are_not_prepared(tmp_path, capsys):
    (tmp_path / "own").mkdir()
    for name, column in (("train", "a"), ("test", "c")):
        text = table([[column if x == "a" else x for x in row] for row in rows()])
        (tmp_path / "own" / f"{name}.csv").write_text(text, encoding="utf-8")
    argv = ["sequences", f"--from_dir={tmp_path}/own", f"--data_dir={tmp_path}"]
    assert main([*argv, "--valid_split=0.2"]) == 2
    error = capsys.readouterr().err
    assert "test.csv, row 2 has the channels c, b, and those before have a, b" in error
    assert not (tmp_path / "lrd_sequences").exists()


def test_the_training_sequences_alone_are_fitted(folder, tmp_path):
    data = make_dataset(config_for(folder, scale="standard", **PARTS))
    train = data._parts["train"]
    values = np.concatenate(train.read(np.arange(len(train.lengths))).inputs)
    np.testing.assert_allclose(data.spec.offset, values.mean(0), atol=1e-6)
    assert data.num_train + data.eval_size("valid") + data.eval_size("test") == 20
    (tmp_path / "sequences.json").write_text(data.fit.to_json(), encoding="utf-8")
    other = config_for(folder, scale="standard", valid_split="0.5", test_split="first:2")
    assert make_dataset(other).fit != data.fit
    assert make_dataset(other, tmp_path).fit == data.fit  # a model keeps its own


def test_a_run_that_goes_on_must_have_the_same_training_sequences(folder, tmp_path):
    options = {"scale": "none", "test_split": "last:3"}
    data = make_dataset(config_for(folder, valid_split="last:4", **options))
    keep_fit(tmp_path, data)
    kept = (tmp_path / FILE).read_bytes()
    keep_fit(tmp_path, data)
    with pytest.raises(UserError, match="the training sequences are not those that"):
        keep_fit(tmp_path, make_dataset(config_for(folder, valid_split="first:4", **options)))
    assert (tmp_path / FILE).read_bytes() == kept
    (tmp_path / FILE).write_bytes(kept[:100])
    with pytest.raises(UserError, match=f"{FILE} is damaged"):
        keep_fit(tmp_path, data)


# What the archive says of its sets: train, test, shortest, longest, channels, classes.
ARCHIVE = {
    "JapaneseVowels": (270, 370, 7, 29, 12, 9),
    "BasicMotions": (40, 40, 100, 100, 6, 4),
    "ArrowHead": (36, 175, 251, 251, 1, 3),
    "GunPoint": (50, 150, 150, 150, 1, 2),
    "ItalyPowerDemand": (67, 1029, 24, 24, 1, 2),
}


@pytest.mark.parametrize("name", ARCHIVE)
def test_sets_of_the_archive(name):
    """The real files, by the config's row for them; no published figure is without its set."""
    folder = Path(os.environ.get("LRD_JAX_TEST_DATA", ""), "ucr_uea")
    if not folder.is_dir():
        pytest.skip("no sets of the UCR/UEA archive under LRD_JAX_TEST_DATA")
    row = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    config = command_line.load_config(f"{ROOT}/configs/your_sequences.py:{row}")
    config.data.path = str(folder / name)
    data = make_dataset(config)
    batches = [b for split in ("train", "valid", "test") for b in data.eval_batches(split, 400)]
    full = [np.full(len(b["mask"]), b["inputs"].shape[1]) for b in batches]
    lengths = [b.get("lengths", f)[b["mask"] > 0] for b, f in zip(batches, full, strict=True)]
    sizes = {split: data.eval_size(split) for split in ("train", "valid", "test")}
    found = sizes["train"] + sizes["valid"], sizes["test"]
    found += min(map(min, lengths)), max(map(max, lengths)), data.spec.features, data.spec.classes
    assert found == ARCHIVE[name]
    assert row in command_line.load_module(ROOT / "configs" / "your_sequences.py").PUBLISHED


def test_parts_are_of_whole_classes_and_of_nobody_twice():
    labels = ["a"] * 80 + ["b"] * 20
    found = divide({"all": 100}, "0.25", "0.2", labels)
    numbers = [of["all"] for of in found.values()]
    assert sorted(np.concatenate(numbers)) == list(range(100))
    assert (found["test"]["all"] < 80).sum() == 16 and len(found["test"]["all"]) == 20
    assert (found["valid"]["all"] < 80).sum() == 16 and len(found["valid"]["all"]) == 20
    files = divide({"train": 10, "test": 5}, "last:2", "")
    assert files["valid"] == {"train": pytest.approx([8, 9])} and len(files["test"]["test"]) == 5
    with pytest.raises(UserError, match=r"data\.valid_split=last:10000 leaves nothing of 10"):
        divide({"train": 10, "test": 5}, "last:10000", "")


def test_a_forecast_does_not_read_ahead(folder):
    data = make_dataset(config_for(folder, target="next", channels=("a", "b"), **PARTS))
    with pytest.raises(UserError, match=r"model\.bidirectional=True would read the next step"):
        make_objective(make_config(model__bidirectional=True), data.spec, Horizon(1, 1))


def test_a_prepared_set_of_tfds_is_read_without_its_code(tmp_path):
    """Of the digits, prepared by this project's builder, as any set of TFDS."""
    from lrd_jax.data.prepare import prepare

    prepare("digits", tmp_path)
    config = get_config()
    config.data.update(name="tfds:lrd_digits", data_dir=str(tmp_path), order="row")
    found = make_dataset(config)
    config.data.name = "digits"
    own = make_dataset(config)
    one, other = (data.train_batch(0, 3, slice(None)) for data in (found, own))
    np.testing.assert_array_equal(one["inputs"], other["inputs"])
    np.testing.assert_array_equal(one["targets"], other["targets"])
    info = tmp_path / "lrd_digits" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text("utf-8").replace("array_record", "tfrecord"), "utf-8")
    config.data.name = "tfds:lrd_digits"
    with pytest.raises(UserError, match=r"as tfrecord.*tfds build lrd_digits --file_format=array"):
        make_dataset(config)
    for name, message in (
        ("tfds:none", r"it is not in .*tfds build none"),
        ("tfds:", "name the data set of TFDS too"),
        ("tfd:x", "did you mean tfds:"),
    ):
        config.data.name = name
        with pytest.raises(UserError, match=message):
            make_dataset(config)
