"""Searches over any keys of a config, a run of the command line for each trial.

    python scripts/sweep.py --config=configs/urlstm_pdigits.py --vary model.hidden_size=32,64,128
    python scripts/sweep.py --config=configs/urlstm_pdigits.py --vary model.hidden_size=32,64,128 \
        --vary optim.learning_rate=log:1e-4:1e-2 --trials=20 --config.num_seeds=3

`--vary KEY=A,B,C` lists values; `lin:LOW:HIGH` and `log:LOW:HIGH` are ranges (of whole numbers for
a key that is one). Lists alone are tried in every combination; with a range among them, or with
`--sampler=tpe`, Optuna's TPE sampler chooses. Any `--config.KEY=VALUE` holds for every trial.
Learning rate, clip norm, weight decay and h-detach's probabilities are swept faster inside one
program, by `--config.sweep.*`.

A trial is scored by its best validation metric (the mean over seeds). One that fails, by NaN for
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
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

from lrd_jax.config import (  # noqa: E402
    checks,
    command_line,
    record,
)
from lrd_jax.config.paths import split_spec  # noqa: E402
from lrd_jax.errors import Interrupted, RunError, UserError  # noqa: E402
from lrd_jax.reporting import provenance  # noqa: E402
from lrd_jax.reporting.plots import plot_sweep  # noqa: E402
from lrd_jax.runtime import interrupts  # noqa: E402
from lrd_jax.runtime.locks import lock  # noqa: E402
from lrd_jax.training.workdir import work_directory, write_atomically  # noqa: E402

optuna: Any = None
with contextlib.suppress(ImportError):  # told in one line, after the arguments were checked
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


class Varied(NamedTuple):
    """A key and where its values come from.

    Attributes:
      key: of the config, e.g. "optim.learning_rate".
      choices: values as written; empty for a range.
      scale: "lin" or "log"; "" for choices.
      low: lower end of a range.
      high: upper end.
      whole: the values are whole numbers.
    """

    key: str
    choices: tuple[str, ...] = ()
    scale: str = ""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    def suggest(self, trial: Any) -> None:
        """Has an Optuna trial choose a value; one that it already has stays."""
        log = self.scale == "log"
        if self.choices:
            trial.suggest_categorical(self.key, self.choices)
        elif self.whole:
            trial.suggest_int(self.key, int(self.low), int(self.high), log=log)
        else:
            trial.suggest_float(self.key, self.low, self.high, log=log)

    def describe(self) -> dict[str, Any]:
        """The same for JSON."""
        if self.choices:
            return {"values": self.choices}
        return {"scale": self.scale, "low": self.low, "high": self.high}

    def examples(self) -> tuple[str, ...]:
        """Values that must be legal: all choices, or the ends."""
        ends = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return self.choices or tuple(map(str, ends))


# ---- Arguments --------------------------------------------------------------------------------


def parse_varied(text: str, defaults: dict[str, Any]) -> Varied:
    """Reads the value of one `--vary`.

    Args:
      text: "KEY=A,B,C", "KEY=lin:LOW:HIGH" or "KEY=log:LOW:HIGH". Commas in brackets separate
        nothing, so that "(64,),(64,32)" are two tuples.
      defaults: the config's values by key.

    Raises:
      UserError: it is none of these, or there is no such key.
    """
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise UserError(f"--vary {text}: write KEY=A,B,C or KEY=lin:LOW:HIGH or KEY=log:LOW:HIGH")
    if key not in defaults:
        hint = command_line.did_you_mean(key, list(defaults))
        raise UserError(f"--vary {text}: unknown config key {key!r}{hint}")
    scale, colon, ends = values.partition(":")
    if not colon or scale not in ("lin", "log"):
        choices = tuple(value.strip() for value in re.split(r",(?![^(]*\))", values))
        if "" in choices or len(set(choices)) < len(choices):
            raise UserError(f"--vary {text}: the values must be different, and none empty")
        return Varied(key, choices)
    whole = type(defaults[key]) is int
    try:
        low, high = (int(end) if whole else float(end) for end in ends.split(":"))
    except ValueError as error:
        numbers = "whole numbers" if whole else "numbers"
        raise UserError(f"--vary {text}: give a range as {scale}:LOW:HIGH, {numbers}") from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"--vary {text}: LOW must be below HIGH")
    if scale == "log" and low <= 0:
        raise UserError(f"--vary {text}: a log range must lie above 0")
    return Varied(key, (), scale, low, high, whole)


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[Varied]]:
    """Reads the command line and tries every value that is known beforehand on the config.

    Returns:
      The arguments, `overrides` (what holds for every trial) among them, and what varies.

    Raises:
      UserError: something in it is wrong.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="as for lrd_jax.main")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=VALUES")
    parser.add_argument("--trials", type=int, default=0, help="0 = every combination")
    parser.add_argument("--sampler", choices=["grid", "tpe"], help="default: grid without ranges")
    parser.add_argument("--metric", default="accuracy", help="-loss: less is better")
    parser.add_argument("--seed", type=int, default=0, help="of the sampler")
    parser.add_argument("--out", type=Path, help="default: runs/sweep-<config name>")
    parser.error = _refuse  # argparse's own prints the usage as well
    arguments, overrides = parser.parse_known_args(argv)
    if wrong := [word for word in overrides if not re.match(r"--(no)?config\.", word)]:
        raise UserError(f"unexpected argument {wrong[0]!r}: see --help")
    if not arguments.vary:
        raise UserError("nothing to vary: give --vary KEY=VALUES")
    defaults = record.flatten(command_line.load_config(arguments.config))
    varied = [parse_varied(text, defaults) for text in arguments.vary]
    if twice := {v.key for v in varied if [w.key for w in varied].count(v.key) > 1}:
        raise UserError(f"--vary {sorted(twice)[0]} is given twice: list all its values in one")
    ranges = [v.key for v in varied if not v.choices]
    arguments.sampler = arguments.sampler or ("tpe" if ranges else "grid")
    if arguments.sampler == "grid" and ranges:
        raise UserError(f"--sampler=grid needs a list of values for {ranges[0]}, not a range")
    if arguments.sampler == "tpe" and arguments.trials < 1:
        raise UserError("--sampler=tpe (or a range) has no end of values: give --trials")
    if arguments.trials < 0 or arguments.seed < 0:
        raise UserError("--trials and --seed must not be negative")
    arguments.overrides = overrides
    arguments.out = checks.expand_user(
        arguments.out or f"runs/sweep-{command_line.config_name(arguments.config)}"
    )
    for v in varied:
        for value in v.examples():
            words = [f"--config={arguments.config}", *overrides, f"--config.{v.key}={value}"]
            flag = command_line.parse_flags(["sweep", *words], flags.FlagValues())
            checks.validate(flag.config)
    return arguments, varied


