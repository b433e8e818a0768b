"""Runs an experiment's variants for the same number of steps, and records what came out.

    python scripts/reproduce.py pmnist_gates --budget-minutes=60
    python scripts/reproduce.py char_shakespeare --set data.text_dir=DIR
    python scripts/reproduce.py pmnist_gates --publish   # what came out goes into results/
    python scripts/reproduce.py --table                  # prints docs/results.md from results/
    python scripts/reproduce.py --table --publish        # rewrites it and the figures

Writes `NAME.json` (config, versions, commit, device, seeds, curves) and `NAME.png` beside the work
directories in `--out`, and prints the committed numbers beside these. `--publish`, of a clean
commit alone, writes both into `results/` too, and the pages made of it. Where methods are compared
each has five seeds (`--seeds`). A budget fixes the number of steps before the first run, so that
all variants together fit into it at the speed measured beforehand; their schedules stay those of
the full length, and the table says how far they got. Interrupted, the same command continues.

An experiment with learning rates to choose from (`rates`) tries them first, all variants alike;
one with `lengths` tests what it trained at each of them, and draws that as well.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import results_page  # noqa: E402
from reproduce_experiments import EXPERIMENTS, Experiment  # noqa: E402
from reproduce_report import RESULTS, comparison, draw, redraw, rewrite_pages  # noqa: E402
from reproduce_tuning import check_rates, tested_at, tune  # noqa: E402

from lrd_jax.config import checks, command_line, record  # noqa: E402
from lrd_jax.errors import UserError, one_line  # noqa: E402
from lrd_jax.reporting import published  # noqa: E402
from lrd_jax.reporting.workdir import write_atomically  # noqa: E402
from lrd_jax.reporting.writers import read_metrics  # noqa: E402
from lrd_jax.runtime import devices, interrupts, terminal  # noqa: E402

EVAL = "--mode=eval"
_PLACES = ("data.data_dir=", "data.text_dir=", "data.path=")
SEEDS = 5  # of each method, where methods are compared


def command(
    experiment: Experiment, overrides: tuple[str, ...], workdir: Path, *more: str
) -> list[str]:
    """The command line of one run."""
    flags = [f"--config.{override}" for override in overrides]
    return [
        sys.executable,
        *("-m", "lrd_jax.main", f"--config={experiment.config}", f"--workdir={workdir}"),
        *flags,
        *more,
    ]


def _run(argv: list[str]) -> None:
    status = interrupts.call(argv, cwd=ROOT)
    if status:
        raise SystemExit(status)


def steps_for(experiment: Experiment, minutes: float) -> int:
    """Number of steps that lets every variant run one after the other within the budget.

    Args:
      experiment: what to run; its variants hold all overrides.
      minutes: wall time for all variants together.

    Returns:
      Steps, the same for all; evaluations are not counted, so a tenth is set aside for them.
    """
    seconds_per_step = 0.0
    for overrides in experiment.variants.values():
        with tempfile.TemporaryDirectory() as folder:
            probe = ("train.stop_step=40", "train.log_every_steps=20", "data.valid_split=last:64")
            workdir = Path(folder) / "probe"
            known, _, _ = applicable(experiment, (*overrides, *probe))
            _run(command(experiment, known, workdir))
            train = [r for r in read_metrics(workdir / "metrics.jsonl") if r["split"] == "train"]
            seconds_per_step += 1 / train[-1]["steps_per_s"]
    return max(1, int(0.9 * minutes * 60 / seconds_per_step))


def collect(
    name: str,
    experiment: Experiment,
    workdirs: dict[str, Path],
    tuned: dict[str, Any],
    argv: list[str],
) -> dict[str, Any]:
    """What `NAME.json` holds, see `lrd_jax.reporting.published`."""
    variants: list[dict[str, Any]] = []
    for label, workdir in workdirs.items():
        result, begun = (
            json.loads((workdir / file).read_text(encoding="utf-8"))
            for file in ("result.json", "config.json")
        )
        config: Any = record.load_workdir(workdir)
        content = config.to_dict()
        for key in ("data_dir", "text_dir", "path"):
            content["data"][key] = _portable(content["data"].get(key, ""))
        curve = [
            {key: value for key, value in line.items() if key != "epoch"}
            for line in read_metrics(workdir / "metrics.jsonl")
        ]
        variant = {"name": label, "config": content, "result": result}
        if label in tuned:
            variant["tuned"] = tuned[label]
        if experiment.lengths:
            _run(command(experiment, (f"eval.lengths={experiment.lengths}",), workdir, EVAL))
            variant["transfer"] = tested_at(workdir)
        variant["begun"] = {key: begun.get(key) for key in ("commit", "versions")}
        if experiment.context:
            _run(command(experiment, (f"eval.context={experiment.context}",), workdir, EVAL))
            scored = workdir / "eval" / f"test-context={experiment.context}.json"
            seeds = json.loads(scored.read_text(encoding="utf-8"))["seeds"]
            variant["context"] = {"tokens": experiment.context, "seeds": seeds}
        if experiment.sample:
            _run(command(experiment, experiment.sample, workdir, EVAL))
            variant["sample"] = (workdir / "eval" / "sample.txt").read_text(encoding="utf-8")
            tokens = config.data.batch_size * config.data.length
            rates = [r["steps_per_s"] for r in curve if r["split"] == "train"]
            variant["tokens_per_s"] = tokens * statistics.median(rates)
        variants.append(variant | {"curve": published.thinned(curve)})
    first = variants[0]["result"]
    return published.comparison(
        {
            "name": name,
            "title": experiment.title,
            "command": ["python", *map(_portable, argv)],
            "devices": sorted({variant["result"]["device"] for variant in variants}),
            "cores": devices.available_cores(),
            "versions": first["versions"],
            "commit": first["commit"],
            "variants": variants,
        }
    )


def check_overrides(experiment: Experiment, extra: tuple[str, ...]) -> Experiment:
    """Tries the overrides on every variant, before the first one runs for hours.

    Returns:
      The experiment, every variant with the extra overrides that its component knows; those left
      out are told.

    Raises:
      UserError: a variant would refuse them, or two variants are the same model.
    """
    variants, models, told = {}, {}, set()
    for label, overrides in experiment.variants.items():
        known, left_out, model = applicable(experiment, (*overrides, *extra))
        for key, reason in left_out.items():
            if (key, reason) not in told:
                print(f"{key} is left out: {reason}")
            told.add((key, reason))
        if model in models:
            raise UserError(f"{models[model]!r} and {label!r} are the same model with these values")
        variants[label], models[model] = known, label
    return dataclasses.replace(experiment, variants=variants)


def titled(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """The experiment with a title that says what `--set` changed; places of data are left out.

    Args:
      experiment: as it is run.
      changes: `key=value` each.
    """
    shown = [change for change in changes if not change.startswith(_PLACES)]
    if not shown:
        return experiment
    return dataclasses.replace(experiment, title=f"{experiment.title} ({', '.join(shown)})")


def applicable(
    experiment: Experiment, overrides: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, str], str]:
    """Leaves out what the chosen component does not know.

    Returns:
      The overrides that remain; key -> why, for those left out; and all that has an effect, as
      text.
    """
    config = _parsed(experiment, overrides)
    checks.validate(config)
    from lrd_jax.training import effects  # loads JAX: after what is wrong without it

    unused = effects.known_nowhere(config)
    known = tuple(o for o in overrides if o.partition("=")[0] not in unused)
    given = {override.partition("=")[0] for override in overrides}
    left_out = {key: reason for key, reason in unused.items() if key in given}
    return known, left_out, repr(sorted(effects.effective(config).items()))


def _parsed(experiment: Experiment, overrides: tuple[str, ...]) -> Any:
    argv = ["reproduce", f"--config={ROOT / experiment.config}"]
    argv += [f"--config.{override}" for override in overrides]
    return command_line.parse_flags(argv, flags.FlagValues()).config


def keep_request(folder: Path, request: dict[str, Any]) -> int:
    """The step at which a comparison that is under way stops; -1 where it is yet to begin.

    Args:
      folder: of the comparison.
      request: what the command line asks for.

    Raises:
      UserError: it was begun with another request.
    """
    path = folder / "request.json"
    if not path.exists():
        return -1
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        stop_step, begun = int(kept["stop_step"]), dict(kept["request"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): choose another --out") from error
    differing = sorted(key for key in request if begun.get(key) != request[key])
    if differing:
        was = ", ".join(f"{key} {begun.get(key)}" for key in differing)
        raise UserError(
            f"the comparison in {folder} was begun with {was}: give the same, or another --out"
        )
    return stop_step


def run_all(
    experiment: Experiment, folder: Path, request: dict[str, Any], minutes: float
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Runs every variant to its end, or to the step that is fixed for all.

    Args:
      experiment: its variants hold all overrides.
      folder: made if missing.
      request: `steps` among it, 0 = none; compared with what the comparison was begun with.
      minutes: the budget, 0 = none.

    Returns:
      Variant -> work directory; variant -> how its learning rate was chosen, {} where none was.
    """
    steps = keep_request(folder, request)
    if steps < 0:
        steps = request["steps"] or (steps_for(experiment, minutes) if minutes else 0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be made ({error.strerror}): choose another --out"
            ) from error
        # Fixed once, so that a resumed comparison stays one.
        write_atomically(
            folder / "request.json", json.dumps({"request": request, "stop_step": steps}) + "\n"
        )
    extra = (f"train.stop_step={steps}",) if steps else ()
    workdirs, tuned = _workdirs(experiment, folder), {}
    if experiment.rates:
        trials = _workdirs(experiment, folder / "tuning")
        experiment, tuned = tune(
            experiment, trials, _num_steps(experiment), lambda o, w: _run(command(experiment, o, w))
        )
    for label, overrides in experiment.variants.items():
        _run(command(experiment, (*overrides, *extra), workdirs[label]))
    return workdirs, tuned


