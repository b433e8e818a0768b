"""The command line of `sweep.py`: what varies, and what holds for every trial."""

from __future__ import annotations

import argparse
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from lrd_jax.config import checks, command_line, record
from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError, did_you_mean
from lrd_jax.runtime import address_space


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
        hint = did_you_mean(key, defaults)
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


def parse_arguments(
    argv: list[str], description: str | None = None
) -> tuple[argparse.Namespace, list[Varied]]:
    """Reads the command line and tries every value that is known beforehand on the config.

    Args:
      argv: the arguments.
      description: for --help.

    Returns:
      The arguments, `overrides` (what holds for every trial) among them, and what varies.

    Raises:
      UserError: something in it is wrong.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="as for lrd_jax.main")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=VALUES")
    parser.add_argument("--trials", type=int, default=0, help="0 = every combination")
    parser.add_argument("--sampler", choices=["grid", "tpe"], help="default: grid without ranges")
    parser.add_argument("--metric", default="", help="default: what chooses a run's best step")
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
    arguments.out = expand_user(
        arguments.out or f"runs/sweep-{command_line.config_name(arguments.config)}"
    )
    _check_values(arguments, varied)
    return arguments, varied


def _check_values(arguments: argparse.Namespace, varied: list[Varied]) -> None:
    """Tries what is known beforehand: every value is legal, and no two trials are the same model.

    Raises:
      UserError: otherwise.
    """
    legal = {
        v.key: {
            value: trial_config(arguments, (f"--config.{v.key}={value}",)) for value in v.examples()
        }
        for v in varied
    }
    address_space.check()
    from lrd_jax.training import effects  # loads JAX: after what is wrong without it

    base, models = trial_config(arguments), {}
    for values in itertools.product(*(v.examples() for v in varied)):
        config: Any = base.copy_and_resolve_references()
        for v, value in zip(varied, values, strict=True):
            changed = record.flatten(legal[v.key][value])[v.key]
            config.update_from_flattened_dict({v.key: changed})
        models[values] = repr(sorted(effects.effective(config).items()))
    if arguments.sampler == "grid":
        first: dict[str, tuple[str, ...]] = {}
        for values, model in models.items():
            if model in first:
                names = [_name(varied, point) for point in (first[model], values)]
                raise UserError(
                    f"{names[0]} and {names[1]} are the same model: keys that the chosen component"
                    " does not know, or that another key switches off, change nothing"
                )
            first[model] = values
        return
    for i, v in enumerate(varied):
        rest = {(values[:i], values[i + 1 :], model) for values, model in models.items()}
        if len(v.examples()) > 1 and len(rest) * len(v.examples()) == len(models):
            raise UserError(
                f"--vary {v.key} has no effect in any trial: every one would be the same"
            )


def _name(varied: list[Varied], values: tuple[str, ...]) -> str:
    return " ".join(f"{v.key}={value}" for v, value in zip(varied, values, strict=True))


def trial_config(arguments: argparse.Namespace, more: Sequence[str] = ()) -> Any:
    """The config of a trial, as the program itself would read it."""
    words = [f"--config={arguments.config}", *arguments.overrides, *more]
    config = command_line.parse_flags(["sweep", *words], flags.FlagValues()).config
    checks.validate(config)
    return config


def known_words(arguments: argparse.Namespace, values: Sequence[str]) -> tuple[list[str], dict]:
    """Leaves out what the component of a trial does not know.

    Args:
      arguments: of the sweep.
      values: the trial's own, as `--config.KEY=VALUE`.

    Returns:
      The words that remain, `arguments.overrides` among them; and key -> why, for those left out.
    """
    from lrd_jax.training import effects

    left_out = effects.known_nowhere(trial_config(arguments, values))
    words, skip, given = [], False, {}
    for word in (*arguments.overrides, *values):
        key = re.sub(r"--(no)?config\.", "", word.partition("=")[0]) if word[:2] == "--" else ""
        if key:
            skip = key in left_out
            given |= {key: left_out[key]} if skip else {}
        if not skip:
            words.append(word)
    return words, given


def _refuse(message: str) -> Any:
    raise UserError(f"{message}: see --help")
