"""`scripts/on_gpu.py`: what it does with its time, and a rehearsal on a CPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lrd_jax.errors import UserError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "on_gpu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("on_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(folder, body):
    """A program in the place of Python, which answers as `gpu_checks.py` does."""
    path = folder / "python"
    head = f"#!{sys.executable}\nimport json, os, sys\n_, jobs = json.loads(sys.argv[2])\n"
    head += "def answer(**values): print(json.dumps(values), flush=True)\n"
    head += (
        "names = [f'{what} {name} {\"x\".join(map(str, shape))}' for what, name, shape in jobs]\n"
    )
    path.write_text(head + body, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def entries(folder):
    record = json.loads((folder / "on_gpu_check.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in record["records"]}, record["stopped"]


DYING = """
answer(where={"device": "a toy", "versions": {}})
for name in names:
    answer(begin=name)
    if "parity ours-fused-gru" in name:
        print("the card fell off", file=sys.stderr)
        os._exit(1)
    answer(done=name, record={"median_s": 1.0})
"""


def test_a_job_that_kills_its_process_costs_its_own_entry(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "backends", lambda: ["fused", "scan"])
    monkeypatch.setattr(script.provenance, "commit", lambda: "c0ffee")
    python = stand_in(tmp_path, DYING)
    script.check(script.Deadline(100), tmp_path, tiny=True, python=python)
    found, stopped = entries(tmp_path)
    bad = [name for name, entry in found.items() if "failed" in entry]
    assert bad == ["parity ours-fused-gru 2x9x12x16"] and stopped == ""
    assert found[bad[0]]["failed"] == "the card fell off"
    names = [str(job) for job in script.gpu_checks.jobs(["fused", "scan"], tiny=True)]
    assert names == list(found)
    assert {entry["device"] for entry in found.values()} == {"a toy"}

    # Again: what has numbers of this commit is kept, what failed is tried anew.
    python = stand_in(tmp_path, DYING.replace("gru", "none").replace("1.0", "2.0"))
    script.check(script.Deadline(100), tmp_path, tiny=True, python=python)
    again, _ = entries(tmp_path)
    assert [name for name, entry in again.items() if entry["median_s"] == 2.0] == bad
    monkeypatch.setattr(script, "machine", lambda: "another card")
    script.check(script.Deadline(100), tmp_path, tiny=True, python=python)
    assert {entry["median_s"] for entry in entries(tmp_path)[0].values()} == {2.0}


def test_the_time_is_kept(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "backends", lambda: ["fused"])
    slow = DYING.replace("answer(begin=name)", "answer(begin=name); import time; time.sleep(0.8)")
    began = script.time.monotonic()
    script.check(script.Deadline(2), tmp_path, tiny=True, python=stand_in(tmp_path, slow))
    assert script.time.monotonic() - began < 30
    found, stopped = entries(tmp_path)
    assert len(found) <= 2 and stopped.startswith("the time was over before ")


def test_a_process_that_cannot_start_fails_all_its_jobs(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "backends", lambda: ["fused"])
    python = stand_in(tmp_path, "sys.exit('no such library')\n")
    script.check(script.Deadline(100), tmp_path, tiny=True, python=python)
    found, _ = entries(tmp_path)
    assert {entry["failed"] for entry in found.values()} == {"no such library"}


def test_the_kernel_is_in_once_it_stands(script):
    names = {job.name for job in script.gpu_checks.jobs(["kernel", "fused", "scan"])}
    assert {"ours-kernel-hdetach", "ours-scan-gru", "torch-lstm-fp16", "cudnn-lstm"} <= names


def test_every_piece_is_a_run(script):
    """No value is refused, nothing is without effect, and no two are the same."""
    reproduce = script.gpu_pieces.reproduce
    models = set()
    for piece in (*script.gpu_pieces.pieces(), *script.gpu_pieces.pieces(tiny=True)):
        experiment = script.gpu_pieces._experiment(piece)
        _, left_out, model = reproduce.applicable(experiment, piece.overrides)
        assert left_out == {} and model not in models
        models.add(model)
    names = [piece.name for piece in script.gpu_pieces.pieces()]
    assert len(set(names)) == len(names)


def test_work_directories_travel(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.gpu_pieces, "PART_BYTES", 5000)
    runs = tmp_path / "runs"
    for path in ("a/config.json", "a/checkpoints/9/x", "a/checkpoints/10/x", "b/result.json"):
        (runs / path).parent.mkdir(parents=True, exist_ok=True)
        (runs / path).write_bytes(bytes(3000))
    script.gpu_pieces.pack(runs, tmp_path / "packed")
    parts = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert parts == [f"runs.tar.{n:03}" for n in range(len(parts))] and len(parts) > 1
    there = tmp_path / "there"
    (there / "b").mkdir(parents=True)
    script.gpu_pieces.unpack(tmp_path / "packed", there)
    found = sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file())
    assert found == ["a/checkpoints/10/x", "a/config.json"]  # b was there
    (tmp_path / "packed" / parts[0]).write_bytes(b"no archive")
    with pytest.raises(UserError, match="is damaged"):
        script.gpu_pieces.unpack(tmp_path / "packed", there)
    with pytest.raises(UserError, match=r"there is no runs.tar.000"):
        script.gpu_pieces.unpack(there, there)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part=check"], "--seconds"),
        (["--part=all", "--seconds=3"], "--part"),
        (["--part=check", "--seconds=0"], "--seconds must be above 0"),
        (["--part=check", "--seconds=9", "--to=x"], "are for --part=reproduce"),
    ],
)
def test_bad_input_is_refused(script, arguments, message):
    with pytest.raises(UserError, match=message):
        script.main(arguments)


def run(*arguments):
    command = [sys.executable, str(SCRIPT), "--tiny", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_rehearsal_of_the_checks(tmp_path):
    run("--part=check", "--seconds=600", f"--output={tmp_path}")
    found, stopped = entries(tmp_path)
    assert stopped == ""
    for name, entry in found.items():
        if "ours-" in name or "flax" in name:
            assert "failed" not in entry, entry
        assert entry.get("ok", True) and entry.get("equal", True), entry
    assert found["time ours-fused-urlstm 2x9x12x16"]["median_s"] > 0
    assert found["parity ours-fused-hdetach 2x9x12x16"]["repeats"]


@pytest.mark.slow
def test_a_rehearsal_of_the_reproductions(tmp_path, digits_dir):
    places = [f"--{name}={tmp_path / name}" for name in ("output", "runs", "to")]
    places.append(f"--data_dir={digits_dir}")
    run("--part=reproduce", "--seconds=1", *places)  # too short to begin
    path = tmp_path / "output" / "on_gpu_reproduce.json"
    statuses = [entry["status"] for entry in json.loads(path.read_text())["pieces"]]
    assert statuses == ["not begun", "not begun"]
    run("--part=reproduce", "--seconds=600", *places)
    for entry in json.loads(path.read_text())["pieces"]:
        assert entry["status"] == "finished" and entry["device"].endswith("(cpu)")
        record = json.loads((tmp_path / "output" / f"gpu_{entry['name']}.json").read_text())
        (variant,) = record["variants"]
        assert len(variant["result"]["by_value"]) == 3 and len(variant["result"]["seeds"]) == 9
        assert record["commit"] and record["devices"]
    assert (tmp_path / "to" / "runs.tar.000").exists()
