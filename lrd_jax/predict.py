"""Runs a trained model on a person's own input: `python -m lrd_jax.predict`.

    python -m lrd_jax.predict --workdir=runs/mine --input=new.csv --output=predictions.csv

Exit status: 0 done; 1 the output cannot be written; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from lrd_jax.config import checks, record
from lrd_jax.config.command_line import ArgumentParser, parse_flags
from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError
from lrd_jax.runtime import terminal

_READS = """
what it reads follows from what the model was trained on:
  sequences   .npz, .npy, .csv, .parquet or .ts, as for training, with or without targets
  images      a picture, or a folder of them; or .npz, .npy as the data set stores them
  captions    a picture, or a folder of them: captions, and a page that shows them
  text        a text file: how little each token was expected, and a page that shows it

  --config.eval.KEY=VALUE   eval.batch_size, and how captions are made (eval.beam_size, ...)
"""
_KEYS = (
    "eval.batch_size",
    "eval.decode",
    "eval.beam_size",
    "eval.length_power",
    "eval.temperature",
    "eval.sample_seed",
    "eval.allow_unknown",
    "eval.sheet_images",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = ArgumentParser(
        prog="python -m lrd_jax.predict",
        description="Writes a table of what a trained model says of your own input: a row for each"
        " sequence, in the order of the input.",
        epilog=_READS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    parser.add_argument("--input", required=True, metavar="PATH", help="file or folder")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="table to write: .csv, .npz or .parquet"
    )
    parser.add_argument(
        "--seeds",
        default="best",
        metavar="best|all|N",
        help="the seed that validated best, the mean of all, or seed N; default: %(default)s",
    )
    return terminal.status_of(
        lambda: _run(*parser.parse_known_args(argv)),
        lower=lambda: "--config.eval.batch_size or --config.eval.beam_size",
    )


def _run(flags: Any, rest: Sequence[str]) -> None:
    """Checks all that can be checked before JAX loads, then predicts; UserError for bad input."""
    workdir = expand_user(flags.workdir)
    flag = parse_flags(
        ["predict", *rest],
        absl_flags.FlagValues(),
        find_config=lambda: record.load_workdir(workdir),
    )
    trained = record.load_workdir(workdir)
    given = record.changes(trained, flag.overrides, asked=_KEYS)
    if wrong := [key for key in given if key not in _KEYS]:
        raise UserError(f"config.{wrong[0]} has no effect here: only {', '.join(_KEYS)} can change")
    config = record.eval_overrides(trained, given)
    checks.validate(config)
    from lrd_jax.inference.write import check

    source, target = expand_user(flags.input), expand_user(flags.output)
    if not source.exists():
        raise UserError(f"--input={flags.input}: there is no such file or folder")
    check(target, source)
    from lrd_jax.evaluation.own_file import bring_in
    from lrd_jax.inference import command
    from lrd_jax.training import effects

    terminal.quiet()
    bring_in(workdir, config)
    config, notes = effects.judge(config, given, "eval")
    for note in notes:
        print(f"note: {note}")
    command.run(workdir, config, source, target, flags.seeds)


if __name__ == "__main__":
    terminal.be_courteous()
    sys.exit(main())
