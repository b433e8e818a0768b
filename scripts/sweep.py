"""Searches over any keys of a config, a run of the command line for each trial.

    python scripts/sweep.py --config=configs/urlstm_pdigits.py --vary model.hidden_size=32,64,128
    python scripts/sweep.py --config=configs/urlstm_pdigits.py --vary model.hidden_size=32,64,128 \
        --vary optim.learning_rate=log:1e-4:1e-2 --trials=20 --config.num_seeds=3

`--vary KEY=A,B,C` lists values; `lin:LOW:HIGH` and `log:LOW:HIGH` are ranges (of whole numbers for
a key that is one). Lists alone are tried in every combination; with a range among them, or with
`--sampler=tpe`, Optuna's TPE sampler chooses.
Any `--config.KEY=VALUE` holds for every trial.
What the component of a trial does not know (`model.gates` of an LSTM) is left out of it; trials
that would be the same model are refused. Learning rate, clip norm, weight decay and h-detach's
probabilities are swept faster inside one program, by `--config.sweep.*`.

A trial is scored by the best validation value of `--metric` (the mean over seeds), in the direction
that the metric declares; without it, by what chooses the best step. One that fails, by NaN for
instance, is recorded as failed. Every trial keeps its work directory in `--out`, beside
`sweep.json`, `sweep.png` and the journal. Stopped or killed, the same command goes on where it was,
in the middle of a trial too; `--trials` may be raised.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

from sweep_arguments import (  # noqa: E402
    Varied,
    known_words,
    parse_arguments,
    parse_varied,
    trial_config,
)
from sweep_trials import open_study, run, wait_until_free  # noqa: E402

from lrd_jax.config.paths import split_spec  # noqa: E402
from lrd_jax.errors import Interrupted, RunError, UserError  # noqa: E402
from lrd_jax.metrics import Metric, declarations, declared  # noqa: E402
from lrd_jax.reporting import provenance  # noqa: E402
from lrd_jax.reporting.comparison import difference_text, differences  # noqa: E402
from lrd_jax.reporting.plots import plot_sweep  # noqa: E402
from lrd_jax.reporting.results import read_result  # noqa: E402
from lrd_jax.reporting.summary import seeds_with_value, value_over  # noqa: E402
from lrd_jax.reporting.tensorboard import write_hparams  # noqa: E402
from lrd_jax.reporting.workdir import work_directory, write_atomically  # noqa: E402
from lrd_jax.runtime import interrupts, terminal  # noqa: E402

__all__ = ["Sweep", "known_words", "main", "parse_arguments", "parse_varied", "table"]

optuna: Any = None
with contextlib.suppress(ImportError):  # told in one line, after the arguments were checked
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


# ---- Trials -----------------------------------------------------------------------------------


class Sweep:
    """The trials of one folder, the finished ones and those to come."""

    def __init__(self, arguments: argparse.Namespace, varied: list[Varied]) -> None:
        """Opens the journal.

        Raises:
          UserError: the folder belongs to another sweep.
        """
        self.arguments, self.varied, self.out = arguments, varied, arguments.out
        self.metric: Metric | None = None  # of the first run, which declares it
        self._told: set[tuple[str, str]] = set()  # what is left out is said once
        self.study = open_study(self.out / "journal.log")
        self._check_same()
        self.wanted = arguments.trials
        if arguments.sampler == "grid":  # queued in the journal: a trial takes the first that waits
            points = list(itertools.product(*(v.choices for v in varied)))
            self.wanted = min(arguments.trials or len(points), len(points))
            for values in points:
                point = {v.key: value for v, value in zip(varied, values, strict=True)}
                self.study.enqueue_trial(point, skip_if_exists=True)

    def _check_same(self) -> None:
        """Raises UserError where the folder belongs to another sweep; keeps new settings."""
        before = self.study.user_attrs.get("settings")
        if before and not self.arguments.metric:
            self.arguments.metric = before.get("metric", "")
        settings = {
            "config": self.arguments.config,
            "vary": self.arguments.vary,
            "overrides": self.arguments.overrides,
            "metric": self.arguments.metric,
            "seed": self.arguments.seed,
            "sampler": self.arguments.sampler,
        }
        if before is None:
            self.study.set_user_attr("settings", settings)
        elif changed := [key for key in settings if settings[key] != before.get(key)]:
            raise UserError(
                f"{self.out} belongs to another sweep ({', '.join(changed)} differ): choose"
                " another --out"
            )

    def next_trial(self) -> Any:
        """The trial that was under way when the sweep ended, else a new one, None at the end."""
        states = optuna.trial.TrialState
        begun = self.study.get_trials(states=[states.RUNNING])
        done = self.study.get_trials(states=[states.COMPLETE, states.FAIL])
        number = begun[0].number if begun else len(done)
        # A sampler's own generator starts anew with each process: keyed by the trial, it proposes
        # the same values whether or not the sweep was interrupted.
        self.study.sampler = optuna.samplers.TPESampler(seed=self.arguments.seed + number)
        if begun:
            trial = optuna.trial.Trial(self.study, begun[0]._trial_id)  # there is no public way
        elif len(done) < self.wanted:
            trial = self.study.ask()
        else:
            return None
        for v in self.varied:
            v.suggest(trial)
        return trial

    def run(self, trial: Any) -> None:
        """Runs a trial to its end, and notes what came out.

        Raises:
          UserError: the program refused the first trial, so the fault is not in its values.
          Interrupted: the trial saved, and will go on.
        """
        name = f"trial_{trial.number:04d}"
        values = self._values(trial)
        print(f"{name}:", *(value.removeprefix("--config.") for value in values), flush=True)
        wait_until_free(self.out / name)
        words, left_out = known_words(self.arguments, values)
        for key, reason in left_out.items():
            if (key, reason) not in self._told:
                print(f"{key} is left out: {reason}", flush=True)
            self._told.add((key, reason))
        log = self.out / f"{name}.log"
        status = self._start(name, words)
        if status == 0:
            result = self._result(name)
            metric, value = self._metric_of(result), self._score(result)
            if value is not None:
                # A study of an earlier version may minimise.
                down = self.study.direction == optuna.study.StudyDirection.MINIMIZE
                self.study.tell(trial, -metric.better(value) if down else metric.better(value))
                folder = self.out / name / "tensorboard"
                folder = folder / "seed_mean" if len(result["seeds"]) > 1 else folder
                if folder.is_dir():
                    write_hparams(folder, trial.params, result["best"]["valid"])
                shown = value_over(metric, [run["best"]["valid"] for run in _seeds(result)])
                print(f"{name}: {metric.labelled(shown)} ({_count(result)})", flush=True)
                return
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        error = (lines or [f"ended with status {status}"])[-1]
        error = error.removeprefix("lrd_jax: error: ")
        complete = self.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        if status == 2 and not complete:
            raise UserError(error)
        trial.set_user_attr("error", error)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        print(f"{name}: failed: {error}", flush=True)

    def bring_back(self) -> None:
        """Has trials that are complete write their results again where these are missing."""
        for trial in self.study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
            name = f"trial_{trial.number:04d}"
            if not (self.out / name / "result.json").exists():
                print(f"{name}: its result.json is missing, and is made again", flush=True)
                wait_until_free(self.out / name)
                self._start(name, known_words(self.arguments, self._values(trial))[0])

    def _values(self, trial: Any) -> list[str]:
        return [f"--config.{v.key}={trial.params[v.key]}" for v in self.varied]

    def _start(self, name: str, words: Sequence[str]) -> int:
        """Runs the program of a trial to its end; returns its status."""
        spec, colon, argument = split_spec(self.arguments.config)
        command = [
            *(sys.executable, "-m", "lrd_jax.main"),
            f"--config={Path(spec).resolve()}{colon}{argument}",
            f"--workdir={(self.out / name).resolve()}",
            *words,
        ]
        status = run(command, self.out / f"{name}.log")
        if status > 128:
            raise Interrupted(status - 128)
        return status

    # ---- What came out ------------------------------------------------------------------------

    def _result(self, name: str) -> dict[str, Any]:
        return read_result(self.out / name / "result.json")

    def _metric_of(self, result: dict[str, Any]) -> Metric:
        """The metric that scores, as the run declared it."""
        known = declared(result, result["best"]["valid"])
        wanted = self.arguments.metric or next(iter(known))
        name = wanted.removeprefix("-")  # written so where less is better, before runs said so
        if name not in known:
            raise UserError(
                f"the runs have no validation metric {name!r}: give --metric as one of"
                f" {', '.join(known)}"
            )
        if wanted != name and known[name].higher_is_better:
            raise UserError(f"--metric={wanted}: of {name} more is better, leave out the minus")
        self.metric = known[name]
        return self.metric

    def _score(self, result: dict[str, Any]) -> float | None:
        return result["best"]["valid"][self._metric_of(result).name]

    def record(self) -> dict[str, Any]:
        """What `sweep.json` holds: how the sweep was made, and its trials, the best one first."""
        trials: list[dict[str, Any]] = []
        device = ""
        states = optuna.trial.TrialState
        for trial in self.study.get_trials(states=[states.COMPLETE, states.FAIL]):
            name = f"trial_{trial.number:04d}"
            entry = {"workdir": name, "values": trial.params, "score": None}
            if trial.state == states.COMPLETE:
                result = self._result(name)
                entry["score"], device = self._score(result), result["device"]
                kept = ("best", "test", "statistics", "steps", "wall_time_s")
                entry |= {key: result[key] for key in kept if key in result}
                entry["seeds"] = _seeds(result)
            else:
                entry["error"] = trial.user_attrs["error"]
            trials.append(entry)
        metric = self.metric

        def rank(trial: dict[str, Any]) -> float:
            if metric is None or trial["score"] is None:
                return -math.inf
            return metric.better(trial["score"])

        trials.sort(key=rank, reverse=True)
        for trial in trials[1:]:
            if metric and trial["score"] is not None:
                found = differences(trials[0]["seeds"], trial["seeds"], [metric])
                trial["difference"] = {"to": trials[0]["workdir"], "test": found}
        config = trial_config(self.arguments)
        return {
            "command": ["python", "scripts/sweep.py", *sys.argv[1:]],
            "metric": metric.name if metric else self.arguments.metric,
            "metrics": declarations([metric]) if metric else {},
            "sampler": self.arguments.sampler,
            "seed": self.arguments.seed,
            "vary": {v.key: v.describe() for v in self.varied},
            "config": config.to_dict(),
            "device": device,
            "cores": os.cpu_count(),
            "versions": provenance.versions() | {"optuna": optuna.__version__},
            "commit": provenance.commit(),
            "trials": trials,
        }


def _seeds(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What a run says of each seed, in a sweep of its own those of the best value."""
    seeds = [
        run for run in result.get("seeds", []) if run.get("sweep", {}) == result.get("sweep", {})
    ]
    return seeds or [{"seed": 0, "best": result["best"], "test": result["test"]}]


