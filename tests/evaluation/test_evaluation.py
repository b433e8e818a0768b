"""A saved run, evaluated without a trainer."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config import record
from lrd_jax.config.members import members
from lrd_jax.evaluation import commands, sampling
from lrd_jax.evaluation.best import Best, best_member
from lrd_jax.evaluation.loaded import load
from lrd_jax.metrics import ACCURACY, LOSS
from lrd_jax.reporting.workdir import keep_vocabulary
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.training.program import make_program
from lrd_jax.training.state import split_best
from tests.training.harness import assert_identical, make_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A language model with two seeds, the second of which validated best: program, best, folder.

    Nothing was trained; the first seed stopped with NaN.
    """
    folder = tmp_path_factory.mktemp("language")
    (folder / "text").mkdir()
    (folder / "text" / "fable.txt").write_text("the quick brown fox jumps\n" * 20, "utf-8")
    overrides = {"data.name": "text", "data.text_dir": str(folder / "text"), "data.length": 5}
    config = make_config(num_seeds=2, model__cell="lstm", **overrides)
    program = make_program(config)
    state = program.init()
    best = state.best.replace(step=jnp.array([5, 10]), valid={"loss": jnp.array([2.0, 1.0])})
    state = state.replace(best=best, first_nonfinite_step=jnp.array([7, -1]))
    workdir = folder / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(record.to_json(config), "utf-8")
    keep_vocabulary(workdir, program.dataset.spec.vocabulary)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(10, split_best(state), {"first_nonfinite_step": [7, -1]})
    checkpoints.close()
    return program, best, workdir


def test_evaluation_knows_nothing_of_training():
    code = (
        "import sys, lrd_jax.evaluation.commands;"
        "print([name for name in sys.modules if name.startswith('lrd_jax.training')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("batch_size", [8, 3])  # of 4 devices; the carry in the state has 8 rows
def test_the_best_is_loaded_whatever_the_batch(trained, batch_size):
    _, best, workdir = trained
    overrides = {"data.batch_size": batch_size}
    config = record.eval_overrides(record.load_workdir(workdir), overrides)
    loaded = load(workdir, config, overrides)
    assert_identical(loaded.best, best)
    assert loaded.stopped == [7, -1] and loaded.members == members(config)


def test_scores_are_those_of_training(trained):
    program, best, workdir = trained
    result = commands.evaluate(workdir, {"eval.split": "valid"})
    expected = program.evaluate(best.params, "valid")
    for index, entry in enumerate(result["seeds"]):
        assert entry["valid"] == {name: value[index] for name, value in expected.items()}
    assert result["seeds"][0]["first_nonfinite_step"] == 7
    assert json.loads((workdir / "eval" / "valid.json").read_text("utf-8")) == result
    other = commands.evaluate(workdir, {"eval.split": "valid", "data.batch_size": 3})
    for one, two in zip(result["seeds"], other["seeds"], strict=True):
        assert two["valid"]["loss"] == pytest.approx(one["valid"]["loss"], rel=0.05)


def test_a_bounded_context_is_windows_that_start_anew(trained):
    program, best, workdir = trained
    result = commands.evaluate(workdir, {"eval.context": 3, "data.batch_size": 8})
    tokens = program.dataset._splits["test"]
    borders = np.arange(9) * len(tokens) // 8  # of the streams
    windows = [
        (place, min(place + 3, end))
        for first, end in itertools.pairwise(borders)
        for place in range(first, end, 3)
    ]
    places = np.array([first for first, _ in windows])[:, None] + np.arange(3)
    batch = {
        "inputs": tokens[(places - 1) % len(tokens)],
        "targets": tokens[places % len(tokens)],
        "mask": (places < np.array([end for _, end in windows])[:, None]).astype(np.float32),
        "start": np.ones(len(windows), bool),
    }
    assert batch["mask"].sum() == len(tokens)
    for seed, entry in enumerate(result["seeds"]):
        params = {"params": jax.tree.map(lambda leaf, seed=seed: leaf[seed], best.params)}
        empty = program.objective.initial_carry(len(windows))
        loss, _ = program.objective.loss(params, empty, batch, None)
        assert entry["test"]["loss"] == pytest.approx(float(loss) / len(tokens), rel=1e-5)
    written = workdir / "eval" / "test-context=3.json"
    assert json.loads(written.read_text("utf-8")) == result
    carried = commands.evaluate(workdir, {"data.batch_size": 8})
    assert carried["seeds"][1]["test"]["loss"] != result["seeds"][1]["test"]["loss"]


def test_the_best_seed_writes(trained, capsys):
    program, best, workdir = trained
    text = commands.evaluate(workdir, {"eval.sample_tokens": 30, "data.text_dir": "not needed"})
    assert "by seed 1, which validated best of 2; written to" in capsys.readouterr().out
    vocabulary = program.dataset.spec.vocabulary
    for seed in (0, 1):
        params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], jax.device_get(best.params))
        start = jnp.array([vocabulary.start])
        tokens = sampling.generate(program.objective, params, start, jax.random.key(0), 30, 1.0)
        assert (vocabulary.decode([*jax.device_get(tokens)]) == text) == (seed == 1)


