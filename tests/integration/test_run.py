"""A run from the command line to `result.json`, and what may be done with it afterwards."""

import json
import re
import shutil
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.conftest import ROOT, outcome, snapshot

STEPS = range(5, 31, 5)


@pytest.fixture(scope="module")
def finished(program, tmp_path_factory):
    """A work directory that is done, and what the program printed."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, *program.train(workdir)


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(finished[0], tmp_path / "run")


def read_json(path):
    return json.loads(path.read_text())


def test_the_work_directory_holds_what_is_promised(finished):
    workdir, out, err = finished
    names = {"checkpoints", "config.json", "metrics.jsonl", "result.json", "tensorboard", ".lock"}
    names |= {"spec.json"}
    assert {path.name for path in workdir.iterdir()} == names
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["20", "30"]

    saved = read_json(workdir / "config.json")
    assert set(saved) == {
        *("config", "format", "made_from", "unused", "values", "versions", "commit")
    }
    assert saved["made_from"] == {"file": "configs/urlstm_pdigits.py", "argument": "quick"}
    assert saved["config"]["model"]["hidden_size"] == 8
    assert {"python", "jax", "flax", "optax", "orbax", "numpy"} <= set(saved["versions"])

    # What a person sees: the parameters, device, data, then results and the next commands.
    assert "recurrence/layer_0/recurrent_kernel" in out and "Total: " in out
    assert "2 x cpu (cpu), JAX " in out
    assert "train / valid / test 1297 / 250 / 250" in out
    assert "test        accuracy" in out and "--mode=eval" in out
    assert "step 30/30 (100%)" in err and "steps/s" in err


def test_metrics_have_every_line_once(finished):
    records = outcome(finished[0])["metrics"]
    expected = [(step, "train") for step in STEPS] + [(s, "valid") for s in (10, 20, 30)]
    expected.append((30, "test"))
    found = [(record["step"], record["split"]) for record in records]
    assert sorted(found) == sorted(expected)
    for record in records:
        assert record["epoch"] == record["step"] / 26
        keys = {"step", "epoch", "split", "loss", "accuracy"}
        of_training, evaluated = {"grad_norm"}, {"balanced_accuracy", "macro_f1"}
        assert set(record) == keys | (of_training if record["split"] == "train" else evaluated)
    lines = (finished[0] / "metrics.jsonl").read_text().splitlines()
    rates = [r["steps_per_s"] for r in map(json.loads, lines) if r["split"] == "train"]
    assert len(rates) == 6 and min(rates) > 0


def test_the_result_repeats_the_best_validation_and_the_test(finished):
    result = read_json(finished[0] / "result.json")
    assert set(result) == {
        *("best", "test", "seeds", "wall_time_s", "seconds", "device", "versions", "commit"),
        *("steps", "num_steps", "metrics", "parameters"),
    }
    shown = re.search(r"([\d ]+) parameters", finished[1])
    assert shown and result["parameters"] == int(shown[1].replace(" ", ""))
    records = outcome(finished[0])["metrics"]
    valid = [r for r in records if r["split"] == "valid"]
    best = max(valid, key=lambda r: (r["accuracy"], -r["loss"]))
    assert result["best"]["step"] == best["step"]
    for name in ("loss", "accuracy"):
        assert result["best"]["valid"][name] == pytest.approx(best[name], rel=1e-6)
        assert result["test"][name] == records[-1][name]
    assert result["seeds"] == [{"seed": 0, "best": result["best"], "test": result["test"]}]
    assert (result["steps"], result["num_steps"]) == (30, 30)
    assert result["commit"] and result["wall_time_s"] > 0


def test_tensorboard_shows_scalars_and_config(finished):
    events = EventAccumulator(str(finished[0] / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for split, steps in (("train", list(STEPS)), ("valid", [10, 20, 30]), ("test", [30])):
        assert [event.step for event in events.Scalars(f"{split}/loss")] == steps
    assert "perf/steps_per_s" in tags["scalars"]
    assert any(tag.startswith("config") for tag in tags["tensors"])


def test_the_same_command_again_says_complete(program, finished):
    before = snapshot(finished[0])
    started = time.monotonic()
    out, _ = program.train(finished[0])
    assert "this run is complete" in out and "test        accuracy" in out
    assert snapshot(finished[0]) == before
    assert time.monotonic() - started < 60  # seconds where the machine is idle


# ---- Evaluation -------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_repeats_the_result_and_leaves_it_alone(program, workdir):
    before = snapshot(workdir)
    result = read_json(workdir / "result.json")
    for split, expected in (("test", result["test"]), ("valid", result["best"]["valid"])):
        out, err = program.evaluate(workdir, f"eval.split={split}", "eval.batch_size=7")
        assert split in out and f"best step {result['best']['step']}" in out and err == ""
        found = read_json(workdir / "eval" / f"{split}.json")
        assert found["split"] == split and found["overrides"]["eval.split"] == split
        (seed,) = found["seeds"]
        assert seed["seed"] == 0 and seed["best"] == result["best"]
        for name, value in expected.items():
            assert seed[split][name] == pytest.approx(value, rel=1e-5)
    shutil.rmtree(workdir / "eval")
    assert snapshot(workdir) == before


def test_evaluation_needs_no_config_and_refuses_another_one(program, workdir):
    result = read_json(workdir / "result.json")
    # Batches of 7 do not divide over the two devices of the run.
    repeated = f"--config.num_seeds={len(result['seeds'])}"  # as it was trained
    program.run("--mode=eval", f"--workdir={workdir}", "--config.data.batch_size=7", repeated)
    (seed,) = read_json(workdir / "eval" / "test.json")["seeds"]
    assert seed["test"] == pytest.approx(result["test"], rel=1e-5)
    before = snapshot(workdir)
    flags = ("--mode=eval", f"--workdir={workdir}")
    line = program.refuse("--config=configs/hdetach_mnist.py:H11", *flags)
    assert "was made from configs/urlstm_pdigits.py:quick, not from configs/hdetach_mnist" in line
    assert "needs the --workdir of a run" in program.refuse("--mode=eval")
    assert snapshot(workdir) == before


def test_evaluation_on_a_changed_task_has_a_file_of_its_own(program, workdir):
    program.evaluate(workdir, "data.permutation=seed:3")
    found = read_json(workdir / "eval" / "test-data.permutation=seed_3.json")
    assert found["overrides"] == {"data.permutation": "seed:3"}
    assert not (workdir / "eval" / "test.json").exists()


def test_evaluation_of_data_that_does_not_fit_touches_nothing(program, workdir):
    before = snapshot(workdir)
    line = program.refuse(
        program.tiny[0], "--mode=eval", f"--workdir={workdir}", "--config.data.pixels_per_step=4"
    )
    assert "do not fit" in line and "kernel" in line
    assert snapshot(workdir) == before


# ---- The same work directory again --------------------------------------------------------------


def test_a_changed_config_is_refused_by_name(program, workdir):
    before = snapshot(workdir)
    line = program.refuse(
        *program.tiny, f"--workdir={workdir}", "--config.model.hidden_size=9", "--config.seed=4"
    )
    assert "model.hidden_size: 8 -> 9" in line and "seed: 0 -> 4" in line
    assert "choose another --workdir" in line
    assert snapshot(workdir) == before


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_only_harmless_keys_change(program, finished, tmp_path):
    workdir = tmp_path / "run"
    out, _ = program.train(workdir, "train.stop_step=10")
    assert "will stop at step 10" in out
    result = read_json(workdir / "result.json")
    assert (result["steps"], result["num_steps"]) == (10, 30)
    assert "this run is complete" in program.train(workdir, "train.stop_step=10")[0]
    out, _ = program.train(workdir, "devices.deterministic=false", "train.checkpoint_every_steps=5")
    assert "resuming at step 10 of 30" in out
    # It stopped where it would have evaluated and saved anyhow: the same as without a stop.
    stopped, whole = outcome(workdir), outcome(finished[0])
    assert stopped == whole
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["25", "30"]


@pytest.mark.slow
def test_several_seeds_in_one_run(program, tmp_path):
    program.train(tmp_path, "num_seeds=2", "seed=5")
    result = read_json(tmp_path / "result.json")
    assert [entry["seed"] for entry in result["seeds"]] == [5, 6]
    first, second = (entry["test"]["loss"] for entry in result["seeds"])
    assert first != second and result["test"]["loss"] == pytest.approx((first + second) / 2)
    records = outcome(tmp_path)["metrics"]
    keys = [(record["step"], record["split"], record["seed"]) for record in records]
    assert len(keys) == len(set(keys)) == 2 * 10
    assert {seed for *_, seed in keys} == {5, 6}
    out, _ = program.evaluate(tmp_path)
    assert "seed 5" in out and "seed 6" in out and "(2 seeds)" in out
    events = EventAccumulator(str(tmp_path / "tensorboard" / "seed_6"))
    events.Reload()
    assert [event.step for event in events.Scalars("valid/loss")] == [10, 20, 30]


@pytest.mark.slow
def test_keys_without_effect_are_told_before_the_header_and_recorded(program, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from lrd_jax.config import command_line\n"
        f"base = command_line.load_module({str(ROOT / 'configs' / 'urlstm_pdigits.py')!r})\n"
        "def get_config(arg=''):\n  c = base.get_config('quick')\n"
        "  c.model.gates = 'OM'\n  c.optim.warmup_steps = 50\n  return c\n",
        encoding="utf-8",
    )
    config = (f"--config={file}", f"--workdir={tmp_path / 'run'}")
    scope = "--config.detach.scope=example"
    out, _ = program.run(config[0], *program.tiny[1:], scope, config[1])
    lines = out.splitlines()
    assert lines[:3] == [
        "note: model.gates=OM has no effect: model.cell=urlstm does not know it",
        "note: detach.scope=example has no effect: detach.p_block and detach.c_block are 0",
        "note: optim.warmup_steps=50 covers all 30 steps: the learning rate never reaches its peak",
    ]
    recorded = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert recorded["unused"] == ["model.gates"] and recorded["format"] == 4
