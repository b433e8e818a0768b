"""From start to first step, with and without `devices.compilation_cache`.

    python scripts/bench_start.py                  # some minutes on two quiet cores
    python scripts/bench_start.py --repeats=1 --configs configs/urlstm_pdigits.py:quick

Each repeat starts `python -m lrd_jax.main` three times, in turns: without a cache, with an empty
one ("first start"), and with what that one left ("second start"). Measured is the time from the
start of the process to the first line of `metrics.jsonl`, of step 1: Python, JAX, data, compiling,
one step. The process is then killed. Ratios are of two starts of the same repeat, and their
median counts.

Writes `results/bench_start_<device>.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import bench_worker  # noqa: E402

CONFIGS = ("configs/urlstm_pdigits.py", "configs/recall_mqar.py:64-4")
STARTS = ("without", "first", "second")
_LONGEST_S = 600


def start(config: str, data_dir: pathlib.Path, cache: pathlib.Path | None) -> tuple[float, int]:
    """Starts a run and kills it after its first step.

    Args:
      config: value of `--config`.
      data_dir: where its data are.
      cache: value of `devices.compilation_cache`, None = off.

    Returns:
      Seconds to the first step, and how many files the cache holds then.

    Raises:
      RuntimeError: the run ended, or took ten minutes, without a step.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir, errors = pathlib.Path(folder) / "run", pathlib.Path(folder) / "err"
        keys = {"data.data_dir": data_dir, "train.log_every_steps": 1}
        if cache is not None:
            keys["devices.compilation_cache"] = cache
        command = [sys.executable, "-m", "lrd_jax.main", f"--config={config}"]
        command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in keys.items())]
        own = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        with errors.open("w", encoding="utf-8") as stream:
            began = time.monotonic()
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stream
            )
            try:
                metrics = workdir / "metrics.jsonl"
                while not (metrics.exists() and metrics.stat().st_size):
                    if process.poll() is not None or time.monotonic() - began > _LONGEST_S:
                        raise RuntimeError(errors.read_text(encoding="utf-8", errors="replace"))
                    time.sleep(0.01)
                seconds = time.monotonic() - began
            finally:
                process.kill()
                process.wait()
        return seconds, len(list(cache.iterdir())) if cache is not None and cache.exists() else 0


def measure(config: str, repeats: int, data_dir: pathlib.Path) -> dict[str, Any]:
    """Starts a config again and again; returns all seconds, by kind of start."""
    start(config, data_dir, None)  # prepares the data, and brings everything into memory
    seconds: dict[str, list[float]] = {kind: [] for kind in STARTS}
    files = 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for kind in STARTS:
                cache = None if kind == "without" else pathlib.Path(folder) / "cache"
                taken, files = start(config, data_dir, cache)
                seconds[kind].append(taken)
    return {"config": config, "seconds": seconds, "files": files, **ratios(seconds)}


def ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Returns medians, and the ratios of each repeat against its start without a cache."""
    result: dict[str, Any] = {"median_s": {k: statistics.median(v) for k, v in seconds.items()}}
    for kind in STARTS[1:]:
        each = [a / b for a, b in zip(seconds[kind], seconds["without"], strict=True)]
        result[f"{kind}_over_without"] = {
            "each": each,
            "median": statistics.median(each),
            "least": min(each),
            "most": max(each),
        }
    return result


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data_dir", type=pathlib.Path, help="default: a temporary folder")
    parser.add_argument("--output", type=pathlib.Path, help="default in results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = [
            measure(config, options.repeats, options.data_dir or pathlib.Path(folder))
            for config in options.configs
        ]
    from lrd_jax.reporting import provenance

    device = provenance.device_description()
    records[0] |= {"device": device, "versions": provenance.versions()}  # of all
    result = bench_worker.result(__file__, records, [])
    platform = "cpu" if "(cpu)" in device else "gpu"
    output = options.output or ROOT / "results" / f"bench_start_{platform}.json"
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for record in records:
        medians = ", ".join(f"{kind} {s:.1f} s" for kind, s in record["median_s"].items())
        ratio = record["second_over_without"]
        print(
            f"{record['config']}: {medians}; second / without = {ratio['median']:.2f}"
            f" ({ratio['least']:.2f} to {ratio['most']:.2f})"
        )


if __name__ == "__main__":
    main()
