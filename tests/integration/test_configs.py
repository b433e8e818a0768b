"""Every file of `configs/`: all rows build; one of each trains, resumes and is evaluated."""

import contextlib
import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import (
    auxiliary_embeddings,
    auxiliary_images,
    auxiliary_short,
    caption_flickr8k,
    caption_shapes,
    gating_images,
    gating_synthetic,
    gating_wikitext103,
    hdetach_captioning,
    hdetach_copying,
    hdetach_mnist,
    lesson,
    recall_mqar,
    selective_copying,
    state_tracking,
    yardsticks,
)
from lrd_jax.config import checks, command_line, record
from lrd_jax.config.horizon import make_horizon
from lrd_jax.data import DATASETS, caption_sets, copying, make_dataset, prepare, synthetic, text
from lrd_jax.data.adding import Adding
from lrd_jax.data.builders.wikitext import LrdWikitext2, LrdWikitext103
from lrd_jax.data.caption_store import StoredCaptions
from lrd_jax.data.captions import Features, Picture
from lrd_jax.data.recall import Recall
from lrd_jax.data.registry import find_builder
from lrd_jax.data.registry import load as find
from lrd_jax.data.task import stream
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands, transfer
from lrd_jax.objectives import make_objective
from lrd_jax.training import loop
from lrd_jax.training.optimizer import make_optimizer

FOLDER = Path(__file__).parents[2] / "configs"
TABLES = {
    "auxiliary_embeddings": auxiliary_embeddings.ROWS,
    "auxiliary_images": auxiliary_images.ROWS,
    "auxiliary_short": auxiliary_short.ROWS,
    "caption_flickr8k": caption_flickr8k.ROWS,
    "caption_shapes": caption_shapes.ROWS,
    "gating_images": gating_images.ROWS,
    "gating_synthetic": gating_synthetic.ROWS,
    "gating_wikitext103": gating_wikitext103.ROWS,
    "hdetach_captioning": hdetach_captioning.ROWS,
    "hdetach_copying": hdetach_copying.ROWS,
    "hdetach_mnist": hdetach_mnist.ROWS,
    "lesson": lesson.ROWS,
    "recall_mqar": recall_mqar.ROWS,
    "selective_copying": selective_copying.ROWS,
    "state_tracking": state_tracking.ROWS,
    "yardsticks": yardsticks.ROWS,
}
SPECS = [f"{name}.py:{row}" for name, rows in TABLES.items() for row in rows]
SPECS += ["lstm_mnist_rows.py", "urlstm_pdigits.py", "urlstm_pmnist.py"]
SPECS += ["char_shakespeare.py", "wikitext2.py"]
WORDS = {"wikitext2": 33_278, "wikitext103": 267_735}


def load(spec):
    return command_line.load_config(str(FOLDER / spec))


@pytest.fixture
def imitations(monkeypatch):
    """Data of the right shapes, in no time; images are black, words are their numbers."""

    def read_records(builder, split):
        count = {"train": 10_050, "validation": 10, "test": 10}[split]
        shape = find_builder(builder.name).IMAGE_SHAPE
        return {"image": np.zeros((count, *shape), np.uint8), "label": np.zeros(count)}

    def prepared(name, data_dir):
        own = find_builder(name).SOURCES
        splits = ("train", "test") if own else ("train", "validation", "test")
        info = types.SimpleNamespace(splits=splits)
        return contextlib.nullcontext(types.SimpleNamespace(name=name, info=info))

    def fixed_examples(name, data_dir):
        name, _, variant = name.partition("/")
        task = find(DATASETS[name].task).of_variant(variant)
        return dict.fromkeys(task.splits, task.draw(stream("test"), 10)), "nowhere"

    def tokens(vocabulary):
        splits = ("train", "valid", "test")
        symbols = tuple(map(str, range(vocabulary)))
        return symbols, dict.fromkeys(splits, np.zeros(20_000, np.int32))

    monkeypatch.setattr(text, "_read_prepared", lambda name, data_dir: tokens(WORDS[name]))
    monkeypatch.setattr(text, "_read_folder", lambda text_dir, unit: (*tokens(65), "text"))
    monkeypatch.setattr(prepare, "read_records", read_records)
    monkeypatch.setattr(prepare, "prepared", prepared)
    monkeypatch.setattr(synthetic, "_fixed_examples", fixed_examples)
    monkeypatch.setattr(synthetic, "_check_stored", lambda *_: None)  # they are fewer

    def open_features(name, data_dir, encoder, *, att):
        count = len(captions.pictures)
        parts = np.zeros((count, 4, 2048), np.float16) if att else None
        rows = {picture.name: row for row, picture in enumerate(captions.pictures)}
        return Features(np.zeros((count, 2048), np.float32), parts, rows, encoder)

    captions = StoredCaptions(
        tuple(
            Picture.of_raw(f"{i}.jpg", i, split, ["a dog"] * 10)
            for i, split in enumerate(["train"] * 20 + ["valid", "test"])
        )
    )
    monkeypatch.setattr(caption_sets, "read_captions", lambda name, data_dir: captions)
    monkeypatch.setattr(caption_sets, "open_features", open_features)