def _refuse(message: str) -> Any:
    raise UserError(f"{message}: see --help")


# ---- Trials -----------------------------------------------------------------------------------


class Sweep:
    """The trials of one folder, the finished ones and those to come."""

    def __init__(self, arguments: argparse.Namespace, varied: list[Varied]) -> None:
        """Opens the journal.

        Raises:
          UserError: the folder belongs to another sweep.
        """
        self.arguments, self.varied, self.out = arguments, varied, arguments.out
        self.metric = arguments.metric.removeprefix("-")
        journal = optuna.storages.journal.JournalFileBackend(str(self.out / "journal.log"))
        self.study = optuna.create_study(
            study_name="sweep",
            storage=optuna.storages.JournalStorage(journal),
            direction="minimize" if arguments.metric.startswith("-") else "maximize",
            load_if_exists=True,
        )
        self._check_same()
        self.wanted = arguments.trials
        if arguments.sampler == "grid":  # queued in the journal: a trial takes the first that waits
            points = list(itertools.product(*(v.choices for v in varied)))
            self.wanted = min(arguments.trials or len(points), len(points))
            for values in points:
                point = {v.key: value for v, value in zip(varied, values, strict=True)}
                self.study.enqueue_trial(point, skip_if_exists=True)

    def _check_same(self) -> None:
        settings = {
            "config": self.arguments.config,
            "vary": self.arguments.vary,
            "overrides": self.arguments.overrides,
            "metric": self.arguments.metric,
            "seed": self.arguments.seed,
            "sampler": self.arguments.sampler,
        }
        before = self.study.user_attrs.get("settings")
        if before is None:
            self.study.set_user_attr("settings", settings)
        elif changed := [key for key in settings if settings[key] != before[key]]:
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
        values = [f"--config.{v.key}={trial.params[v.key]}" for v in self.varied]
        print(f"{name}:", *(value.removeprefix("--config.") for value in values), flush=True)
        _wait_until_free(self.out / name)
        spec, colon, argument = split_spec(self.arguments.config)
        command = [
            *(sys.executable, "-m", "lrd_jax.main"),
            f"--config={Path(spec).resolve()}{colon}{argument}",
            f"--workdir={(self.out / name).resolve()}",
            *self.arguments.overrides,
            *values,
        ]
        log = self.out / f"{name}.log"
        status = _run(command, log)
        if status > 128:
            raise Interrupted(status - 128)
        if status == 0:
            result = json.loads((self.out / name / "result.json").read_text())
            valid = result["best"]["valid"]
            if self.metric not in valid:
                raise UserError(
                    f"the runs have no validation metric {self.metric!r}: give --metric as one of"
                    f" {', '.join(valid)}, with a minus where less is better"
                )
            if valid[self.metric] is not None:
                self.study.tell(trial, valid[self.metric])
                print(f"{name}: {self.metric} {valid[self.metric]:.4f}", flush=True)
                return
        error = (log.read_text().strip().splitlines() or [f"ended with status {status}"])[-1]
        error = error.removeprefix("lrd_jax: error: ")
        complete = self.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        if status == 2 and not complete:
            raise UserError(error)
        trial.set_user_attr("error", error)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        print(f"{name}: failed: {error}", flush=True)

    # ---- What came out ------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """What `sweep.json` holds: how the sweep was made, and its trials, the best one first."""
        trials: list[dict[str, Any]] = []
        device, sign = "", -1 if self.arguments.metric.startswith("-") else 1
        states = optuna.trial.TrialState
        for trial in self.study.get_trials(states=[states.COMPLETE, states.FAIL]):
            name = f"trial_{trial.number:04d}"
            entry = {"workdir": name, "values": trial.params, "score": trial.value}
            if trial.state == states.COMPLETE:
                result = json.loads((self.out / name / "result.json").read_text())
                device = result["device"]
                kept = ("best", "test", "statistics", "steps", "wall_time_s")
                entry |= {key: result[key] for key in kept if key in result}
            else:
                entry["error"] = trial.user_attrs["error"]
            trials.append(entry)
        trials.sort(
            key=lambda t: -math.inf if t["score"] is None else sign * t["score"], reverse=True
        )
        config = command_line.parse_flags(
            ["sweep", f"--config={self.arguments.config}", *self.arguments.overrides],
            flags.FlagValues(),
        ).config
        return {
            "command": ["python", "scripts/sweep.py", *sys.argv[1:]],
            "metric": self.arguments.metric,
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


def table(record: dict[str, Any]) -> str:
    """The trials as Markdown, the best one first."""
    keys = list(record["vary"])
    metric = record["metric"].removeprefix("-")
    lines = [
        f"| trial | {' | '.join(keys)} | valid {metric} | test {metric} | best step | seconds |",
        "|---" * (len(keys) + 5) + "|",
    ]
    for trial in record["trials"]:
        values = [trial["values"][key] for key in keys]
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        rest = [trial.get("error", "failed"), "", "", ""]
        if trial["score"] is not None:
            best, test = trial["best"], trial["test"]
            rest = [f"{trial['score']:.4f}", f"{test[metric]:.4f}", str(best["step"])]
            rest.append(f"{trial['wall_time_s']:.1f}")
        lines.append(f"| {' | '.join([trial['workdir'], *shown, *rest])} |")
    return "\n".join(lines)


def _run(command: list[str], log: Path) -> int:
    """Runs a command with its output in a file; a signal to the sweep lets it save first."""
    with log.open("a") as output:
        # In a session of its own: Ctrl-C reaches it once, from here.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except Interrupted:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    return status if status >= 0 else 1  # a run killed from outside has failed


def _wait_until_free(workdir: Path) -> None:
    """Waits for the run that a killed sweep may have left behind in a trial's directory."""
    if not (workdir / ".lock").exists():
        return
    with (workdir / ".lock").open("w", encoding="utf-8") as file:
        if not lock(file):
            print(f"{workdir.name} is still running: waiting for its end", flush=True)
            lock(file, wait=True)


def _interrupt(signum: int, _: Any) -> None:
    raise Interrupted(signum)


def main(argv: list[str]) -> None:
    """Runs what the command line asks for."""
    arguments, varied = parse_arguments(argv)
    if optuna is None:
        raise UserError("sweeps need Optuna, which is not installed: pip install lrd-jax[sweep]")
    interrupts.handle(_interrupt)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(work_directory(arguments.out))
        except UserError as error:
            raise UserError(str(error).replace("--workdir", "--out")) from error
        sweep = Sweep(arguments, varied)
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
    try:
        main(sys.argv[1:])
    except (UserError, RunError) as error:
        print("sweep: error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except Interrupted as error:
        print("sweep: stopped; the same command goes on", file=sys.stderr)
        sys.exit(128 + error.signum)
