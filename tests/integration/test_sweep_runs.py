"""Several runs in one program, through the real command line."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.conftest import outcome

SWEPT = ("num_seeds=2", "sweep.learning_rate=(3e-3,1e-3)")


@pytest.fixture(scope="module")
def swept(program, tmp_path_factory):
    """A sweep that began with the seeds split and went on with the batch split."""
    workdir = tmp_path_factory.mktemp("runs") / "swept"
    program.train(workdir, *SWEPT, "devices.split=seeds", "train.stop_step=10")
    out, err = program.train(workdir, *SWEPT)
    assert "resuming at step 10 of 30" in out
    return workdir, out, err


@pytest.mark.slow
def test_every_member_is_in_metrics_and_result(swept):
    workdir, *_ = swept
    everyone = {(seed, rate) for seed in (0, 1) for rate in (3e-3, 1e-3)}
    records = outcome(workdir)["metrics"]
    keys = [(r["step"], r["split"], r["seed"], r["learning_rate"]) for r in records]
    assert len(keys) == len(set(keys)) == 4 * 10
    assert {(seed, rate) for *_, seed, rate in keys} == everyone
    # Early results: every evaluation of every member is in its file before the run ends.
    valid = {(s, seed, rate) for s, split, seed, rate in keys if split == "valid"}
    assert valid == {(step, *member) for step in (10, 20, 30) for member in everyone}

    result = outcome(workdir)["result"]
    found = [(entry["seed"], entry["sweep"]["learning_rate"]) for entry in result["seeds"]]
    assert found == [(0, 3e-3), (1, 3e-3), (0, 1e-3), (1, 1e-3)]
    assert [value["sweep"]["learning_rate"] for value in result["by_value"]] == [3e-3, 1e-3]
    for value in result["by_value"]:
        own = [e for e in result["seeds"] if e["sweep"] == value["sweep"]]
        for name in ("loss", "accuracy"):
            scores = [entry["test"][name] for entry in own]
            assert value["test"][name] == pytest.approx(sum(scores) / 2)
            found = value["statistics"]["test"][name]
            assert found["values"] == scores and "interval" not in found  # there are two
    best = max(result["by_value"], key=lambda value: value["best"]["valid"]["accuracy"])
    for key in ("sweep", "best", "test", "statistics"):
        assert result[key] == best[key]


@pytest.mark.slow
def test_a_member_is_the_single_run_with_its_seed_and_value(program, swept, tmp_path):
    program.train(tmp_path, "seed=1", "optim.learning_rate=1e-3")
    alone = outcome(tmp_path)["metrics"]
    together = [
        {k: v for k, v in r.items() if k not in ("seed", "learning_rate")}
        for r in outcome(swept[0])["metrics"]
        if (r["seed"], r["learning_rate"]) == (1, 1e-3)
    ]
    assert len(alone) == len(together) == 10
    for one, other in zip(alone, together, strict=True):
        assert one.keys() == other.keys()
        assert (one["step"], one["split"]) == (other["step"], other["split"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_person_sees_a_table_by_value(program, swept):
    workdir, out, _ = swept
    assert "side by side" in out
    lines = [line.split() for line in out.splitlines()]
    head = next(line for line in lines if line[:1] == ["learning_rate"])
    assert head[1:] == "seeds validation accuracy validation loss test accuracy test loss".split()
    rows = [line for line in lines if line[:1] in (["0.003"], ["0.001"])]
    assert "minus that of learning_rate" in out and "(2 seeds, paired, no interval)" in out
    assert len(rows) == 2 and all(row[1] == "2" for row in rows)
    assert all(" ".join(row).count("(") == 4 for row in rows)
    assert "best value" in out and "Student" not in out

    out, _ = program.evaluate(workdir)
    assert "learning_rate 0.001, seed 1" in out and "test, learning_rate 0.003" in out
    found = json.loads((workdir / "eval" / "test.json").read_text())["seeds"]
    expected = outcome(workdir)["result"]["seeds"]
    for one, other in zip(found, expected, strict=True):
        assert (one["seed"], one["sweep"], one["best"]) == (
            other["seed"],
            other["sweep"],
            other["best"],
        )
        assert one["test"]["loss"] == pytest.approx(other["test"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_tensorboard_has_a_folder_for_each_member(swept):
    folder = swept[0] / "tensorboard"
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {f"learning_rate_{r}-seed_{s}" for r in (0.003, 0.001) for s in (0, 1, "mean")}
    events = EventAccumulator(str(folder / "learning_rate_0.001-seed_1"))
    events.Reload()
    assert [event.step for event in events.Scalars("valid/loss")] == [10, 20, 30]


@pytest.mark.slow
def test_a_value_that_ends_in_nan_is_reported_and_the_others_go_on(program, tmp_path):
    overrides = ("optim.clip_norm=0.0", "optim.schedule=constant")
    rates = "sweep.learning_rate=(1e-3,1e30)"
    out, err = program.train(tmp_path, *overrides, rates)
    (warning,) = (line for line in err.splitlines() if "NaN" in line)
    assert warning.startswith("lrd_jax: warning: loss or gradient of learning_rate 1e+30, seed 0 ")
    result = outcome(tmp_path)["result"]
    good, bad = result["seeds"]
    step = bad["first_nonfinite_step"]
    assert f"at step {step};" in warning and 1 < step <= 5
    assert f"NaN learning_rate 1e+30, seed 0 at step {step}" in " ".join(out.split())
    none = dict.fromkeys(("loss", "accuracy", "balanced_accuracy", "macro_f1"))
    assert bad["best"]["step"] == 0 and bad["test"] == none
    assert result["sweep"] == {"learning_rate": 1e-3} and result["best"] == good["best"]
    assert result["by_value"][1]["test"] == none
    # Nothing says NaN where JSON has no such number.
    json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("num_seeds=3 devices.split=seeds", "cpu_devices=2 does not divide the number of seeds"),
        ("sweep.learning_rate=(1e-3,0.0)", "config.optim.learning_rate=0.0: must be above 0"),
        ("sweep.p_block=(0.5,often)", "must be a tuple of numbers"),
        ("sweep.hidden_size=(8,16)", "unknown config key 'sweep.hidden_size'"),
    ],
)
def test_wrong_sweeps_are_refused(program, tmp_path, overrides, message):
    flags = [f"--config.{override}" for override in overrides.split()]
    assert message in program.refuse(*program.tiny, f"--workdir={tmp_path / 'run'}", *flags)
    assert list(tmp_path.iterdir()) == []
