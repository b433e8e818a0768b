"""The recorder: what reaches the disk and the display, and at which rate."""

import datetime
import json
import types

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lrd_jax.config.horizon import Horizon
from lrd_jax.config.members import Member
from lrd_jax.metrics import LOSS
from lrd_jax.reporting.writers import TIMING_KEYS, read_metrics
from lrd_jax.runtime import processes
from lrd_jax.training import recorder as module
from lrd_jax.training.recorder import Recorder
from tests.training.harness import make_config


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def make(workdir, **changes):
    options = {
        "members": [Member(0, {}), Member(1, {})],
        "horizon": Horizon(20, 10),
        "start": 4,
        "end": 20,
        "evaluated": True,
        "shown": ["loss"],
        "metrics": [LOSS],
        "baselines": {"loss": 2.0, "accuracy": 0.1},
        "earlier_s": 50.0,
    }
    return Recorder(workdir, make_config(), **options | changes)


def test_the_rate_is_of_training_alone(tmp_path, clock, capsys):
    with make(tmp_path) as recorder:
        clock.now += 2
        recorder.train(8, {"loss": np.array([1.0, 3.0])})  # 4 steps in 2 s
        with recorder.evaluating("valid") as shown:
            clock.now += 30
            shown(0.5)
        with pytest.raises(KeyError), recorder.evaluating("test"):
            clock.now += 30
            raise KeyError
        recorder.valid(8, {"loss": np.array([np.nan, 5.0])})
        clock.now += 5
        recorder.train(20, {"loss": np.array([np.nan, np.nan])})  # 12 in 5
        assert recorder.wall_time_s == 50 + 2 + 60 + 5
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["steps_per_s"] for line in lines if line["split"] == "train"]
    assert rates == [2.0, 2.0, 2.4, 2.4]
    found = [(line["step"], line["epoch"], line["seed"], line["loss"]) for line in lines]
    assert found == [
        *((8, 0.8, 0, 1.0), (8, 0.8, 1, 3.0)),
        *((8, 0.8, 0, None), (8, 0.8, 1, 5.0)),
        *((20, 2.0, 0, None), (20, 2.0, 1, None)),
    ]
    last = capsys.readouterr().err.splitlines()[-1]
    assert "loss nan" in last and "baseline loss 2" in last and "valid loss 5" in last
    assert "accuracy" not in last


def test_another_process_writes_and_shows_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with make(tmp_path, earlier_s=1e6) as recorder:
        for record in (recorder.train, recorder.valid, recorder.test):
            record(20, {"loss": np.ones(2)})
        recorder.say("hidden")
        recorder.flush()
        assert recorder.wall_time_s >= 1e6
    assert not any(tmp_path.iterdir()) and capsys.readouterr() == ("", "")


def test_a_line_says_when_it_was_written_and_where_the_time_went(tmp_path, clock, capsys):
    compiled = [1.0]  # of the first state, before the recorder was there
    earlier = {"train_s": 100.0, "eval_s": 10.0, "compile_s": 5.0}
    with make(tmp_path, earlier=earlier, compiled=lambda: compiled[0]) as recorder:
        clock.now += 7
        compiled[0] += 3
        recorder.train(8, {"loss": np.ones(2)})  # 4 steps in 4 s, after 3 s of compiling
        with recorder.evaluating("valid"):
            clock.now += 6
            compiled[0] += 2
            recorder.valid(8, {"loss": np.ones(2)})
        assert recorder.seconds == {"train_s": 104.0, "eval_s": 14.0, "compile_s": 11.0}
    assert "compiled in 4.0 s" in capsys.readouterr().err
    train, _, valid, _ = read_metrics(tmp_path / "metrics.jsonl")
    assert (train["steps_per_s"], train["train_s"], train["compile_s"]) == (1.0, 104.0, 9.0)
    assert (valid["train_s"], valid["eval_s"], valid["compile_s"]) == (104.0, 14.0, 11.0)
    written = datetime.datetime.fromisoformat(train["time"])
    assert train["time"].endswith("Z") and written.tzinfo == datetime.UTC
    assert {"time", "steps_per_s", *earlier} <= TIMING_KEYS  # left out of comparisons of two runs


def test_tensorboard_gets_the_mean_of_the_seeds_that_live(tmp_path, clock):
    with make(tmp_path) as recorder:
        recorder.valid(8, {"loss": np.array([np.nan, 5.0])})
    events = EventAccumulator(str(tmp_path / "tensorboard" / "seed_mean"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("valid/loss")] == [(8, 5.0)]
