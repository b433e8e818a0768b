"""Speed of recurrent training: ours, Flax's and PyTorch's, interleaved in one run.

    python scripts/bench_recurrence.py                    # every shape: hours on two cores
    python scripts/bench_recurrence.py --quick            # two shapes, a few minutes
    python scripts/bench_recurrence.py --shapes=goal      # the three shapes with a goal
    python scripts/bench_recurrence.py --shapes=grid      # 128 to 2048 steps, 128 to 512 units
    python scripts/bench_recurrence.py --shapes=784x64x128 --contenders=ours-fused-lstm,torch-lstm

A shape is steps x batch x units; inputs have `--inputs` features. A training step is the loss of
the last state, forward and backward to all parameters; nothing is updated. The forward pass alone
keeps nothing for a gradient. The first call is timed apart: it compiles.

Every contender lives in a process of its own: JAX and PyTorch in one process would fight for the
cores, and its peak memory would be that of both. The processes of a shape are alive together and
take turns, two calls each of which the second counts, so that a disturbance hits them all; one that
waits for its turn sleeps. (Calls of seconds count from the first: warm caches are nothing to them.)
A contender's turns end after `--seconds` of work, but not before three.

Peak memory on a CPU is what the process grew by, compiling included; on a GPU, what its allocator
held at most.

On a CPU, JAX runs one device per core with the batch split over them, as training does, and PyTorch
uses all its threads with denormals flushed. On a GPU both have the whole device.

Writes `runs/bench_recurrence_<device>.json` and `.png` (`--publish`: in `results/` too), and prints
a table.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import bench_worker  # noqa: E402
from bench_contenders import CELLS, Job, work  # noqa: E402
from bench_figure import medians, plot, shape_of, yardstick  # noqa: E402
from bench_worker import Worker  # noqa: E402

from lrd_jax.reporting import provenance  # noqa: E402

GOAL_SHAPES = ((784, 64, 128), (784, 100, 100), (500, 10, 256))  # steps, batch, units
GRID = [(t, b, h) for b in (64, 128) for h in (128, 256, 512) for t in (128, 784, 2048)]
SHAPES = {
    "all": list(dict.fromkeys([*GOAL_SHAPES, *GRID])),
    "goal": list(GOAL_SHAPES),
    "grid": GRID,
    "quick": [(128, 64, 128), (784, 64, 128)],
}
CONTENDERS = (
    *(f"ours-{path}-{cell}" for cell in CELLS for path in ("fused", "scan")),
    "ours-recompute-lstm",
    "ours-bfloat16-lstm",
    "products-lstm",  # the products of ours-fused-lstm in plain scans, without its gates
    "flax-lstm",
    "torch-lstm",
    "torch-gru",
    # The loops a user of PyTorch writes: input projection hoisted, one fused product a step.
    *(f"torch_{way}-{c}" for c in ("hdetach", "urlstm") for way in ("eager", "script", "compile")),
)
QUICK = tuple(c for c in CONTENDERS if "scan" not in c and "compile" not in c)
# Goals on two CPU cores, as ratios of training-step times: contender, yardstick, per goal shape.
# A yardstick "loop" is the fastest PyTorch loop over the same cell.
GOALS = (
    ("ours-fused-lstm", "torch-lstm", (1.0, 1.0, 1.6)),
    ("ours-fused-hdetach", "torch-lstm", (1.0, 1.0, 1.6)),
    ("ours-fused-urlstm", "torch-lstm", (1.15, 1.15, 1.8)),
    ("ours-fused-urlstm", "loop", (0.5, None, 0.35)),
    ("ours-fused-hdetach", "loop", (None, 0.8, None)),
)
_LONG_S = 2.0  # a call that takes longer needs no untimed one before it


# ---- The run ---------------------------------------------------------------------------------


def start(job: Job) -> Worker:
    """Starts a contender; `<name>@<checkout>` by the script, and with the package, of another."""
    name, _, checkout = job.contender.partition("@")
    script = (
        pathlib.Path(checkout, "scripts", pathlib.Path(__file__).name) if checkout else __file__
    )
    worker = Worker(str(script), job._replace(contender=name))
    worker.record["contender"] = f"{name}@{commit_of(checkout)}" if checkout else name
    return worker


def commit_of(checkout: str) -> str:
    """The commit of another checkout, ten digits of it."""
    return provenance.commit(pathlib.Path(checkout, "lrd_jax"))[:10]


def turn(worker: Worker, seconds: float) -> bool:
    """One call of each kind, unless its time is used up. Returns whether it did something."""
    record = worker.record
    spent = sum(record["train_s"]) + sum(record["forward_s"])
    if worker.failed or (len(record["train_s"]) >= 3 and spent > seconds):
        return False
    worker.pause()
    for what in ("train", "forward"):
        if not record[f"{what}_s"] or record[f"{what}_s"][-1] < _LONG_S:
            worker.ask(what)  # untimed: an idle process may have lost its pages and caches
        if answer := worker.ask(what):
            record[f"{what}_s"].append(answer["seconds"])
    return True


def measure(jobs: list[Job], repeats: int, seconds: float) -> list[dict[str, Any]]:
    """Times the contenders of one shape in turns; returns their records."""
    workers = []
    try:
        for job in jobs:  # one after the other: compiling is timed as well
            workers.append(worker := start(job))
            worker.record.update(worker.ask(), train_s=[], forward_s=[])
        for _ in range(repeats):
            if not any([turn(worker, seconds) for worker in workers]):
                break
    finally:
        for worker in workers:
            if not worker.failed:
                worker.record.update(worker.ask("end"))
            worker.close()
    return [summary(worker.record) for worker in workers]


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Adds medians."""
    medians = {
        f"median_{what}_s": statistics.median(record[f"{what}_s"])
        for what in ("train", "forward")
        if record[f"{what}_s"]
    }
    return {**record, **medians}


