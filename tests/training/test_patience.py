"""Early stopping: each seed alone, frozen, and the same whether a run was interrupted or not."""

import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.metrics import LOSS
from lrd_jax.reporting.writers import read_metrics
from lrd_jax.training import effects, loop
from lrd_jax.training.loop import train
from lrd_jax.training.state import update_best
from tests.training.harness import Stream, assert_identical, make_config, make_program
from tests.training.test_loop import make_config as make_digits

SELECT = (LOSS,)
EVERY = 5


@pytest.fixture(scope="module")
def program():
    config = make_config(num_seeds=3, train__patience=2)
    return make_program(config, num_devices=1, objective=Stream())


def after(state, step, *losses):
    state = state.replace(step=jnp.int32(step))
    valid = {"loss": jnp.array(losses)}
    return update_best(state, valid, SELECT, patience=2, every=EVERY)


def test_each_seed_has_its_own_patience(program):
    state = after(program.init(), 5, 1.0, 1.0, 1.0)
    state = after(state, 10, 0.9, 1.0, 1.1)
    np.testing.assert_array_equal(state.stopped, [-1, -1, -1])
    state = state.replace(first_nonfinite_step=jnp.array([-1, -1, 12]))
    state = after(state, 13, 0.8, 1.0, 1.0)  # a budget ended it here: an evaluation, not counted
    np.testing.assert_array_equal(state.stopped, [-1, -1, -1])
    state = after(state, 15, 0.8, 1.0, 1.0)  # as good is no better; a NaN stays one
    np.testing.assert_array_equal(state.stopped, [-1, 15, -1])
    state = after(state, 20, 0.9, 0.1, 0.1)
    np.testing.assert_array_equal(state.stopped, [20, 15, -1])
    np.testing.assert_array_equal(state.best.step, [13, 5, 5])


def test_who_has_stopped_is_frozen_and_disturbs_nobody(program):
    state, batch = program.init(), program.batch(0)
    stopped = state.replace(stopped=jnp.array([-1, 5, -1]))
    before = jax.device_get(state)
    free = jax.device_get(program.train_step(state, batch))
    batch = program.batch(0) | {"inputs": program.batch(0)["inputs"].at[1].set(np.nan)}
    held = jax.device_get(program.train_step(jax.tree.map(jnp.copy, stopped), batch))
    for index, wanted in enumerate((free, before, free)):
        for part in ("params", "opt_state", "carry", "sums", "first_nonfinite_step"):
            found = jax.tree.map(lambda x, i=index: x[i], getattr(held, part))
            assert_identical(found, jax.tree.map(lambda x, i=index: x[i], getattr(wanted, part)))


PATIENT = {
    "train__num_steps": 200,
    "train__eval_every_steps": 4,
    "train__log_every_steps": 3,
    "train__patience": 2,
    # One learns nothing that its first evaluation lacks; the other goes on for a while.
    "sweep__learning_rate": (1e-12, 3e-2),
}


def run(config, workdir):
    """The result, and what was said."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        result = train(config, workdir)
    return result, shown.getvalue()


def lines(workdir):
    timing = {"time", "steps_per_s", "train_s", "eval_s", "compile_s"}
    records = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in timing} for record in records]


@pytest.fixture(scope="module")
def whole(digits_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("patient") / "run"
    return workdir, *run(make_digits(digits_dir, **PATIENT), workdir)


def test_the_run_ends_with_the_last(whole):
    workdir, result, said = whole
    still, *_ = [seed for seed in result["seeds"] if seed["sweep"]["learning_rate"] < 1e-6]
    assert (still["best"]["step"], still["stopped_step"]) == (4, 12)
    ends = [seed["stopped_step"] for seed in result["seeds"]]
    assert result["steps"] == max(ends) > 12 and result["num_steps"] == 200
    assert all(s["stopped_step"] == s["best"]["step"] + 8 for s in result["seeds"])
    assert said.count("stops at step 12: no evaluation was better than that of step 4") == 1
    assert "seed 0 at step 12;" in said and said.count("(train.patience)") == 3
    records = lines(workdir)
    assert {record["step"] for record in records if record["split"] == "test"} == {max(ends)}
    # What was trained since the last line of training is not lost.
    assert {record["step"] for record in records if record["split"] == "train"} >= {max(ends)}


@pytest.mark.slow
@pytest.mark.parametrize("stop", [7, 12])
def test_interrupted_it_ends_the_same(whole, digits_dir, tmp_path, stop):
    """With several steps a call, too; 12 is where the first members stop."""
    _, result, _ = whole
    options = PATIENT | {"train__steps_per_call": 3 if stop == 7 else 0}
    run(make_digits(digits_dir, **options, train__stop_step=stop), tmp_path / "run")
    parts, said = run(make_digits(digits_dir, **options), tmp_path / "run")
    assert said.count("stops at step 12") == (1 if stop == 7 else 0)
    assert parts["steps"] == result["steps"]
    for one, other in zip(parts["seeds"], result["seeds"], strict=True):
        assert one["stopped_step"] == other["stopped_step"] and one["test"] == other["test"]


def test_killed_before_its_result_it_trains_no_further(whole, digits_dir, monkeypatch):
    """The test and the result are made again; then the run is complete."""
    workdir, result, _ = whole
    before = lines(workdir)
    (workdir / "result.json").unlink()
    config = make_digits(digits_dir, **PATIENT)
    found, said = run(config, workdir)
    assert found["seeds"] == result["seeds"] and lines(workdir) == before
    assert (
        "resuming at step" in said
        and json.loads((workdir / "result.json").read_text(encoding="utf-8"))["ended_by"]
        == "train.patience"
    )
    monkeypatch.setattr(loop, "make_program", None)  # it is not even built
    assert "this run is complete" in run(config, workdir)[1]


def test_patience_that_cannot_end_is_told():
    config = make_config(train__patience=3, train__eval_every_steps=5)
    horizon = make_program(config).horizon
    told = "train.patience=4 never ends a run of 4 evaluations"
    assert effects.never_reached(config, horizon) == []
    config.train.patience = 4
    assert effects.never_reached(config, horizon)[0].startswith(told)
