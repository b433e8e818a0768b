"""What `devices.deterministic` costs and buys on a GPU: a training step with it and without.

    python scripts/bench_deterministic.py configs/urlstm_pmnist.py configs/hdetach_mnist.py:H11
    python scripts/bench_deterministic.py configs/urlstm_pmnist.py --config.num_seeds=5

The training step is that of `lrd_jax.main`, on noise in the place of the data. For each config four
processes take turns, two with the key and two without. The table has the time of a step (the
median over turns; the better process), the time to compile, and whether the two processes had the
same parameters, to the bit, after the same steps: what a resumed run needs, which is another
process than the one that it goes on from. On a CPU the key changes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import bench_worker  # noqa: E402

from lrd_jax.config import checks, command_line  # noqa: E402
from lrd_jax.errors import UserError, one_line  # noqa: E402


class Job(NamedTuple):
    """A contender.

    Attributes:
      config: FILE.py or FILE.py:ARGUMENT.
      overrides: `--config.KEY=VALUE`.
      deterministic: as in `devices.deterministic`.
      process: 1 or 2, which do the same.
      steps: training steps before the parameters are compared.
    """

    config: str
    overrides: list[str]
    deterministic: bool
    process: int
    steps: int


def load(spec: str, overrides: list[str]) -> Any:
    """The config with its overrides.

    Raises:
      UserError: one of them is wrong.
    """
    words = ["bench_deterministic", f"--config={spec}", *overrides]
    config = command_line.parse_flags(words, flags.FlagValues()).config
    checks.validate(config)
    return config


def work(job: Job) -> None:
    """Answers each number on stdin, of training steps, with a line of JSON on stdout."""
    answer = bench_worker.answers()
    config = load(job.config, job.overrides)
    config.devices.deterministic = job.deterministic
    from lrd_jax.runtime import devices

    devices.configure(config)

    import jax

    from lrd_jax.data.stand_in import make_stand_in
    from lrd_jax.reporting import provenance
    from lrd_jax.training.program import make_program

    program = make_program(config, make_stand_in(config))
    state = program.init()
    batches = [program.batch(step) for step in range(2)]

    def train(count: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for step in range(count):
            state = program.train_step(state, batches[step % 2])
        jax.block_until_ready(state)
        return time.perf_counter() - start

    compile_s = train(1)
    train(job.steps - 1)
    digest = hashlib.sha256()
    for leaf in jax.device_get(jax.tree.leaves(state.params)):
        digest.update(leaf.tobytes())
    answer(
        compile_s=compile_s,
        parameters=digest.hexdigest(),
        device=provenance.device_description(),
        versions=provenance.versions(),
    )
    for line in sys.stdin:
        answer(step_s=train(int(line)) / int(line))


def measure(jobs: list[Job], turns: int, turn_seconds: float) -> list[dict[str, Any]]:
    """Lets the contenders of a config take turns; returns their records."""
    workers: list[bench_worker.Worker] = []
    try:
        for job in jobs:  # one after the other, so that each compiles alone
            workers.append(worker := bench_worker.Worker(__file__, job))
            worker.record.update(worker.ask(), step_s=[])
        steps = 1
        for turn in range(turns + 1):
            for worker in workers:
                if worker.failed:
                    continue
                answer = worker.ask(str(steps))
                if turn and answer:  # the first one only says how many steps fill a turn
                    worker.record["step_s"].append(answer["step_s"])
                elif answer and worker is workers[0]:
                    steps = max(1, round(turn_seconds / answer["step_s"]))
                worker.pause()
        return [worker.record for worker in workers]
    finally:
        for worker in workers:
            worker.close()


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The line of the table for one config and one value of the key, of its two processes."""
    errors = [record["error"] for record in records if "error" in record]
    first, second = records
    return {
        "config": first["config"],
        "deterministic": first["deterministic"],
        "step_s": None if errors else min(statistics.median(r["step_s"]) for r in records),
        "compile_s": None if errors else min(r["compile_s"] for r in records),
        "same": None if errors else first["parameters"] == second["parameters"],
        **({"error": errors[0]} if errors else {}),
    }


def line(summary: dict[str, Any]) -> str:
    """A line of the table."""
    name = f"{command_line.config_name(summary['config']):<28}"
    name += f" deterministic={str(summary['deterministic']).lower():<5} "
    if "error" in summary:
        return name + f" failed: {summary['error']}"
    same = "the same" if summary["same"] else "other"
    return (
        f"{name} {summary['step_s'] * 1e3:9.3f} ms a step, compiled in"
        f" {summary['compile_s']:.1f} s, {same} parameters in another process"
    )


def main(argv: list[str]) -> None:
    """Runs what the command line asks for."""
    parser = command_line.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="as for lrd_jax.main")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--turn-seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=20, help="before parameters are compared")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options, overrides = parser.parse_known_args(argv)
    if wrong := [word for word in overrides if not re.match(r"--(no)?config\.", word)]:
        raise UserError(f"unexpected argument {wrong[0]!r}: see --help")
    if options.turns < 1 or options.steps < 1 or options.turn_seconds <= 0:
        raise UserError("--turns and --steps must be at least 1, --turn-seconds above 0")
    for spec in options.configs:
        load(spec, overrides)
    records, table = [], []
    for spec in options.configs:
        jobs = [
            Job(spec, overrides, deterministic, process, options.steps)
            for process in (1, 2)
            for deterministic in (True, False)
        ]
        found = measure(jobs, options.turns, options.turn_seconds)
        records += found
        for pair in (found[0::2], found[1::2]):
            table.append(summarise(pair))
            print(line(table[-1]), flush=True)
    if options.output:
        result = bench_worker.result(__file__, records, table)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written to {options.output}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Job(**json.loads(sys.argv[2])))
    else:
        try:
            main(sys.argv[1:])
        except UserError as error:
            print("bench_deterministic: error:", one_line(str(error)), file=sys.stderr)
            sys.exit(2)
