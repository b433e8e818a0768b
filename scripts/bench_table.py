"""A large table made ready for training: seconds, and how much memory grows meanwhile.

    python scripts/bench_table.py                 # a million rows, a minute or two on two cores
    python scripts/bench_table.py --rows=100000

A table of a million rows (10 000 sequences of 100 steps on average, four channels, a class each) is
written as `.csv` and as `.parquet`; then, for each of the two, `python -m lrd_jax.data.prepare
sequences` runs in a process of its own, as on the command line. Its seconds are of the whole
process; its growth is the peak of its resident memory less the peak until everything was imported
(of Linux: VmHWM).

Writes `runs/bench_table_cpu.json` (`--publish`: in `results/` too).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import bench_worker  # noqa: E402

_CHANNELS, _MEAN_STEPS = 4, 100
_MOST_BYTES, _MOST_S = 1.5e9, 120.0  # what is asked for, of a million rows


def write_tables(folder: pathlib.Path, rows: int) -> dict[str, int]:
    """Writes the table in both formats; returns format -> bytes."""
    import pyarrow
    from pyarrow import csv, parquet

    rng = np.random.default_rng(0)
    count = max(2, rows // _MEAN_STEPS)
    lengths = rng.integers(_MEAN_STEPS // 2, _MEAN_STEPS * 3 // 2, count)
    lengths[-1] += rows - lengths.sum() if rows > lengths.sum() else 0
    number = np.repeat(np.arange(count), lengths)[:rows]
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    columns: dict[str, Any] = {"id": [f"s{n}" for n in number.tolist()]}
    columns["time"] = np.arange(len(number)) - starts[number]
    for channel in range(_CHANNELS):
        columns[f"x{channel}"] = rng.normal(size=len(number)).astype(np.float32)
    columns["target"] = np.array(["a", "b", "c"])[number % 3].tolist()
    table = pyarrow.table(columns)
    csv.write_csv(table, folder / "all.csv")
    parquet.write_table(table, folder / "all.parquet")
    return {ending: (folder / f"all.{ending}").stat().st_size for ending in ("csv", "parquet")}


def measure(file: pathlib.Path, data_dir: pathlib.Path) -> dict[str, Any]:
    """Prepares a table in a process of its own."""
    own = ["--from_dir", str(file), "--data_dir", str(data_dir)]
    own += ["--valid_split=0.1", "--test_split=0.1"]
    began = time.monotonic()
    process = subprocess.run(
        [sys.executable, __file__, "--worker", *own],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    seconds = time.monotonic() - began
    return json.loads(process.stdout.splitlines()[-1]) | {"seconds": seconds}


def work(arguments: list[str]) -> None:
    """In the process of its own: prepares, and prints how memory grew."""
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    from lrd_jax.data import prepare, sequence_store  # noqa: F401 (a part of the baseline)

    before = _peak()
    status = prepare.main(["sequences", *arguments])
    if status:
        sys.exit(status)
    print(json.dumps({"bytes_before": before, "bytes_grown": _peak() - before}))


def _peak() -> int:
    """Bytes; what `getrusage` tells begins with the peak of the parent process."""
    lines = pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def main() -> None:
    """Runs what the command line asks for."""
    if sys.argv[1:2] == ["--worker"]:
        return work(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    bench_worker.add_output(parser)
    options = parser.parse_args()
    bench_worker.check_output(parser, options)
    from lrd_jax.reporting import provenance

    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for ending, size in write_tables(folder, options.rows).items():
            found = measure(folder / f"all.{ending}", folder / f"prepared_{ending}")
            records.append({"format": ending, "rows": options.rows, "bytes": size, **found})
    records[0] |= {
        "device": f"{os.cpu_count()} x cpu (cpu)",
        "versions": provenance.versions(),
    }
    whole = options.rows >= 1_000_000
    goals = [
        {
            "goal": f"{record['format']}: at most {_MOST_S:.0f} s, {_MOST_BYTES / 1e9} GB more",
            "met": record["seconds"] <= _MOST_S and record["bytes_grown"] <= _MOST_BYTES,
        }
        for record in records
        if whole
    ]
    content = bench_worker.result(__file__, records, goals)
    bench_worker.save(content, "bench_table_cpu", options)
    for record in records:
        print(
            f"{record['format']}: {record['rows']:,} rows ({record['bytes'] / 1e6:.0f} MB) in"
            f" {record['seconds']:.1f} s, memory grew by {record['bytes_grown'] / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
