"""Contenders of a benchmark, each in a process of its own that answers lines with JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lrd_jax.errors import UserError
from lrd_jax.reporting import provenance, published

ROOT = Path(__file__).resolve().parent.parent


def answers() -> Callable[..., None]:
    """In the contender's process: takes stdout for the answers alone.

    Returns:
      `answer(**values)`, which sends one. Whatever a library prints goes to stderr.
    """
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=stream, flush=True)

    return answer


class Worker:
    """A contender's process and what it has answered.

    Attributes:
      record: the job, its results, and `error` once the process has died.
    """

    def __init__(self, script: str, job: NamedTuple) -> None:
        """Starts `script --worker <job as JSON>`."""
        self.record: dict[str, Any] = job._asdict()
        # Not a pipe, which would fill up where nobody reads.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, script, "--worker", json.dumps(self.record)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            # Huge pages for everybody, as `lrd_jax.main` gives them to training.
            env={
                "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
                **os.environ,
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            },
        )

    @property
    def failed(self) -> bool:
        """Whether the process has died; its other turns are to be skipped."""
        return "error" in self.record

    def ask(self, question: str = "") -> dict[str, Any]:
        """Sends a line and waits for the answer; {} and a failure noted if there is none."""
        assert self._process.stdin and self._process.stdout
        try:
            if question:
                print(question, file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            self._errors.seek(0)
            lines = [line for line in self._errors.read().splitlines() if line.strip()]
            status = self._process.wait()
            self.record["error"] = lines[-1][:200] if lines else f"ended with status {status}"
            return {}

    def pause(self) -> None:
        """Lets the threads of whoever had the last turn end; PyTorch's spin for a while."""
        time.sleep(0.3)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def result(
    script: str, records: list[dict[str, Any]], goals: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a file in `results/` holds: the records and where they come from.

    Args:
      script: `__file__` of the benchmark.
      records: of all contenders; `device` and `versions` move out of them.
      goals: from them.
    """
    devices = sorted({record.pop("device") for record in records if "device" in record})
    versions: dict[str, str] = {}
    for record in records:
        versions |= record.pop("versions", {})
    content = {
        "command": ["python", f"scripts/{Path(script).name}", *sys.argv[1:]],
        "date": time.strftime("%Y-%m-%d"),
        "devices": devices,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "nproc": os.environ.get("NPROC", ""),  # size of XLA's pool on a CPU, where it was set
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        "versions": versions,
        "commit": provenance.commit(),
    }
    return published.stamp(content) | {"goals": goals, "records": records}


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where a benchmark's numbers go."""
    parser.add_argument("--output", type=Path, help="the JSON; default in runs/")
    parser.add_argument(
        "--publish", action="store_true", help="write results/ as well, of a clean commit alone"
    )


def check_output(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with status 2 where what is asked for could not be written in the end."""
    try:
        if options.publish:
            published.check_checkout()
        if options.output and (ROOT / "results") in options.output.resolve().parents:
            raise UserError("results/ is written by --publish alone: choose another --output")
    except UserError as error:
        parser.error(str(error))


def save(content: dict[str, Any], name: str, options: argparse.Namespace) -> list[Path]:
    """Writes what `result` made; returns the files, for a figure beside each of them.

    Args:
      content: see `result`.
      name: without suffix.
      options: of `add_output`.
    """
    paths = [(options.output or ROOT / "runs" / name).with_suffix(".json")]
    if options.publish:
        published.check_publishable(content)
        paths.append(ROOT / "results" / f"{name}.json")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(published.to_json(content), encoding="utf-8")
    return paths
