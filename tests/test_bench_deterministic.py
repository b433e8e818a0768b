"""The benchmark of `devices.deterministic` runs, and compares what it says it does."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrd_jax.errors import UserError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "bench_deterministic.py"
DIGITS = f"{ROOT}/configs/urlstm_pdigits.py:quick"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_deterministic", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def records(parameters=("a", "a"), **more):
    record = {"config": DIGITS, "deterministic": True, "compile_s": 3.0}
    times = ([0.3, 0.1, 0.2], [0.5, 0.4, 0.6])
    pairs = zip(parameters, times, strict=True)
    return [record | {"parameters": p, "step_s": t} | more for p, t in pairs]


@pytest.mark.parametrize(("parameters", "said"), [("aa", "the same"), ("ab", "other")])
def test_summary(bench, parameters, said):
    summary = bench.summarise(records(parameters))
    assert (summary["step_s"], summary["same"]) == (0.2, said == "the same")
    text = bench.line(summary)
    assert "urlstm_pdigits-quick" in text and "deterministic=true" in text
    assert "200.000 ms" in text and f"{said} parameters" in text


def test_a_failed_process_is_told(bench):
    summary = bench.summarise(records(error="out of memory"))
    assert bench.line(summary).endswith("failed: out of memory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py"], "there is no config file"),
        ([DIGITS, "--config.sed=1"], "unknown config key 'sed'"),
        ([DIGITS, "--turns=0"], "must be at least 1"),
        ([DIGITS, "--workdir=x"], "unexpected argument"),
    ],
)
def test_bad_input_is_refused(bench, arguments, message):
    with pytest.raises(UserError, match=message):
        bench.main(arguments)


@pytest.mark.slow
def test_run(tmp_path):
    output = tmp_path / "bench.json"
    options = ("--turns=2", "--turn-seconds=0.01", "--steps=2", "--config.devices.cpu_devices=1")
    command = [sys.executable, SCRIPT, DIGITS, *options, f"--output={output}"]
    subprocess.run(command, check=True, timeout=600)
    result = json.loads(output.read_text(encoding="utf-8"))
    assert [goal["deterministic"] for goal in result["goals"]] == [True, False]
    assert all(goal["same"] for goal in result["goals"])  # of a CPU
    assert len(result["records"]) == 4
    assert all(len(record["step_s"]) == 2 for record in result["records"])