def _count(result: dict[str, Any]) -> str:
    count = seeds_with_value([run["test"] for run in _seeds(result)])
    return "1 seed" if count == "1" else f"{count} seeds"


def table(record: dict[str, Any]) -> str:
    """The trials as Markdown, the best one first.

    The difference is that of the test scores to the best trial's, paired by seed where they share.
    """
    keys = list(record["vary"])
    metric = declared(record, [record["metric"]])[record["metric"]]
    name = metric.name
    lines = [
        f"| trial | {' | '.join(keys)} | seeds | valid {name} | test {name} | test, minus the best"
        " trial's | best step | seconds |",
        "|---" * (len(keys) + 7) + "|",
    ]
    for trial in record["trials"]:
        values = [trial["values"][key] for key in keys]
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        rest = ["", trial.get("error", "failed"), "", "", "", ""]
        if trial["score"] is not None:
            valid, test = (
                [run["best"]["valid"] for run in trial["seeds"]],
                [run["test"] for run in trial["seeds"]],
            )
            other = trial.get("difference", {}).get("test", {}).get(name)
            rest = [
                seeds_with_value(test),
                value_over(metric, valid, interval=True),
                value_over(metric, test, interval=True),
                difference_text(metric, other) if other else "",
                str(trial["best"]["step"]),
                f"{trial['wall_time_s']:.1f}",
            ]
        lines.append(f"| {' | '.join([trial['workdir'], *shown, *rest])} |")
    return "\n".join(lines)


