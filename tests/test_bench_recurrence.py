"""The benchmark runs, and counts as it says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_recurrence.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_recurrence", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(contender, seconds, shape=(784, 64, 128)):
    steps, batch, units = shape
    return {
        "contender": contender,
        "steps": steps,
        "batch": batch,
        "units": units,
        "median_train_s": seconds,
    }


def test_goals(bench):
    """Ratios to torch's module and to the fastest of its loops; only where both were measured."""
    records = [
        record("ours-fused-urlstm", 0.25),
        record("torch-lstm", 0.2),
        record("torch_eager-urlstm", 0.6),
        record("torch_script-urlstm", 0.5),
        record("ours-fused-lstm", 0.3, (784, 100, 100)),
    ]
    found = {(g["contender"], g["against"]): (g["ratio"], g["met"]) for g in bench.goals(records)}
    assert found == {
        ("ours-fused-urlstm", "torch-lstm"): (pytest.approx(1.25), False),
        ("ours-fused-urlstm", "loop"): (pytest.approx(0.5), True),
    }


def test_shapes(bench):
    assert bench.parse_shapes("784x64x128,8x4x2") == [(784, 64, 128), (8, 4, 2)]
    assert set(bench.GOAL_SHAPES) <= set(bench.SHAPES["all"])
    for wrong in ("784x64", "axbxc", "every"):
        with pytest.raises(bench.argparse.ArgumentTypeError):
            bench.parse_shapes(wrong)
    with pytest.raises(bench.argparse.ArgumentTypeError, match="ours-fused-lstm"):
        bench.parse_contenders("ours-fast-lstm")


@pytest.mark.slow
def test_run(tmp_path):
    """Two contenders and one that has to fail, at a tiny shape."""
    output = tmp_path / "bench"
    arguments = ["--shapes=4x4x2", "--repeats=2", f"--output={output}"]
    names = "ours-fused-lstm,flax-lstm,ours-fused-urlstm"  # two units are too few for a UR-LSTM
    subprocess.run([sys.executable, SCRIPT, *arguments, f"--contenders={names}"], check=True)
    result = json.loads(output.with_suffix(".json").read_text())
    ours, flax, failed = result["records"]
    assert "at least 3 units" in failed["error"]
    for found in (ours, flax):
        assert len(found["train_s"]) == len(found["forward_s"]) == 2
        assert found["compile_s"] > found["median_train_s"] > 0
    assert {"jax", "flax"} <= set(result["versions"])
    assert output.with_suffix(".png").stat().st_size > 1000


@pytest.mark.slow
def test_another_checkout_takes_turns(tmp_path):
    """Its worker runs its own package; the ratio is of the medians."""
    output = tmp_path / "bench"
    command = [sys.executable, str(SCRIPT), "--shapes=4x2x3", "--contenders=ours-scan-lstm"]
    command += [f"--checkout={SCRIPT.parents[1]}", "--repeats=3", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.with_suffix(".json").read_text())
    own, other = result["records"]
    assert other["contender"].startswith(f"{own['contender']}@")
    assert "error" not in own and "error" not in other
    (entry,) = result["against_checkout"]
    assert entry["ratio"] == own["median_train_s"] / other["median_train_s"]
