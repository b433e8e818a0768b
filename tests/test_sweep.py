"""`scripts/sweep.py`: a run of the command line for each trial, whatever happens in between."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrd_jax.config import defaults, record
from lrd_jax.errors import UserError

optuna = pytest.importorskip("optuna")
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "sweep.py"
CONFIG = f"{ROOT}/configs/urlstm_pdigits.py:quick"


@pytest.fixture(scope="module")
def sweep():
    spec = importlib.util.spec_from_file_location("sweep", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def start(digits_dir, tmp_path_factory):
    """Starts the script on tiny digits."""
    cache = tmp_path_factory.mktemp("cache")
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run(out, *arguments):
        words = (f"--config={CONFIG}", f"--out={out}", f"--config.data.data_dir={digits_dir}")
        words += ("--config.data.pixels_per_step=8", "--config.devices.cpu_devices=1", *arguments)
        return subprocess.Popen(
            [sys.executable, SCRIPT, *words],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def finish(process, status=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    assert "Traceback" not in err
    return out, err


# ---- What may vary ------------------------------------------------------------------------------


def test_values_and_ranges(sweep):
    known = record.flatten(defaults.get_config())
    read = {
        text: sweep.parse_varied(text, known)
        for text in (
            "model.cell=lstm,gru",
            "model.head_hidden=(64,),(64,32)",
            "optim.learning_rate=log:1e-4:1e-2",
            "model.hidden_size=lin:8:64",
        )
    }
    cell, head, rate, size = read.values()
    assert cell.choices == ("lstm", "gru")
    assert head.choices == ("(64,)", "(64,32)")
    assert (rate.scale, rate.low, rate.high, rate.whole) == ("log", 1e-4, 1e-2, False)
    assert size.whole and size.examples() == ("8", "64")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config"),
        ([f"--config={CONFIG}"], "nothing to vary"),
        ([f"--config={CONFIG}x", "--vary=seed=1,2"], "unknown argument"),
        (["--vary=model.hidden_sise=8"], "did you mean model.hidden_size?"),
        (["--vary=model.hidden_size"], "write KEY=A,B,C"),
        (["--vary=model.hidden_size=8,8"], "must be different"),
        (["--vary=model.hidden_size=8,"], "none empty"),
        (["--vary=model.hidden_size=8,many"], "expected an integer"),
        (["--vary=optim.learning_rate=1e-3,0"], "optim.learning_rate=0.0: must be above 0"),
        (["--vary=optim.learning_rate=log:0:1", "--trials=2"], "must lie above 0"),
        (["--vary=optim.learning_rate=lin:2:1", "--trials=2"], "LOW must be below HIGH"),
        (["--vary=optim.learning_rate=lin:1", "--trials=2"], "lin:LOW:HIGH, numbers"),
        (["--vary=model.hidden_size=lin:1:8.5", "--trials=2"], "whole numbers"),
        (["--vary=optim.learning_rate=log:1e-4:1e-2"], "give --trials"),
        (["--vary=optim.learning_rate=lin:1:2", "--sampler=grid"], "needs a list of values"),
        (["--vary=seed=1,2", "--trials=-1"], "must not be negative"),
        (["--vary=seed=1,2", "--trials=few"], "--trials"),
        (["--vary=seed=1,2", "--vary=seed=3"], "seed is given twice"),
        (["--vary=seed=1,2", "--sampler=best"], "--sampler"),
        (["--vary=seed=1,2", "--verbose"], "unexpected argument '--verbose'"),
        (["--vary=seed=1,2", "--out=gs://bucket/sweep"], "is a URL"),
        (["--vary=seed=1,2", "--out=~nobody.here/sweep"], "there is no such user"),
        (["--vary=seed=1,2", "--config.seeed=2"], "did you mean seed?"),
        # One model with itself.
        (["--vary=model.gates=O-,UR"], "model.gates=O- and model.gates=UR are the same model"),
        (["--vary=detach.scope=batch,example"], "are the same model"),
        (
            ["--vary=model.cell=lstm,gated_lstm", "--vary=model.gates=--,UR"],
            "model.cell=lstm model.gates=-- and model.cell=lstm model.gates=UR are the same model",
        ),
        (
            ["--vary=optim.decay_rate=lin:0.1:0.9", "--trials=2"],
            "--vary optim.decay_rate has no effect in any trial",
        ),
    ],
)
def test_wrong_arguments_are_refused(sweep, arguments, message):
    if arguments and not arguments[0].startswith("--config="):
        arguments = [f"--config={CONFIG}", *arguments]
    with pytest.raises(UserError) as caught:
        sweep.parse_arguments(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_component_does_not_know_is_left_out(sweep):
    words = [f"--config={CONFIG}", "--config.model.gates=--", "--config.seed=3"]
    arguments, _ = sweep.parse_arguments([*words, "--vary=model.cell=lstm,gated_lstm"])
    left, told = sweep.known_words(arguments, ["--config.model.cell=lstm"])
    assert left == ["--config.seed=3", "--config.model.cell=lstm"]
    assert told == {"model.gates": "model.cell=lstm does not know it"}
    left, told = sweep.known_words(arguments, ["--config.model.cell=gated_lstm"])
    assert left == [*words[1:], "--config.model.cell=gated_lstm"] and told == {}


# ---- Runs ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_grid_with_a_failure_ends_with_table_plot_and_record(start, tmp_path):
    vary = ("--vary=optim.learning_rate=3e-3,1e30", "--config.optim.clip_norm=0.0")
    out, _ = finish(start(tmp_path / "sweep", *vary))
    assert out.count("| trial_000") == 2 and "| 3e-3 |" in out
    assert "failed: loss or gradient became NaN or infinite" in out
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    best, failed = record["trials"]
    assert best["values"] == {"optim.learning_rate": "3e-3"}
    workdir = tmp_path / "sweep" / best["workdir"]
    result = json.loads((workdir / "result.json").read_text())
    assert best["score"] == result["best"]["valid"]["accuracy"] and best["test"] == result["test"]
    assert failed["score"] is None and "NaN" in failed["error"]
    assert (tmp_path / "sweep" / failed["workdir"] / "config.json").exists()
    assert record["config"]["optim"]["clip_norm"] == 0.0
    assert {"jax", "optuna"} <= set(record["versions"]) and record["device"] == "1 x cpu (cpu)"
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 1000

    before = (tmp_path / "sweep" / "sweep.json").read_bytes()
    again, _ = finish(start(tmp_path / "sweep", *vary))
    assert "trial_0000:" not in again and "| trial_000" in again  # nothing is left to run
    assert (tmp_path / "sweep" / "sweep.json").read_bytes() == before
    _, err = finish(start(tmp_path / "sweep", "--vary=seed=1,2"), status=2)
    assert err == (
        f"sweep: error: {tmp_path}/sweep belongs to another sweep (vary, overrides differ):"
        " choose another --out\n"
    )


def test_what_the_program_refuses_at_once_is_bad_input(start, tmp_path):
    _, err = finish(start(tmp_path, "--vary=model.hidden_size=2,8"), status=2)
    assert err.startswith("sweep: error: ") and err.count("\n") == 1 and "hidden_size" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "signum", [pytest.param(signal.SIGKILL, marks=pytest.mark.exhaustive), signal.SIGTERM]
)
def test_a_stopped_sweep_ends_like_an_uninterrupted_one(start, tmp_path, signum):
    vary = (
        *("--vary=optim.learning_rate=log:1e-4:1e-2", "--vary=model.hidden_size=lin:4:12"),
        *("--trials=3", "--config.train.num_steps=200"),
    )
    finish(start(tmp_path / "whole", *vary))
    process = start(tmp_path / "stopped", *vary)
    metrics = tmp_path / "stopped" / "trial_0001" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert "Traceback" not in err and "trial_0002" not in out
    out, _ = finish(start(tmp_path / "stopped", *vary))
    assert "trial_0000:" not in out and "trial_0001:" in out
    found, expected = (
        json.loads((tmp_path / name / "sweep.json").read_text())["trials"]
        for name in ("stopped", "whole")
    )
    for one, other in zip(found, expected, strict=True):
        assert one["values"] == other["values"] and one["score"] == other["score"]


# ---- What scores --------------------------------------------------------------------------------


def test_the_metric_says_which_way_is_better(sweep, tmp_path):
    def folder(name, metric=""):
        (tmp_path / name).mkdir(exist_ok=True)
        words = [f"--config={CONFIG}", f"--out={tmp_path / name}", "--vary=seed=1,2"]
        return sweep.Sweep(*sweep.parse_arguments([*words, *([metric] if metric else [])]))

    own = {"cost": {"digits": 1, "higher_is_better": False}, "accuracy": {"digits": 2}}
    own["accuracy"] |= {"higher_is_better": True, "unit": "%"}
    result = {"best": {"valid": {"accuracy": 0.5, "cost": 3.0}}, "metrics": own}
    first, accuracy = folder("a"), folder("b", "--metric=accuracy")
    assert first._metric_of(result).name == "cost" and first._score(result) == 3.0
    assert first._metric_of(result).better(3.0) < first._metric_of(result).better(2.0)
    assert accuracy._metric_of(result).text(0.5) == "50.00 %" and accuracy._score(result) == 0.5
    assert folder("c", "--metric=-cost")._score(result) == 3.0  # as it was written before
    assert folder("c")._score(result) == 3.0  # goes on as it was begun
    with pytest.raises(UserError, match="of accuracy more is better, leave out the minus"):
        folder("d", "--metric=-accuracy")._metric_of(result)
    with pytest.raises(UserError, match="no validation metric 'los': give --metric as one of cost"):
        folder("e", "--metric=los")._metric_of(result)