def _interrupt(signum: int, _: Any) -> None:
    raise Interrupted(signum)


def main(argv: list[str]) -> None:
    """Runs what the command line asks for."""
    arguments, varied = parse_arguments(argv, __doc__)
    if optuna is None:
        raise UserError("sweeps need Optuna, which is not installed: pip install lrd-jax[sweep]")
    interrupts.handle(_interrupt)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(work_directory(arguments.out))
        except UserError as error:
            raise UserError(str(error).replace("--workdir", "--out")) from error
        sweep = Sweep(arguments, varied)
        sweep.bring_back()
        while (trial := sweep.next_trial()) is not None:
            sweep.run(trial)
            write_atomically(
                arguments.out / "sweep.json", json.dumps(sweep.record(), indent=1) + "\n"
            )
        record = sweep.record()
        print(f"\n{table(record)}\n\nwritten to {arguments.out / 'sweep.json'}")
        if all(trial["score"] is None for trial in record["trials"]):
            raise RunError("every trial failed; their .log files say why")
        try:
            print(f"plot in {plot_sweep(record, arguments.out / 'sweep.png')}")
        except UserError as error:
            print(f"no plot: {error}")


if __name__ == "__main__":
    terminal.be_courteous()
    try:
        main(sys.argv[1:])
    except (UserError, RunError) as error:
        print("sweep: error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except Interrupted as error:
        print("sweep: stopped; the same command goes on", file=sys.stderr)
        sys.exit(128 + error.signum)