def build(spec):
    """Config, horizon, and the shapes of the parameters."""
    config = load(spec)
    checks.validate(config)
    dataset = make_dataset(config)
    horizon = make_horizon(config.train, dataset.num_train, config.data.batch_size)
    objective = make_objective(config, dataset.spec, horizon)
    make_optimizer(config.optim, horizon)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    return config, horizon, shapes


def count(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_no_file_is_forgotten():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"base"}
    assert {spec.partition(".")[0] for spec in SPECS} <= files
    # Files of other tables have tests of their own kind; those of this one must be all here.
    prefixes = ("auxiliary_", "gating_", "hdetach_", "urlstm_", "lstm_", "char_")
    prefixes += ("recall_", "wikitext", "caption_", "lesson")
    prefixes += ("selective_", "state_", "yardsticks")
    ours = {name for name in files if name.startswith(prefixes)}
    assert ours == {spec.partition(".")[0] for spec in SPECS}


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in TABLES
        if n.startswith(("gating_i", "gating_s", "hdetach", "auxiliary_i", "auxiliary_e"))
        and "caption" not in n
    ],
)
def test_rows_by_name_are_the_rows(name):
    module = command_line.load_module(FOLDER / f"{name}.py")
    names = module.ALIASES
    assert set(names.values()) <= set(module.ROWS) and not set(names) & set(module.ROWS)
    assert len(set(names.values())) == len(names) >= 3
    assert "Rows may also be called by what they are" in module.__doc__
    alias, row = list(names.items())[-1]
    for words in ("", ",quick"):
        called, plain = (load(f"{name}.py:{word}{words}") for word in (alias, row))
        assert record.differences(called, plain) == []
    assert alias in command_line.config_name(f"{name}.py:{alias}")


@pytest.mark.parametrize(
    ("alias", "values"),
    [
        ("gating_images.py:pmnist-urlstm", ("92916", "gated_lstm", "UR", 0.0)),
        ("gating_images.py:scifar-tied-lstm", ("none", "gated_lstm", "--", 0.0)),
        ("gating_images.py:smnist-urgru", ("none", "gated_gru", "UR", 0.0)),
        ("gating_synthetic.py:adding---", ("none", "gated_lstm", "--", 0.0)),
        ("hdetach_copying.py:delay300-p0.5", ("none", "lstm", "UR", 0.5)),
        ("hdetach_mnist.py:pmnist-p0.25", ("seed:150", "lstm", "UR", 0.25)),
    ],
)
def test_names_say_what_the_row_is(alias, values):
    c = load(alias)
    assert (c.data.permutation, c.model.cell, c.model.gates, c.detach.p_block) == values


def test_names_of_the_auxiliary_tables():
    c = load("auxiliary_images.py:p-truncated-scifar")
    assert (c.aux.kind, c.truncate.steps, c.data.name) == ("predict", 300, "cifar10")
    c = load("auxiliary_embeddings.py:r-shared")
    assert (c.aux.kind, c.truncate.steps) == ("reconstruct", 0)
    assert (c.model.embedding, c.aux.embedding) == ("table", "none")


@pytest.mark.parametrize("spec", SPECS)
def test_every_row_builds(imitations, spec):
    _, horizon, shapes = build(spec)
    assert count(shapes) > 10_000 and horizon.num_steps >= 5


