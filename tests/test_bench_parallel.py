"""The benchmark of seeds and devices runs, and counts as it says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_parallel.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_parallel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(question, contender, seconds, seeds=1):
    return {
        "question": question,
        "contender": contender,
        "steps": 64,
        "seeds": seeds,
        "median_step_s": seconds,
    }


def test_goals(bench):
    records = [
        record("seeds", "one run", 0.1),
        record("seeds", "together, batch split", 0.4, seeds=5),
        record("seeds", "together, seeds split", 0.6, seeds=5),
        record("devices", "a device a core", 0.1),
        record("devices", "one device", 0.2),
        record("devices", "one device, a thread a core", 0.12),
    ]
    found = [(goal["ratio"], goal["met"]) for goal in bench.goals(records, "cpu")]
    assert found == [
        (pytest.approx(0.8), True),
        (pytest.approx(1.2), False),
        (pytest.approx(1.2), False),
    ]
    on_gpu = bench.goals(records[:2], "gpu")
    assert [(goal["ratio"], goal["met"]) for goal in on_gpu] == [(pytest.approx(4.0), False)]


@pytest.mark.slow
def test_run(tmp_path):
    output = tmp_path / "bench.json"
    sizes = ("--lengths", "8", "--units=4", "--seeds=2", "--turns=1", "--turn-seconds=0.01")
    subprocess.run([sys.executable, SCRIPT, *sizes, f"--output={output}"], check=True)
    result = json.loads(output.read_text())
    assert [r["contender"] for r in result["records"]] == [
        "one run",
        "together, batch split",
        "together, seeds split",
        "a device a core",
        "one device",
        "one device, a thread a core",
    ]
    assert all(r["median_step_s"] > 0 for r in result["records"])
    assert len(result["goals"]) == 3 and result["records"][4]["num_devices"] == 1