def against_checkout(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of ours against the same contender of another checkout: ratios of the medians."""
    found = []
    for shape in dict.fromkeys(map(shape_of, records)):
        times = medians(records, shape)
        for twin in (name for name in times if "@" in name):
            name, _, commit = twin.partition("@")
            if name in times:
                entry = {"shape": shape, "contender": name, "commit": commit}
                found.append({**entry, "ratio": times[name] / times[twin]})
    return found


def table(records: list[dict[str, Any]]) -> str:
    """All records as Markdown: times in milliseconds, ratios of training steps."""
    lines = [
        "| T x batch x H | contender | train ms | forward ms | us/step | / torch module |"
        " / torch loop | first call s | peak MB | n |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def number(value: float, digits: int) -> str:
        return "" if math.isnan(value) else f"{value:.{digits}f}"

    for r in records:
        shape = " x ".join(map(str, shape_of(r)))
        if "median_train_s" not in r:
            lines.append(f"| {shape} | {r['contender']} | failed: {r.get('error')} |" + " |" * 7)
            continue
        train, forward = r["median_train_s"], r.get("median_forward_s", math.nan)
        module, loop = yardstick(medians(records, shape_of(r)), r["contender"])
        cells = (
            shape,
            r["contender"],
            number(1e3 * train, 1),
            number(1e3 * forward, 1),
            number(1e6 * train / r["steps"], 1),
            number(train / module, 2),
            number(train / loop, 2),
            number(r["compile_s"], 1),
            number(r.get("peak_bytes", math.nan) / 1e6, 0),
            str(len(r["train_s"])),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def goals(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals that the records speak to: ratio, goal, and whether it is met."""
    found = []
    for index, shape in enumerate(GOAL_SHAPES):
        times = medians(records, shape)
        for contender, against, limits in GOALS:
            limit = limits[index]
            module, loop = yardstick(times, contender)
            ratio = times.get(contender, math.nan) / (loop if against == "loop" else module)
            if limit is not None and not math.isnan(ratio):
                entry = {"shape": shape, "contender": contender, "against": against}
                found.append({**entry, "ratio": ratio, "goal": limit, "met": ratio <= limit})
    return found


def parse_shapes(text: str) -> list[tuple[int, int, int]]:
    """A key of `SHAPES`, or a comma list of STEPSxBATCHxUNITS."""
    if text in SHAPES:
        return SHAPES[text]
    try:
        shapes = [tuple(int(n) for n in word.split("x")) for word in text.split(",")]
        return [(t, b, h) for t, b, h in shapes]
    except ValueError:
        known = ", ".join(SHAPES)
        raise argparse.ArgumentTypeError(f"{text!r}: use {known} or e.g. 784x64x128") from None


def parse_contenders(text: str) -> list[str]:
    """A comma list of `CONTENDERS`."""
    names = text.split(",")
    if unknown := sorted(set(names) - set(CONTENDERS)):
        known = ", ".join(CONTENDERS)
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} unknown; known: {known}")
    return names