# ORC-07a, 07c, 07d, and d=512 by the formula of ORC-07.
@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        ("gating_synthetic.py:G1-UR", 275_978),
        ("gating_synthetic.py:G2-UR", 265_473),
        ("gating_images.py:G3", 4_467_466),
        ("gating_images.py:G6", 3_416_842),
        ("gating_images.py:G7", 4_475_658),
        ("gating_images.py:G9", 4_467_466),
        ("gating_images.py:G12-pmnist-OM", 4 * 512 * 514 + 513 * 256 + 257 * 10),
        ("hdetach_copying.py:H1", 67_721),
        ("hdetach_copying.py:H6", 67_721),
        ("hdetach_mnist.py:H12", 41_810),
        # Embedding, cell (four blocks, or three), and the layer that fits 3072 to 1024.
        ("gating_wikitext103.py:G13-UR", 267_735 * 1024 + 4 * 3072 * 4097 + 3073 * 1024),
        ("gating_wikitext103.py:G13---", 267_735 * 1024 + 3 * 3072 * 4097 + 3073 * 1024),
        # Cell and readout; one number of input, 512 of memory.
        ("yardsticks.py:legs-psmnist", 514 + 2 * 512 * 514 + 513 * 10),
        ("yardsticks.py:legs-psmnist-ur", 514 + 3 * 512 * 514 + 513 * 10),
        # Embedding, readout, norms; six layers of two directions that read 512 features each.
        (
            "yardsticks.py:s5-scifar",
            4 * 512 + 513 * 10 + 5 * 1024 + 12 * (192 * (3 + 2 * 512 + 2 * 256) + 512 * 256),
        ),
        # Embedding, two layers, readout.
        ("char_shakespeare.py", 65 * 64 + 4 * 256 * (321 + 513) + 257 * 65),
    ],
)
def test_parameters_of_the_tables(imitations, spec, parameters):
    assert count(build(spec)[2]) == parameters


def test_settings_of_the_h_detach_tables(imitations):
    for name, rows in (
        ("hdetach_copying", hdetach_copying.ROWS),
        ("hdetach_mnist", hdetach_mnist.ROWS),
    ):
        for row in rows:
            config, horizon, _ = build(f"{name}.py:{row}")
            copying = name == "hdetach_copying"
            assert horizon.num_epochs == (600 if copying else 200)
            assert config.detach.off_last_epochs == (39 if config.detach.p_block else 0)
            assert config.model.cell == "lstm" and config.model.bias_init == "two_uniform"
            assert config.model.forget_bias == 0 and config.data.batch_size == 100
            assert config.optim.name == "adam" and config.detach.scope == "batch"
            assert config.optim.clip_norm == (0.0 if row in ("H15", "H16") else 1.0)
    assert load("hdetach_copying.py:H6").data.delay == 300
    assert load("hdetach_mnist.py:H20").optim.learning_rate == 5e-4
    twelve = load("hdetach_mnist.py:H12")
    assert twelve.data.permutation == f"seed:{twelve.seed}" == "seed:150"


def test_settings_of_the_captioning_table(imitations):
    for row, (caption, p_block) in {
        "H21": ("show_tell", 0.25),
        "H22": ("show_attend_tell", 0.4),
        "H21-none": ("show_tell", 0.0),
        "H22-none": ("show_attend_tell", 0.0),
    }.items():
        config, horizon, _ = build(f"hdetach_captioning.py:{row}")
        assert (config.model.caption, config.detach.p_block) == (caption, p_block)
        assert horizon.num_epochs == 30 and not config.model.use_bias
        assert (config.optim.clip_value, config.optim.clip_norm) == (0.1, 0.0)
        assert (config.optim.learning_rate, config.train.eval_every_steps) == (1e-4, 6000)


def test_settings_of_the_auxiliary_tables(imitations):
    kinds = {1: "none", 4: "none", 7: "reconstruct", 10: "predict", 13: "reconstruct"}
    kinds |= {16: "predict", 19: "none", 22: "none", 25: "reconstruct", 28: "reconstruct"}
    for start, kind in kinds.items():
        for row in range(start, start + 3):
            name = "auxiliary_images" if row < 19 else "auxiliary_embeddings"
            config, horizon, _ = build(f"{name}.py:A{row}")
            assert config.aux.kind == kind
            assert config.truncate.steps == (300 if start in (4, 7, 10, 22, 25) else 0)
            assert horizon.num_epochs == (250 if kind == "none" else 300)
            assert config.aux.pretrain_epochs == (0 if kind == "none" else 50)
            assert (config.optim.name, config.data.batch_size) == ("rmsprop", 128)
            if row < 19:
                task = (row - 1) % 3
                assert config.data.name == ("mnist", "mnist", "cifar10")[task]
                assert config.data.permutation == ("none", "92916", "none")[task]
                assert config.aux.decoder_layers == 2 and config.aux.loss == "auto"
            else:
                shares, own = (row - 19) % 3 == 1, (row - 19) % 3 == 2
                assert config.model.embedding == ("table" if shares else "linear")
                assert config.aux.embedding == ("decoder" if own else "none")
                assert config.data.permutation == "92916" and config.aux.decoder_layers == 1
                assert config.aux.weight == (2.0 if start == 25 else 1.0)
    assert load("auxiliary_images.py:A31").truncate.supervised == "stop"
    short = load("auxiliary_short.py:r-truncated")
    assert (short.data.pixels_per_step, short.aux.segment_length) == (4, 150)
    assert short.truncate.steps == 75
    ends = {build(f"auxiliary_short.py:{row}")[1].num_steps for row in auxiliary_short.ROWS}
    assert len(ends) == 1  # the same number of steps each