@pytest.mark.parametrize("overrides", [{}, {"eval.sample_tokens": 5}])
def test_what_cannot_be_written_is_printed(trained, tmp_path, capsys, caplog, overrides):
    expected = commands.evaluate(trained[2], overrides)
    shutil.copytree(trained[2], tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    (tmp_path / "run" / "eval").touch()  # root may write to a read-only folder, not into a file
    capsys.readouterr()
    assert commands.evaluate(tmp_path / "run", overrides) == expected
    out = capsys.readouterr().out
    assert (expected if overrides else "nats") in out
    assert "nowhere: the work directory cannot be written" in out
    (shown,) = [r for r in caplog.records if r.name.startswith("lrd_jax.")]  # Orbax warns too
    assert "is not written (File exists)" in shown.getMessage()


def test_nan_is_null_in_what_is_written(trained, monkeypatch):
    _, _, workdir = trained
    load_true = commands.load

    def broken(*args, **kwargs):
        loaded = load_true(*args, **kwargs)
        params = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), loaded.best.params)
        return dataclasses.replace(loaded, best=loaded.best.replace(params=params))

    monkeypatch.setattr(commands, "load", broken)
    result = commands.evaluate(workdir, {})
    assert result["seeds"][0]["test"]["loss"] is None and result["seeds"][1]["test"]["loss"] > 0
    written = (workdir / "eval" / "test.json").read_text("utf-8")
    assert json.loads(written, parse_constant=pytest.fail) == result


@pytest.mark.parametrize(
    ("steps", "accuracy", "loss", "expected"),
    [
        ([5, 5, 5], [0.1, 0.3, 0.2], [1.0, 1.0, 1.0], 1),
        ([5, 5, 5], [0.3, 0.3, 0.3], [1.0, 1.0, 0.5], 2),
        ([5, 5, 5], [0.3, 0.3, 0.3], [1.0, 1.0, 1.0], 0),  # of equals the first
        ([0, 5, 5], [0.9, 0.1, 0.2], [0.1, 1.0, 1.0], 2),  # the first was never validated
        ([5, 5, 5], [np.nan, 0.1, 0.2], [1.0, 1.0, 1.0], 2),
    ],
)
def test_which_member_counts_as_the_best(steps, accuracy, loss, expected):
    valid = {"accuracy": np.array(accuracy), "loss": np.array(loss)}
    best = Best(np.array(steps), valid, ())
    assert best_member(best, (ACCURACY, LOSS)) == expected


def test_a_bounded_evaluation_says_so(trained, capsys):
    program, best, workdir = trained
    result = commands.evaluate(workdir, {"eval.split": "valid", "eval.max_examples": 4})
    windows = -(-program.dataset.eval_size("valid") // program.config.data.length)
    assert result["evaluated"] == {"valid": {"examples": 4, "of": windows}}
    expected = f"evaluated          the first 4 of {windows} examples of validation"
    assert f"{expected} (eval.max_examples)" in capsys.readouterr().out
    whole = program.evaluate(best.params, "valid")["loss"]
    assert [seed["valid"]["loss"] for seed in result["seeds"]] != whole.tolist()