def parse_checkout(text: str) -> str:
    """The folder of a checkout, absolute."""
    path = pathlib.Path(text).expanduser().resolve()
    if not (path / "scripts" / pathlib.Path(__file__).name).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no checkout of this project")
    return str(path)


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two shapes, five turns, no scan path")
    parser.add_argument("--shapes", type=parse_shapes, help="all, goal, quick or a comma list")
    parser.add_argument("--contenders", type=parse_contenders, help="a comma list; default all")
    parser.add_argument("--repeats", type=int, help="turns of each contender at most; default 20")
    parser.add_argument("--seconds", type=float, default=30.0, help="work of each, about")
    parser.add_argument("--inputs", type=int, default=1, help="features of one time step")
    bench_worker.add_output(parser)
    parser.add_argument(
        "--checkout",
        type=parse_checkout,
        help="folder of another checkout: ours from there takes turns with ours",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(Job(**json.loads(options.worker)))
        return
    bench_worker.check_output(parser, options)

    shapes = options.shapes or SHAPES["quick" if options.quick else "all"]
    contenders = options.contenders or (QUICK if options.quick else CONTENDERS)
    repeats = options.repeats or (5 if options.quick else 20)
    records: list[dict[str, Any]] = []
    for steps, batch, units in shapes:
        print(f"{steps}x{batch}x{units} ...", file=sys.stderr, flush=True)
        names = list(contenders)
        if options.checkout:
            names += [f"{c}@{options.checkout}" for c in contenders if c.startswith("ours-")]
        jobs = [Job(name, steps, batch, units, options.inputs) for name in names]
        records += measure(jobs, repeats, options.seconds)

    config = {"repeats": repeats, "seconds": options.seconds, "inputs": options.inputs}
    result: dict[str, Any] = bench_worker.result(__file__, records, goals(records))
    result["config"] = config
    if options.checkout:
        result["against_checkout"] = against_checkout(records)
    device = " ".join(result["devices"])
    slug = "gpu" if "gpu" in device or "cuda" in device else "cpu"
    for path in bench_worker.save(result, f"bench_recurrence_{slug}", options):
        plot(records, path.with_suffix(".png"))
    print(table(records))
    for entry in result.get("against_checkout", []):
        shape = "x".join(map(str, entry["shape"]))
        print(
            f"{shape}: {entry['contender']} takes {entry['ratio']:.3f} of {entry['commit']}'s time"
        )
    for goal in result["goals"]:
        shape = "x".join(map(str, goal["shape"]))
        verdict = "met" if goal["met"] else "MISSED"
        print(
            f"{shape}: {goal['contender']} / {goal['against']} = {goal['ratio']:.2f},"
            f" goal {goal['goal']}: {verdict}"
        )


if __name__ == "__main__":
    main()