def test_a_row_must_be_named():
    for spec, message in (
        ("gating_synthetic.py", "name one row, not ''; known: G1---, "),
        ("gating_synthetic.py:quick", "name one row"),
        ("hdetach_copying.py:H1,H2", "name one row, not 'H1,H2'"),
        ("hdetach_mnist.py:H1", "unknown argument 'H1'; known: H10"),
    ):
        with pytest.raises(UserError, match=message):
            load(spec)


def test_quick_shrinks_in_any_order():
    for argument in ("H6,quick", "quick,H6"):
        config = load(f"hdetach_copying.py:{argument}")
        assert (config.data.delay, config.model.hidden_size, config.train.num_steps) == (20, 16, 30)
        assert config.detach.p_block == 0.5 and config.detach.off_last_epochs == 0


# ---- Runs --------------------------------------------------------------------------------------


@pytest.fixture
def small_data(monkeypatch, tmp_path):
    """Random images in the place of the official ones, fewer stored symbols; yields a data_dir."""

    def read(cls, source_dir):
        rng = np.random.default_rng(0)
        return {
            split: (rng.integers(0, 256, (n, *cls.IMAGE_SHAPE), np.uint8), np.arange(n) % 10)
            for split, n in (("train", 60), ("test", 20))
        }

    for name in ("mnist", "cifar10"):
        monkeypatch.setattr(find_builder(name), "read", classmethod(read))
        monkeypatch.setattr(find_builder(name), "SOURCES", ())

    def read_words(cls, source_dir):
        rng = np.random.default_rng(0)
        splits = ("train", "validation", "test")
        words = ("the", "<unk>", "<eos>")
        return words, {split: rng.integers(0, 3, 500, np.int32) for split in splits}

    for builder in (LrdWikitext2, LrdWikitext103):
        monkeypatch.setattr(builder, "read", classmethod(read_words))
        monkeypatch.setattr(builder, "SOURCES", ())
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "play.txt").write_text("to be or not to be\n" * 50)
    sizes = {"validation": 24, "test": 24}
    presets = {"hdetach": {"train": 200} | sizes, "gu": sizes, "marker": sizes}
    monkeypatch.setattr(copying, "PRESETS", presets)
    for task in (Adding, Recall):
        monkeypatch.setattr(task, "NUM_FIXED", 24)
    return tmp_path / "data"


def small(spec, data_dir, **changes):
    config = load(spec).copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(
        {
            "data.data_dir": str(data_dir),
            "data.text_dir": str(data_dir.parent / "text"),
            "data.batch_size": 8,
            "data.valid_split": "last:20",
            "eval.batch_size": 0,
            "train.num_steps": 3,
            "train.eval_every_steps": 2,
            "train.log_every_steps": 1,
        }
        | changes
    )
    return config