def _num_steps(experiment: Experiment) -> dict[str, int]:
    """Steps of the whole training of every variant."""
    return {
        label: _parsed(experiment, overrides).train.num_steps
        for label, overrides in experiment.variants.items()
    }


def parse_arguments() -> Any:
    """Parses and checks the command line."""
    parser = command_line.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=sorted(EXPERIMENTS))
    parser.add_argument("--budget-minutes", type=float, default=0.0, help="0 = full length")
    parser.add_argument("--steps", type=int, default=0, help="stop every variant at this step")
    parser.add_argument(
        "--seeds", type=int, help=f"of each variant; default {SEEDS} where methods are compared"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any key")
    parser.add_argument("--out", type=Path, help="default runs/reproduce/NAME")
    parser.add_argument(
        "--publish", action="store_true", help="write results/ and its pages as well"
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="only print docs/results.md; with --publish rewrite it and the figures",
    )
    args = parser.parse_args()
    if args.name is None and not args.table:
        parser.error("name an experiment: " + ", ".join(sorted(EXPERIMENTS)))
    if args.name and args.table:
        parser.error("--table runs nothing: leave out the name, or --table")
    if args.steps < 0 or not 0 <= args.budget_minutes < math.inf:
        parser.error("--steps and --budget-minutes must be 0 or more")
    if args.steps and args.budget_minutes:
        parser.error("--steps and --budget-minutes exclude each other")
    if args.seeds is not None and args.seeds < 1:
        parser.error("--seeds must be 1 or more")
    if any(word.partition("=")[0] == "num_seeds" for word in args.set):
        parser.error("--set=num_seeds: use --seeds")
    return args


def main() -> None:
    """Does what the command line asks for."""
    args = parse_arguments()
    if args.table:
        if args.publish:
            redraw()
            rewrite_pages()
        else:
            print(results_page.page(RESULTS))
        return
    experiment = EXPERIMENTS[args.name]
    folder = (args.out or ROOT / "runs" / "reproduce" / args.name).expanduser().resolve()
    if folder == RESULTS or RESULTS in folder.parents:
        raise UserError(f"{RESULTS} is written by --publish alone: choose another --out")
    seeds = args.seeds or (SEEDS if len(experiment.variants) > 1 else 1)
    experiment = check_overrides(titled(experiment, args.set), (f"num_seeds={seeds}", *args.set))
    experiment = check_rates(experiment, args.set)
    request = {"name": args.name, "seeds": seeds, "steps": args.steps, "set": sorted(args.set)}
    request["budget_minutes"] = args.budget_minutes
    target = RESULTS / f"{args.name}.json"
    if args.publish:
        if not _all_ran(experiment, folder):
            published.check_checkout()
        results_page.page(RESULTS)  # what would be told after hours
    workdirs, tuned = run_all(experiment, folder, request, args.budget_minutes)
    found = collect(args.name, experiment, workdirs, tuned, [*map(_from_root, sys.argv)])
    path = folder / target.name
    write_atomically(path, published.to_json(found))
    plots = draw(found, path.with_suffix(".png"))
    names = " and ".join(file.name for file in plots)
    print(f"\n{comparison(target, found)}\n\nwritten to {path} and {names}")
    if args.publish:
        published.check_publishable(found)
        for file in (path, *plots):
            shutil.copyfile(file, RESULTS / file.name)
        rewrite_pages()
        print(f"published in {target}, docs/results.md and README.md")


def _all_ran(experiment: Experiment, folder: Path) -> bool:
    """Whether every variant has a result: publishing it runs nothing."""
    return all((w / "result.json").exists() for w in _workdirs(experiment, folder).values())


def _workdirs(experiment: Experiment, folder: Path) -> dict[str, Path]:
    return {label: folder / re.sub(r"\W+", "_", label).strip("_") for label in experiment.variants}


def _portable(word: str) -> str:
    """An argument or a path without what only this machine has: `data.text_dir=DIR`."""
    name, equals, value = word.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return word
    inside = path.is_relative_to(ROOT)
    return f"{name}{equals}{path.relative_to(ROOT) if inside else 'DIR'}"


def _from_root(argument: str) -> str:
    """The script's path as seen from the project."""
    path = Path(argument)
    return str(path.resolve().relative_to(ROOT)) if path.suffix == ".py" else argument


if __name__ == "__main__":
    terminal.be_courteous()
    try:
        main()
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except UserError as error:
        print(f"reproduce: error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
