"""What can be asked of a trained run, `--mode=eval`: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lrd_jax.config import checks, record
from lrd_jax.data import has_captions
from lrd_jax.evaluation import captions, context, sampling, scores, transfer
from lrd_jax.evaluation.loaded import Loaded, load
from lrd_jax.evaluation.own_file import bring_in


class Command(NamedTuple):
    """One kind of evaluation.

    Attributes:
      asked: whether a config asks for it.
      check: raises UserError where the run, of this work directory and config, cannot do it.
      run: does it; returns what it wrote.
      with_data: whether it needs the data set, or the vocabulary will do.
    """

    asked: Callable[[Any], bool]
    check: Callable[[Path, Any], None]
    run: Callable[[Loaded], Any]
    with_data: bool = True


# The first that is asked for is done.
COMMANDS = {
    "sample": Command(
        lambda config: config.eval.sample_tokens > 0, sampling.check, sampling.run, with_data=False
    ),
    "transfer": Command(
        lambda config: bool(config.eval.delays or config.eval.lengths), transfer.check, transfer.run
    ),
    "context": Command(lambda config: config.eval.context > 0, context.check, context.run),
    "captions": Command(
        lambda config: has_captions(config.data.name), captions.check, captions.run
    ),
    "scores": Command(lambda config: True, lambda *_: None, scores.run),
}


def evaluate(workdir: str | Path, overrides: Mapping[str, Any]) -> Any:
    """Evaluates the best checkpoint of a work directory; writes into `eval/` there.

    A work directory that may only be read is evaluated too: a warning says what is not written.

    Args:
      workdir: of a run that saved at least once; may be in use by one that trains.
      overrides: changed config keys, `data.*` and `eval.*` only; they choose the command.

    Returns:
      What was written; see `run` of `scores`, `transfer` and `sampling`.

    Raises:
      UserError: no such run, or an override that is not allowed or does not fit the model.
    """
    workdir = checks.expand_user(workdir)
    trained = record.load_workdir(workdir)
    overrides = record.changes(trained, overrides)
    config = record.eval_overrides(trained, overrides)
    checks.validate(config)
    bring_in(workdir, config)
    return run(workdir, config, overrides)


def run(workdir: Path, config: Any, overrides: Mapping[str, Any]) -> Any:
    """Does the same with a config that was read and checked, as `main` has it."""
    command = next(command for command in COMMANDS.values() if command.asked(config))
    command.check(workdir, config)
    return command.run(load(workdir, config, overrides, with_data=command.with_data))
