"""The benchmark of auxiliary losses runs, and says what it found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_auxiliary.py"


@pytest.mark.slow
def test_three_contenders_take_turns(tmp_path):
    output = tmp_path / "bench.json"
    command = [sys.executable, SCRIPT, "--batch=2", "--repeats=1", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    plain, default, small = json.loads(output.read_text())["records"]
    assert plain["ratio"] == 1.0 and (default["goal"], small["goal"]) == (3.6, 2.2)
    for row in (default, small):
        assert row["ratio"] == pytest.approx(row["median_s"] / plain["median_s"])
        assert row["met"] == (row["ratio"] <= row["goal"]) and len(row["seconds"]) == 1
        assert f"{row['ratio']:.2f} times plain" in done.stdout