def lines(workdir, split):
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if record["split"] == split]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("gating_synthetic.py:G1-UR,quick", marks=pytest.mark.slow),
        pytest.param("gating_synthetic.py:G2-OR,quick", marks=pytest.mark.slow),
        pytest.param("char_shakespeare.py:quick", marks=pytest.mark.slow),
        pytest.param("recall_mqar.py:64-4,quick", marks=pytest.mark.slow),
        pytest.param("yardsticks.py:lem-psmnist,quick", marks=pytest.mark.slow),
        pytest.param("state_tracking.py:S3,quick", marks=pytest.mark.slow),
        pytest.param("selective_copying.py:256,quick", marks=pytest.mark.slow),
        pytest.param("wikitext2.py:quick", marks=pytest.mark.slow),
        pytest.param("gating_wikitext103.py:G13-UR,quick", marks=pytest.mark.slow),
        pytest.param("gating_wikitext103.py:G13---,quick", marks=pytest.mark.slow),
        pytest.param("auxiliary_short.py:r-stop,quick", marks=pytest.mark.slow),
        pytest.param("auxiliary_short.py:lstm,quick", marks=pytest.mark.slow),
        pytest.param("auxiliary_short.py:p-truncated,quick", marks=pytest.mark.slow),
        pytest.param("auxiliary_images.py:A8,quick", marks=pytest.mark.slow),
        pytest.param("auxiliary_images.py:A18,quick", marks=pytest.mark.slow),
        pytest.param("auxiliary_embeddings.py:A26,quick", marks=pytest.mark.slow),
        pytest.param("gating_images.py:G5,quick", marks=pytest.mark.slow),
        pytest.param("gating_images.py:G11,quick", marks=pytest.mark.slow),
        pytest.param("hdetach_copying.py:H13-0.5,quick", marks=pytest.mark.slow),
        pytest.param("hdetach_mnist.py:H16,quick", marks=pytest.mark.slow),
        pytest.param("lstm_mnist_rows.py:quick", marks=pytest.mark.slow),
        pytest.param("urlstm_pmnist.py:quick", marks=pytest.mark.slow),
        pytest.param("urlstm_pdigits.py:quick", marks=pytest.mark.slow),
    ],
)
def test_trains_saves_resumes_evaluates(small_data, tmp_path, capsys, spec):
    workdir = tmp_path / "run"
    first = loop.train(
        small(spec, small_data, **{"train.stop_step": 2}), workdir, str(FOLDER / spec)
    )
    assert first["steps"] == 2
    result = loop.train(small(spec, small_data), workdir, str(FOLDER / spec))
    assert "resuming at step 2 of 3" in capsys.readouterr().out
    assert result["steps"] == result["num_steps"] == 3
    assert [record["step"] for record in lines(workdir, "train")] == [1, 2, 3]
    assert all(np.isfinite(record["loss"]) for record in lines(workdir, "train"))
    again = commands.evaluate(workdir, {"eval.split": "test"})
    for name, value in result["test"].items():
        assert again["seeds"][0]["test"][name] == pytest.approx(value, rel=1e-6)
    assert json.loads((workdir / "result.json").read_text()) == result


@pytest.mark.slow
def test_copying_shows_its_baseline_and_transfers(small_data, tmp_path, capsys):
    spec, workdir = "hdetach_copying.py:H3,quick", tmp_path / "run"
    result = loop.train(small(spec, small_data), workdir, str(FOLDER / spec))
    out = capsys.readouterr()
    loss = 10 * np.log(8) / 40
    assert result["baselines"] == {"loss": pytest.approx(loss), "accuracy": 0.125}
    assert out.out.count(f"baseline    loss {loss:.4f}, accuracy 12.50 %") == 1  # at the end
    assert f"baseline  loss {loss:.4f}, accuracy 12.50 %" in out.out  # at the start
    assert f"baseline loss {loss:.4g}" in out.err  # beside the loss

    written = commands.evaluate(workdir, {"eval.delays": (30, 20)})
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["delay", "seeds", "accuracy", "loss", "baseline", "loss"]
    assert [row.split()[0] for row in table[1:3]] == ["30", "20"]
    assert f"{10 * np.log(8) / 50:.4f}" in table[1] and f"{loss:.4f}" in table[2]
    assert json.loads((workdir / "eval" / "transfer.json").read_text())["split"] == "test"
    assert (workdir / "eval" / "transfer.png").stat().st_size > 1000
    # At the delay of training it is the test score, at another one it is another's.
    same, other = written["delays"][1]["seeds"][0], written["delays"][0]["seeds"][0]
    assert same["test"]["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)
    assert other["test"]["loss"] != same["test"]["loss"]
    with pytest.raises(UserError, match=r"eval.delays=\(20, 0\) must be whole numbers"):
        commands.evaluate(workdir, {"eval.delays": (20, 0)})


def test_a_transfer_takes_no_more_memory_than_training(small_data):
    config = small("hdetach_copying.py:H1", small_data, **{"data.batch_size": 100})
    trained = copying.Copying("hdetach", 100).spec
    sizes = {
        delay: transfer._batch_size(config, trained, copying.Copying("hdetach", delay).spec)
        for delay in (50, 100, 1000, 5000)
    }
    assert sizes == {50: 100, 100: 100, 1000: 11, 5000: 2}
    config.eval.batch_size = 7
    assert transfer._batch_size(config, trained, trained) == 7
