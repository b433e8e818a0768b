"""A quarter of an hour on a GPU, in two calls, without a network: what is true there, and papers.

    python scripts/on_gpu.py --part=check --seconds=330
    python scripts/on_gpu.py --part=reproduce --seconds=420 --data_dir=DIR --from=RUNS --to=RUNS
    python scripts/on_gpu.py --part=check --tiny --seconds=100     # a rehearsal, on a CPU too

`check`: whether each backend runs at all, whether it computes what the scan does, whether training
in calls of several steps equals single ones; then the time of forward and backward of ours, of
Flax's, cuDNN's and PyTorch's. Ours are all rows of the table of backends that run the cell. Writes
`results/on_gpu_check.json`.

`reproduce`: training runs of published tables in order of value, each with all its seeds and
settings in one program, in work directories below `runs/on_gpu/`. When the time is over, the run
under way saves and leaves; the same command goes on from there. A run that is finished writes
`results/gpu_NAME.json`, of the form that `reproduce.py --table` reads; how far each of them is
stands in `results/on_gpu_reproduce.json`. `--to` packs the work directories in files of 15 MiB,
and `--from` unpacks such files, for machines that keep nothing.

Every finished piece is written at once, with device and commit. What this checkout has measured
before on the same device is not measured again; what is left when the time is over is told.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import gpu_checks  # noqa: E402
import gpu_pieces  # noqa: E402
from gpu_checks import Job  # noqa: E402

from lrd_jax.config import command_line  # noqa: E402
from lrd_jax.errors import UserError, one_line  # noqa: E402
from lrd_jax.reporting import provenance  # noqa: E402
from lrd_jax.reporting.workdir import write_atomically  # noqa: E402

LEAST_S = 40.0  # in which a run starts, compiles and saves; with less left none is begun
SAVING_S = 20.0  # of these, for saving


class Deadline:
    """The time limit of a call."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, not below 0."""
        return max(0.0, self._end - time.monotonic())


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a file of results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def read(path: Path, key: str) -> dict[str, Any]:
    """The entries of an earlier call by their `name`.

    Raises:
      UserError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        return {entry["name"]: entry for entry in json.loads(path.read_bytes())[key]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({one_line(str(error))}): move it away") from error


# ---- Checks ------------------------------------------------------------------------------------


def machine() -> str:
    """The kind of GPU, else of processor, told without JAX."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return f"{platform.machine()} CPU"
    return " / ".join(sorted(set(found.stdout.split("\n")) - {""}))


class Record:
    """`on_gpu_check.json`, written anew with every entry."""

    def __init__(self, path: Path) -> None:
        self._path, self._entries = path, read(path, "records")
        self._source = {"commit": provenance.commit(), "machine": machine()}
        self.stopped = ""

    def known(self, job: Job) -> bool:
        """Whether this very commit has measured it on such a machine."""
        commit, entry = self._source["commit"], self._entries.get(str(job), {})
        if commit == "unknown" or commit.endswith("-dirty") or "failed" in entry:
            return False
        return self._source.items() <= entry.items()

    def add(self, name: str, found: dict[str, Any], where: dict[str, Any]) -> None:
        """Takes an entry and writes the file."""
        entry = {"name": name, **found, **where, **self._source}
        self._entries[name] = entry
        self.save()
        print(f"{name}: {found}", flush=True)

    def save(self) -> None:
        """Writes the file."""
        records = list(self._entries.values())
        write(self._path, {"stopped": self.stopped, "records": records})


def check(deadline: Deadline, output: Path, tiny: bool, python: str = "") -> None:
    """Runs the jobs of `gpu_checks`, those of one process together, until the time is over."""
    record = Record(output / "on_gpu_check.json")
    left = [job for job in gpu_checks.jobs(backends(), tiny) if not record.known(job)]
    while left and deadline.left():
        process = left[0].process
        own = [job for job in left if job.process == process]
        # Those at the head of the list: what is worth most comes first, whoever does it.
        own = own[: next((i for i, job in enumerate(left) if job.process != process), len(own))]
        done = work(process, own, record, deadline, python or sys.executable)
        left = left[done:]
    if left:
        record.stopped = f"the time was over before {left[0]}; {len(left)} are left"
        print(record.stopped)
    record.save()


def backends() -> list[str]:
    """Rows of the table of backends that run an LSTM here.

    The kernel's own answer would take the GPU, which is for the processes that this one starts.
    """
    from lrd_jax.cells import make_cell
    from lrd_jax.recurrence.options import Options
    from lrd_jax.recurrence.unroll import BACKENDS
    from lrd_jax.runtime.accelerators import uses_gpu

    cell = make_cell({"cell": "lstm", "hidden_size": 128})
    kernel = ["kernel"] if uses_gpu() else []
    return kernel + [
        name
        for name, entry in BACKENDS.items()
        if not entry.by_name and not entry.refuses(cell, Options())
    ]


