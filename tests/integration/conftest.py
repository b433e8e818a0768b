"""The real command line, in a process and an environment of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrd_jax.reporting.writers import TIMING_KEYS, read_metrics

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """Starts `python -m lrd_jax.main` on tiny digits."""

    def __init__(self, digits_dir, home, cache):
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "JAX_PLATFORMS": "cpu",
            # Nothing may reach the network: data must be there, or be refused.
            "HTTP_PROXY": "http://127.0.0.1:9",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        }
        self._cache = {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA tells of machine features that do not matter here
        }
        self.tiny = (
            "--config=configs/urlstm_pdigits.py:quick",
            f"--config.data.data_dir={digits_dir}",
            "--config.data.pixels_per_step=8",
            "--config.model.hidden_size=8",
            "--config.devices.cpu_devices=2",
        )

    def start(self, *arguments, cache=True, launcher=("-m", "lrd_jax.main"), env=None, **options):
        """Starts a run; `cache=False` compiles everything anew."""
        pipes = {"stdin": subprocess.DEVNULL} | dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [sys.executable, *launcher, *map(str, arguments)],
            cwd=ROOT,
            env=self._env | (self._cache if cache else {}) | (env or {}),
            text=True,
            **pipes | options,
        )

    def run(self, *arguments, status=0, timeout=300, **options):
        """Runs to the end; returns what went to stdout and to stderr."""
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == status, err
        assert "Traceback" not in err
        return out, err

    def train(self, workdir, *overrides, **options):
        """Trains the tiny run in a work directory."""
        flags = [f"--config.{override}" for override in overrides]
        return self.run(*self.tiny, f"--workdir={workdir}", *flags, **options)

    def evaluate(self, workdir, *overrides, **options):
        flags = [f"--config.{override}" for override in overrides]
        return self.run(self.tiny[0], "--mode=eval", f"--workdir={workdir}", *flags, **options)

    def refuse(self, *arguments, **options):
        """Checks that the program refuses in one line with status 2; returns the line."""
        out, err = self.run(*arguments, status=2, **options)
        return the_line(out, err)


def the_line(out, err, prefix="lrd_jax: error: "):
    """Checks that one line went to stderr, and nothing else anywhere; returns it."""
    assert out == ""
    assert err.startswith(prefix) and err.count("\n") == 1 and err.endswith("\n"), err
    return err


@pytest.fixture(scope="session")
def program(digits_dir, tmp_path_factory):
    return Program(digits_dir, tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("cache"))


class Preloaded:
    """Refusals of programs that run in forks of a Python which has loaded JAX; see `preloaded`."""

    def __init__(self, program, folder):
        self._folder = folder
        # Restarting with huge pages would start the wrong Python.
        env = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
        self._process = program.start(
            launcher=("-W", "ignore", "-m", "tests.integration.preloaded"),
            stdin=subprocess.PIPE,
            env=env,
        )

    def refuse(self, *arguments, prefix="lrd_jax: error: ", **program):
        """As `Program.refuse`, for a `module` or a `script`."""
        out, err = self._folder / "out", self._folder / "err"
        job = {"arguments": arguments, "out": str(out), "err": str(err)} | program
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        assert status == 2, err.read_text()
        return the_line(out.read_text(), err.read_text(), prefix)

    def close(self):
        self._process.communicate(timeout=60)


@pytest.fixture(scope="session")
def preloaded(program, tmp_path_factory):
    preloaded = Preloaded(program, tmp_path_factory.mktemp("preloaded"))
    yield preloaded
    preloaded.close()


def wait_for(condition, process, seconds=120):
    """Waits until a condition holds while a process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def reached(workdir, step, split="train"):
    """A condition for `wait_for`: the metrics of a step are on disk."""

    def condition():
        path = workdir / "metrics.jsonl"
        records = read_metrics(path) if path.exists() else []
        return any(r["step"] >= step and r["split"] == split for r in records)

    return condition


def without_timing(record):
    return {key: value for key, value in record.items() if key not in TIMING_KEYS}


def outcome(workdir):
    """All that must be equal in two equal runs: metrics, result, and every leaf of the state."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    result = json.loads((workdir / "result.json").read_text())
    extra = workdir / "checkpoints" / str(result["steps"]) / "extra" / "metadata"
    return {
        "metrics": [without_timing(record) for record in records],
        "result": {k: v for k, v in without_timing(result).items() if k != "commit"},
        "state": json.loads(extra.read_text())["sha256"],
    }


def snapshot(folder):
    """Every file of a folder with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cut_files(folder):
    """Cuts every file of a folder short."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[:20])
