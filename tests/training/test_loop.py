"""A run inside this process: what happens at which step, and where it goes on."""

import contextlib
import io
import json
import os
import signal

import pytest

from lrd_jax.config import defaults
from lrd_jax.errors import Interrupted, UserError
from lrd_jax.reporting.writers import read_metrics
from lrd_jax.training.loop import train
from lrd_jax.training.recorder import Recorder

STOP, END = 7, 14


def make_config(data_dir, **overrides):
    config = defaults.get_config()
    config.update_from_flattened_dict(
        {
            "data.data_dir": str(data_dir),
            "data.pixels_per_step": 16,
            "model.hidden_size": 4,
            "model.head_hidden": (),
            "train.num_steps": END,
            "train.log_every_steps": 5,
            "train.eval_every_steps": 6,
            "train.checkpoint_every_steps": 4,
        }
        | {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return config


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory):
    """One that ended early, then went on: its folder, and what is left of each part."""
    workdir = tmp_path_factory.mktemp("loop") / "run"
    parts = []
    for stop in (STOP, 0):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            result = train(make_config(digits_dir, train__stop_step=stop), workdir)
        records = read_metrics(workdir / "metrics.jsonl")
        saved = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
        parts.append((result, records, saved, shown.getvalue()))
    return workdir, *parts


def events(records):
    return sorted((record["step"], record["split"]) for record in records)


def test_what_happens_at_which_step(run):
    """At multiples and at the end, where a budget ends it too."""
    _, (first, before, saved_before, _), (result, after, saved, _) = run
    assert events(before) == [(5, "train"), (6, "valid"), (7, "test"), (7, "train"), (7, "valid")]
    assert saved_before <= {4, STOP} and STOP in saved_before
    # The test score is that of the last part alone.
    kept = [event for event in events(before) if event[1] != "test"]
    more = [(10, "train"), (12, "valid"), (14, "test"), (14, "train"), (14, "valid")]
    assert events(after) == kept + more
    assert max(saved) == END and saved <= {4, 7, 8, 12, END}
    assert (first["steps"], first["num_steps"]) == (STOP, END)
    assert (result["steps"], result["num_steps"]) == (END, END)
    assert result["wall_time_s"] > first["wall_time_s"] > 0  # goes on counting


def test_it_says_where_it_begins_and_where_it_will_stop(run):
    first, then = (part[3] for part in run[1:])
    assert f"at step {STOP} (train.stop_step)" in first and "resuming" not in first
    assert f"resuming at step {STOP} of {END}" in then and "train.stop_step" not in then


def test_the_epoch_of_a_line_is_its_step_over_those_of_an_epoch(run):
    for record in run[2][1]:
        assert record["epoch"] == record["step"] / 21  # 1297 examples, 64 a step


def test_the_result_is_of_the_best_validation_and_the_last_test(run):
    workdir, _, (result, records, *_) = run
    valid = [r for r in records if r["split"] == "valid"]
    best = max(valid, key=lambda r: (r["accuracy"], -r["loss"], -r["step"]))
    assert result["best"]["step"] == best["step"]
    for name in ("loss", "accuracy"):
        assert result["best"]["valid"][name] == pytest.approx(best[name], rel=1e-6)
        assert result["test"][name] == records[-1][name]
    assert json.loads((workdir / "result.json").read_text(encoding="utf-8")) == result


def test_a_run_that_is_done_stays_as_it_is(run, digits_dir, capsys):
    workdir, _, (result, *_) = run
    assert train(make_config(digits_dir), workdir) == result
    assert "this run is complete" in capsys.readouterr().out


def test_a_folder_of_another_config_is_refused(digits_dir, run):
    with pytest.raises(UserError, match="hidden_size"):
        train(make_config(digits_dir, model__hidden_size=5), run[0])


def test_bad_input_leaves_no_folder_behind(digits_dir, tmp_path):
    """Though it shows no earlier than in the data."""
    with pytest.raises(UserError, match=r"data\.batch_size=5000 is more than the 1297"):
        train(make_config(digits_dir, data__batch_size=5000), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("saves_every", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_a_signal_is_obeyed_after_the_step(digits_dir, tmp_path, monkeypatch, capsys, saves_every):
    """It is saved, once: also where a checkpoint of this very step is due."""
    record = Recorder.train

    def and_send(self, step, values):
        record(self, step, values)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Recorder, "train", and_send)
    options = {"train__checkpoint_every_steps": saves_every, "train__eval_every_steps": END}
    with pytest.raises(Interrupted):
        train(make_config(digits_dir, **options), tmp_path / "run")
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == ({"4", "5"} if saves_every == 4 else {"5"})
    assert "saved at step 5" in capsys.readouterr().err
    assert not (tmp_path / "run" / "result.json").exists()