def work(process: str, jobs: list[Job], record: Record, deadline: Deadline, python: str) -> int:
    """Starts one process for these jobs, in their order; returns how many are settled."""
    argument = json.dumps([process, [list(job[1:]) for job in jobs]])
    settled, where, begun = 0, {}, False
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        child = subprocess.Popen(
            [python, str(ROOT / "scripts" / "gpu_checks.py"), argument],
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            # PyTorch and JAX come one after the other, and one that died may hold its part still.
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        timer = threading.Timer(deadline.left(), child.kill)
        timer.start()
        try:
            assert child.stdout
            for line in child.stdout:
                answer = json.loads(line)
                where = answer.get("where", where)
                begun = "begin" in answer
                if "done" in answer:
                    record.add(str(jobs[settled]), answer["record"], where)
                    settled += 1
            child.wait()
        finally:
            timer.cancel()
            child.kill()
            child.communicate()
        if settled < len(jobs) and deadline.left():  # it died by itself
            errors.seek(0)
            lines = [text for text in errors.read().splitlines() if text.strip()]
            why = lines[-1][:200] if lines else f"its process ended with {child.returncode}"
            # Where it did not even start, none of the others would.
            for job in jobs[settled:] if not begun and not settled else jobs[settled : settled + 1]:
                record.add(str(job), {"failed": why}, where)
                settled += 1
    return settled


# ---- Reproductions -----------------------------------------------------------------------------


def reproduce(deadline: Deadline, output: Path, runs: Path, more: list[str], tiny: bool) -> None:
    """Trains the pieces in their order until the time is over.

    Raises:
      UserError: a run refused its flags.
    """
    path = output / "on_gpu_reproduce.json"
    known = read(path, "pieces")
    for piece in gpu_pieces.pieces(tiny):
        workdir = runs / piece.name
        entry: dict[str, Any] = known.get(piece.name, {"name": piece.name, "title": piece.title})
        known[piece.name] = entry
        if deadline.left() > LEAST_S and not (workdir / "result.json").exists():
            train(piece, workdir, more, deadline)
            entry["commit"] = provenance.commit()
        entry |= gpu_pieces.progress(workdir)
        if entry["status"] == "finished":
            write(output / f"gpu_{piece.name}.json", gpu_pieces.result(piece, workdir))
        write(path, {"pieces": list(known.values())})
        print(f"{piece.name}: {entry['status']}", flush=True)


def train(piece: gpu_pieces.Piece, workdir: Path, more: list[str], deadline: Deadline) -> None:
    """Trains one piece, which saves and leaves when the time is over.

    Raises:
      UserError: it refused its flags.
    """
    workdir.parent.mkdir(parents=True, exist_ok=True)
    log = workdir.with_suffix(".log")
    with log.open("a", encoding="utf-8") as lines:
        process = subprocess.Popen(
            gpu_pieces.command(piece, workdir, more), cwd=ROOT, stdout=lines, stderr=lines
        )
        try:
            process.wait(deadline.left() - SAVING_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SAVING_S)
            except subprocess.TimeoutExpired:
                print(f"{piece.name} did not save in time: it goes on from its last checkpoint")
        finally:
            process.kill()
            process.wait()
    if process.returncode == 2:
        last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1]
        raise UserError(f"{piece.name}: {one_line(last)}")


# ---- Command line ------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    """Does what the command line asks for."""
    parser = command_line.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--part", choices=("check", "reproduce"), required=True)
    parser.add_argument("--seconds", type=float, required=True, help="the time limit")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal, at small sizes")
    parser.add_argument("--output", type=Path, default=ROOT / "results", help="default: results/")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "on_gpu", help="work dirs")
    parser.add_argument("--data_dir", default="", help="of prepared data, for reproduce")
    parser.add_argument("--backend", default="", help="model.backend of reproduce, such as kernel")
    parser.add_argument("--from", dest="source", type=Path, help="a folder of packed runs")
    parser.add_argument("--to", dest="target", type=Path, help="the folder to pack runs into")
    args = parser.parse_args(argv)
    if not 0 < args.seconds < math.inf:
        parser.error("--seconds must be above 0")
    if args.part == "check" and (args.data_dir or args.backend or args.source or args.target):
        parser.error("--data_dir, --backend, --from and --to are for --part=reproduce")
    deadline = Deadline(args.seconds)
    if args.part == "check":
        check(deadline, args.output, args.tiny)
        return
    if args.source:
        gpu_pieces.unpack(args.source, args.runs)
    more = [f"--config.data.data_dir={args.data_dir}"] if args.data_dir else []
    more += [f"--config.model.backend={args.backend}"] if args.backend else []
    try:
        reproduce(deadline, args.output, args.runs, more, args.tiny)
    finally:
        if args.target:
            gpu_pieces.pack(args.runs, args.target)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"on_gpu: error: {error}", file=sys.stderr)
        sys.exit(2)
