"""Speed of many seeds in one program, and of several devices: the trainer's own compiled step.

    python scripts/bench_parallel.py                     # about ten minutes on two cores
    python scripts/bench_parallel.py --turns=3 --turn-seconds=0.3       # a first look

Two questions, each with a goal:

- `seeds`: five seeds in one program, the batch split over the devices or the seeds, against five
  runs one after the other, each on all devices; at T = 64 and 784. On a CPU at most as long as the
  five runs; on a GPU at most 1.5 times as long as one.
- `devices` (CPU alone): one run on a device a core against the best setting with one device, whose
  operations XLA spreads over the cores by itself; T = 784, batch 128. At least 1.3 times as fast.

The task is adding, whose sequences have any length; 128 units, a head of 256. A step is forward,
backward, clipping, Adam and metrics, on batches that are on the devices already; neither start nor
compilation is counted, of which five runs have five. Contenders live in processes of their own that
take turns, and medians over the turns are compared; one that waits sleeps.

Writes `results/bench_parallel_<device>.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import statistics
import sys
import time
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import bench_worker  # noqa: E402
from bench_worker import Worker  # noqa: E402

from lrd_jax.reporting import provenance  # noqa: E402

SEEDS_GOALS = {"cpu": (1.0, "five runs"), "gpu": (1.5, "one run")}
DEVICES_GOAL = 1.3


class Job(NamedTuple):
    """What one worker process trains.

    Attributes:
      question: `seeds` or `devices`.
      contender: its name in the table.
      steps: T, time steps of a sequence.
      batch: examples of a training step, for each seed.
      units: of the one layer.
      cell: as in `model.cell`.
      seeds: how many train side by side.
      split: as in `devices.split`.
      devices: as in `devices.cpu_devices`, 0 = chosen.
      threads: of XLA's pool on a CPU (`NPROC`), 0 = as `lrd_jax` sets it.
    """

    question: str
    contender: str
    steps: int
    batch: int
    units: int
    cell: str
    seeds: int = 1
    split: str = "batch"
    devices: int = 0
    threads: int = 0


def jobs_for(question: str, options: argparse.Namespace) -> list[list[Job]]:
    """The groups of contenders that take turns."""
    size = {"units": options.units, "cell": options.cell}
    if question == "seeds":
        return [
            [
                Job(question, "one run", t, 64, **size),
                Job(question, "together, batch split", t, 64, **size, seeds=options.seeds),
                Job(
                    question,
                    "together, seeds split",
                    t,
                    64,
                    **size,
                    seeds=options.seeds,
                    split="seeds",
                ),
            ]
            for t in options.lengths
        ]
    t, cores = max(options.lengths), os.cpu_count() or 1
    return [
        [
            Job(question, "a device a core", t, 128, **size),
            Job(question, "one device", t, 128, **size, devices=1),
            Job(question, "one device, a thread a core", t, 128, **size, devices=1, threads=cores),
        ]
    ]


# ---- A contender's process --------------------------------------------------------------------


def work(job: Job) -> None:
    """Answers each number on stdin, of training steps, with a line of JSON on stdout."""
    answer = bench_worker.answers()
    from configs import base
    from lrd_jax.runtime import devices

    config: Any = base.get_config()
    config.data.update(name="adding", length=job.steps, batch_size=job.batch)
    config.model.update(cell=job.cell, hidden_size=job.units)
    config.devices.update(cpu_devices=job.devices, split=job.split)
    config.num_seeds = job.seeds
    devices.configure(config)
    if job.threads:
        os.environ["NPROC"] = str(job.threads)

    import jax

    from lrd_jax.training.program import make_program

    program = make_program(config)
    state = program.init()
    batches = [program.batch(step) for step in range(2)]

    def train(count: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for step in range(count):
            state = program.train_step(state, batches[step % 2])
        jax.block_until_ready(state)
        return time.perf_counter() - start

    answer(
        compile_s=train(1),
        num_devices=program.mesh.size,
        device=provenance.device_description(),
        versions=provenance.versions(),
    )
    for line in sys.stdin:
        train(1)  # untimed: an idle process may have lost its pages and caches
        answer(seconds=train(int(line)))


def turn(worker: Worker, seconds: float) -> None:
    """Trains for about this long, and notes the seconds of a step."""
    if worker.failed:
        return
    worker.pause()
    usual = min(worker.record["step_s"], default=None) or _step_seconds(worker, 1)
    each = _step_seconds(worker, max(1, round(seconds / usual)))
    if not worker.failed:
        worker.record["step_s"].append(each)


def _step_seconds(worker: Worker, count: int) -> float:
    """Seconds a step, over this many."""
    return worker.ask(str(count)).get("seconds", math.inf) / count


# ---- The run ----------------------------------------------------------------------------------


def measure(jobs: list[Job], turns: int, seconds: float) -> list[dict[str, Any]]:
    """Times contenders in turns; returns their records with medians."""
    workers: list[Worker] = []
    try:
        for job in jobs:
            workers.append(worker := Worker(__file__, job))
            worker.record.update(worker.ask(), step_s=[])
        for _ in range(turns):
            for worker in workers:
                turn(worker, seconds)
    finally:
        for worker in workers:
            worker.close()
    for worker in workers:
        if worker.record["step_s"] and not worker.failed:
            worker.record["median_step_s"] = statistics.median(worker.record["step_s"])
    return [worker.record for worker in workers]


def goals(records: list[dict[str, Any]], platform: str) -> list[dict[str, Any]]:
    """The goals that the records speak to: ratio, limit, and whether it is met.

    Args:
      records: from `measure`.
      platform: "cpu" or "gpu", which have different goals.
    """
    found = []
    whole = [record for record in records if "median_step_s" in record]
    for steps in dict.fromkeys(record["steps"] for record in whole):
        time_of = {
            (r["question"], r["contender"]): r["median_step_s"]
            for r in whole
            if r["steps"] == steps
        }
        limit, against = SEEDS_GOALS[platform]
        for r in whole:
            if r["steps"] == steps and r["seeds"] > 1 and ("seeds", "one run") in time_of:
                yardstick = time_of["seeds", "one run"] * (r["seeds"] if platform == "cpu" else 1)
                ratio = r["median_step_s"] / yardstick
                found.append(
                    {"steps": steps, "contender": r["contender"], "against": against}
                    | {"ratio": ratio, "goal": f"<= {limit}", "met": ratio <= limit}
                )
        single = [
            seconds
            for (question, name), seconds in time_of.items()
            if question == "devices" and name.startswith("one device")
        ]
        if single and ("devices", "a device a core") in time_of:
            ratio = min(single) / time_of["devices", "a device a core"]
            found.append(
                {"steps": steps, "contender": "a device a core", "against": "best one device"}
                | {"ratio": ratio, "goal": f">= {DEVICES_GOAL}", "met": ratio >= DEVICES_GOAL}
            )
    return found


def table(records: list[dict[str, Any]]) -> str:
    """All records as Markdown."""
    lines = [
        "| T x batch x H | contender | seeds | devices | ms a step | spread | ms a seed |",
        "|---" * 7 + "|",
    ]
    for r in records:
        shape = f"{r['steps']} x {r['batch']} x {r['units']}"
        if "median_step_s" not in r:
            lines.append(f"| {shape} | {r['contender']} | failed: {r.get('error')} |" + " |" * 4)
            continue
        seconds, each = r["median_step_s"], r["step_s"]
        lines.append(
            f"| {shape} | {r['contender']} | {r['seeds']} | {r['num_devices']}"
            f" | {1e3 * seconds:.1f} | {1e3 * min(each):.1f} to {1e3 * max(each):.1f}"
            f" | {1e3 * seconds / r['seeds']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", nargs="+", choices=["seeds", "devices"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 784], metavar="T")
    parser.add_argument("--seeds", type=int, default=5, help="side by side")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--cell", default="urlstm")
    parser.add_argument("--turns", type=int, default=15, help="of each contender")
    parser.add_argument("--turn-seconds", type=float, default=2.0)
    parser.add_argument("--output", type=pathlib.Path, help="default in results/")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(Job(**json.loads(options.worker)))
        return

    records: list[dict[str, Any]] = []
    for question in options.questions or ["seeds", "devices"]:
        for jobs in jobs_for(question, options):
            print(f"{question}, T = {jobs[0].steps} ...", file=sys.stderr, flush=True)
            records += measure(jobs, options.turns, options.turn_seconds)
    on_cpu = all("(cpu)" in record.get("device", "(cpu)") for record in records)
    platform = "cpu" if on_cpu else "gpu"
    result: dict[str, Any] = bench_worker.result(__file__, records, goals(records, platform))
    output = options.output or ROOT / "results" / f"bench_parallel_{platform}.json"
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(records))
    for goal in result["goals"]:
        verdict = "met" if goal["met"] else "MISSED"
        print(
            f"T = {goal['steps']}: {goal['contender']} / {goal['against']} = {goal['ratio']:.2f},"
            f" goal {goal['goal']}: {verdict}"
        )


if __name__ == "__main__":
    main()
