"""Transfer: one trained model, evaluated at several delays, or lengths of a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_jax.data import varied_key
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.evaluation.scores import NOWHERE, write_evaluation
from lrd_jax.metrics import declarations
from lrd_jax.reporting import summary
from lrd_jax.reporting.plots import plot_transfer
from lrd_jax.reporting.results import strict


def check(workdir: Path, config: Any) -> None:
    """Raises UserError for a task that has no such option, or a value below 1."""
    del workdir
    key = varied_key(config.data.name)
    for asked, what in (
        ("delay", "a delay, for instance the copying task"),
        ("length", _OF_LENGTH),
    ):
        values = config.eval[f"{asked}s"]
        if values and key != asked:
            raise UserError(
                f"eval.{asked}s={values} is for tasks with {what}: leave it out for"
                f" {config.data.name}"
            )
        if any(not isinstance(value, int) or value < 1 for value in values):
            raise UserError(f"eval.{asked}s={values} must be whole numbers of steps, at least 1")
        if len(set(values)) < len(values):
            raise UserError(f"eval.{asked}s={values} must be different ones")


_OF_LENGTH = "examples of any length, for instance state tracking"


def run(loaded: Loaded) -> dict[str, Any]:
    """Evaluates the best parameters at each of `eval.delays` or `eval.lengths`.

    Writes `eval/transfer.json`, and beside it a plot of accuracy over the delay or length. Every
    delay asks for the same symbols, those of the chosen split, which no training has seen (as in
    Arpit et al. (2019), arXiv:1810.03023); every length has sequences of its own.

    Args:
      loaded: a run on a task with such an option.

    Returns:
      What was written: `split`, `overrides`, `varies` (`delay` or `length`), and in `delays` or
      `lengths` for each its value, `seeds` (as in `Loaded.scores`) and `baselines`.
    """
    config, split, rows = loaded.config, loaded.split, []
    key = varied_key(config.data.name)
    for value in config.eval[f"{key}s"]:
        changed: Any = config.copy_and_resolve_references()
        changed.data[key] = value
        changed.data.curriculum = ()  # of training; its lengths need not fit this one
        there = loaded.changed(changed)
        changed.eval.batch_size = _batch_size(config, loaded.spec, there.spec)
        seeds, cut = there.scores()
        baselines = dict(there.spec.baselines)
        rows.append({key: value, "seeds": seeds, "baselines": baselines, **cut})
    result: dict[str, Any] = {"split": split, "overrides": dict(loaded.overrides)}
    result |= {"varies": key, f"{key}s": rows}
    result["metrics"] = declarations(loaded.objective.metrics, loaded.objective.select)
    result = strict(result)
    name = "transfer" if split == "test" else f"transfer-{split}"
    target = write_evaluation(loaded.workdir, name, result)
    print(summary.transfer(result, target or NOWHERE))
    if not target:
        return result
    try:
        trained = config.data[key]
        path = plot_transfer({"": result}, target.with_suffix(".png"), trained=trained)
        print(f"plot in {path}")
    except UserError as error:
        print(f"no plot: {error}")
    return result


def _batch_size(config: Any, trained: DataSpec, spec: DataSpec) -> int:
    """Examples a batch, so that a long sequence needs no more memory than the trained one did."""
    if config.eval.batch_size:
        return config.eval.batch_size
    return max(
        1, min(config.data.batch_size * trained.length // spec.length, config.data.batch_size)
    )
