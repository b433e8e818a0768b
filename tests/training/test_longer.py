"""Runs that are trained further: to another length, or from the parameters of another run."""

import json
import shutil

import jax
import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.errors import UserError
from lrd_jax.evaluation.loaded import load
from lrd_jax.training import effects, longer, loop, warm_start
from lrd_jax.training.program import make_program
from tests.integration.conftest import outcome, snapshot


@pytest.fixture(scope="module")
def config(digits_dir):
    """Makes the config of a tiny run: evaluated and logged every two steps."""

    def make(**overrides):
        made = defaults.get_config()
        made.update_from_flattened_dict(
            {
                "data.data_dir": str(digits_dir),
                "data.pixels_per_step": 32,
                "data.batch_size": 8,
                "model.hidden_size": 4,
                "model.head_hidden": (4,),
                "train.num_steps": 2,
                "train.eval_every_steps": 2,
                "train.log_every_steps": 2,
            }
            | {key.replace("__", "."): value for key, value in overrides.items()}
        )
        return made

    return make


@pytest.fixture(scope="module")
def short(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("short") / "run"
    loop.train(config(), workdir)
    return workdir


@pytest.fixture
def copy(short, tmp_path):
    return shutil.copytree(short, tmp_path / "run")


# ---- Another length -------------------------------------------------------------------------


@pytest.mark.slow
def test_an_averaged_run_resumes_exactly_and_logs_raw_scores(config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(config(optim__ema_decay=0.9, train__num_steps=4), whole)
    for stop in (2, 0):
        loop.train(config(optim__ema_decay=0.9, train__num_steps=4, train__stop_step=stop), parts)
    expected, found = outcome(whole), outcome(parts)
    assert found["state"] == expected["state"] and found["metrics"] == expected["metrics"]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    valid = [line for line in lines if line["split"] == "valid"]
    assert [line["step"] for line in valid] == [2, 4]
    assert all(line["raw_loss"] != line["loss"] for line in valid)
    best = json.loads((whole / "result.json").read_text())["seeds"][0]["best"]
    assert best["valid"]["loss"] in [pytest.approx(line["loss"], rel=1e-6) for line in valid]


@pytest.mark.slow
def test_a_finished_run_goes_on_as_the_long_one(config, copy, tmp_path):
    first = json.loads((copy / "result.json").read_text())
    loop.train(config(train__num_steps=4), copy)
    loop.train(config(train__num_steps=4), tmp_path / "long")
    assert outcome(copy) == outcome(tmp_path / "long")
    assert json.loads((copy / "result-2.json").read_text()) == first
    record, whole = (
        json.loads((run / "config.json").read_text()) for run in (copy, tmp_path / "long")
    )
    was = {"until_step": 2, "train.num_steps": 2, "train.num_epochs": 30.0}
    assert record.pop("lengths") == [was] and record == whole
    before = snapshot(copy)
    loop.train(config(train__num_steps=4), copy)  # complete
    assert {p: b for p, b in snapshot(copy).items() if p.name != ".lock"} == {
        p: b for p, b in before.items() if p.name != ".lock"
    }


def test_epochs_that_make_the_same_steps(config, copy, capsys):
    """Of 163 each: the length has another name, and nothing is left to train."""
    loop.train(config(train__num_steps=0, train__num_epochs=2 / 163), copy)
    assert "goes on from step 2 with another length" in capsys.readouterr().out
    result = json.loads((copy / "result.json").read_text())
    assert (result["steps"], result["num_steps"]) == (2, 2)


def test_a_kill_before_the_record_loses_nothing(config, copy, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(longer, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config(train__num_steps=4), copy)
    assert loop.train(config(), copy)["steps"] == 2  # as before
    assert loop.train(config(train__num_steps=4), copy)["steps"] == 4


def test_a_length_that_lies_behind_is_refused(config, copy):
    before = snapshot(copy)
    with pytest.raises(UserError, match=r"step 2 already, and train.num_steps: 2 -> 1 ends it at"):
        loop.train(config(train__num_steps=1), copy)
    assert snapshot(copy) == before


def test_other_keys_stay_refused(config, copy):
    with pytest.raises(UserError, match=r"another config \(optim.learning_rate: .*; train.num"):
        loop.train(config(train__num_steps=4, optim__learning_rate=1.0), copy)


OLD, NEW = Horizon(100, 10), Horizon(200, 10)


@pytest.mark.parametrize(
    ("overrides", "start", "reason"),
    [
        ({}, 100, ""),
        ({"optim.warmup_steps": 7}, 100, ""),
        ({"optim.schedule": "step", "optim.decay_every_epochs": 2}, 100, ""),
        ({"optim.schedule": "cosine"}, 100, "optim.schedule=cosine"),
        ({"optim.schedule": "cosine"}, 2, "optim.schedule=cosine"),
        ({"optim.schedule": "cosine", "optim.warmup_steps": 7}, 7, ""),  # the ramp is the same
        ({"optim.schedule": "cosine"}, 0, ""),
        ({"detach.off_last_epochs": 3}, 100, ""),  # nothing is blocked
        ({"detach.off_last_epochs": 3, "detach.p_block": 0.5}, 100, "detach.off_last_epochs=3"),
        ({"detach.off_last_epochs": 3, "sweep.c_block": (0, 0.5)}, 100, "detach.off_last_epochs=3"),
        ({"detach.off_last_epochs": 3, "detach.p_block": 0.5}, 70, ""),  # on all the time
        ({"aux.decoder_feed": "scheduled"}, 100, ""),  # without an auxiliary loss
        ({"aux.kind": "predict", "aux.decoder_feed": "scheduled"}, 9, "aux.decoder_feed=scheduled"),
    ],
)
def test_what_the_length_was_part_of(overrides, start, reason):
    config = defaults.get_config()
    config.update_from_flattened_dict(overrides)
    assert longer._different(config, OLD, NEW, start) == reason


def test_a_schedule_that_follows_the_length_says_what_can_be_done(config, copy):
    cosine = {"optim__schedule": "cosine"}
    record = (copy / "config.json").read_text(encoding="utf-8")
    (copy / "config.json").write_text(record.replace('"constant"', '"cosine"'), encoding="utf-8")
    before = snapshot(copy)
    message = (
        r"another length \(train.num_steps: 2 -> 4\), which optim.schedule=cosine follows: choose"
        rf" another --workdir.*--config.train.init_from={copy}$"
    )
    with pytest.raises(UserError, match=message):
        loop.train(config(train__num_steps=4, **cosine), copy)
    assert snapshot(copy) == before


# ---- The parameters of another run -------------------------------------------------------------


def best_of(workdir, config):
    return jax.device_get(load(workdir, config, {}).best)


def test_it_starts_from_the_best_parameters(config, short, tmp_path):
    one = config(train__init_from=str(short), seed=1, num_seeds=2)
    program = make_program(one)
    warm, best = warm_start.read(program), best_of(short, config())
    (tmp_path / "begun").mkdir()
    state, fresh = warm_start.begin(program, tmp_path / "begun", warm), program.init()
    for found, of_best, drawn, expected in zip(
        *map(jax.tree.leaves, (state.params, state.best.params, fresh.params, best.params)),
        strict=True,
    ):
        np.testing.assert_array_equal(found, np.repeat(expected, 2, 0))
        np.testing.assert_array_equal(of_best, found)
        assert found.sharding == drawn.sharding
    for name in ("step", "opt_state", "rng", "carry", "sums", "first_nonfinite_step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(fresh, name))
    assert warm.record["workdir"] == str(short) and warm.record["step"] == [2]


@pytest.mark.slow
def test_a_resumed_run_does_not_start_again(config, short, tmp_path, monkeypatch):
    one = config(train__init_from=str(short), seed=1)
    whole = loop.train(one, tmp_path / "whole")
    assert whole["init_from"]["workdir"] == str(short)
    loop.train(config(train__init_from=str(short), seed=1, train__stop_step=1), tmp_path / "run")
    with monkeypatch.context() as patch:  # what it started from is not looked at again
        patch.setattr(warm_start, "read", lambda _: pytest.fail("it was read"))
        result = loop.train(one, tmp_path / "run")
    assert result["init_from"] == whole["init_from"]
    found, expected = (
        {k: v for k, v in outcome(tmp_path / name)["state"].items() if k.startswith(".params")}
        for name in ("run", "whole")
    )
    assert found == expected and expected


@pytest.mark.slow
def test_seeds_start_as_many_seeds(config, tmp_path):
    loop.train(config(num_seeds=2), tmp_path / "two")
    found = warm_start.read(make_program(config(num_seeds=2, train__init_from=f"{tmp_path}/two")))
    expected = best_of(tmp_path / "two", config(num_seeds=2))
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    with pytest.raises(UserError, match=r"it holds 2 runs side by side .* this one is to train 1"):
        warm_start.read(make_program(config(train__init_from=f"{tmp_path}/two")))


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("nowhere", {}, r"nowhere: no run in '.*nowhere' \(config.json: No such file"),
        ("~nobody.here/x", {}, "no such user"),
        ("gs://bucket/run", {}, "is a URL"),
        ("short", {"model__hidden_size": 5}, r"do not fit: best.params.* is float32\(1, 4, 4\)"),
        ("short", {"model__cell": "gru"}, "do not fit: best.params"),
        ("short", {"model__num_layers": 2}, "is nothing there"),
    ],
)
def test_what_cannot_be_started_from(config, short, tmp_path, source, overrides, message):
    place = str(
        short if source == "short" else tmp_path / source if source == "nowhere" else source
    )
    with pytest.raises(UserError, match=message) as caught:
        loop.train(config(train__init_from=place, **overrides), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_run_that_was_never_validated_starts_nothing(config, copy, tmp_path):
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="it holds no checkpoint yet"):
        loop.train(config(train__init_from=str(copy)), tmp_path / "other")


def test_another_run_in_the_place_is_noticed(config, short, copy, tmp_path):
    """A start that was killed before its first save starts again, and from the same."""
    program = make_program(config(train__init_from=str(short)))
    (tmp_path / "new").mkdir()
    warm = warm_start.read(program)
    warm_start.begin(program, tmp_path / "new", warm)
    warm_start.begin(program, tmp_path / "new", None)
    other = warm._replace(record=warm.record | {"sha256": "other"})
    with pytest.raises(UserError, match="has other best parameters than when this one started"):
        warm_start.begin(program, tmp_path / "new", other)


@pytest.mark.slow
def test_other_symbols_are_refused(tmp_path):
    runs = []
    for name, text in (("ab", "ab ba\n"), ("cd", "cd dc\n")):
        (tmp_path / f"{name}.txt").write_text(text * 60, encoding="utf-8")
        made = defaults.get_config()
        made.update_from_flattened_dict(
            {"data.name": "text", "data.text_dir": str(tmp_path / f"{name}.txt"), "data.length": 4}
            | {"data.batch_size": 4, "model.hidden_size": 4, "train.num_steps": 1}
        )
        runs.append(made)
    loop.train(runs[0], tmp_path / "run")
    for made in runs:
        made.train.init_from = str(tmp_path / "run")
    assert warm_start.read(make_program(runs[0])).record["step"] == [1]
    with pytest.raises(UserError, match="its parameters mean other symbols"):
        warm_start.read(make_program(runs[1]))


def test_the_key_is_judged_like_any_other(config):
    one, other = config(), config(train__init_from="x")
    assert effects.effective(one) != effects.effective(other)
