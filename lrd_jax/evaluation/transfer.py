"""Transfer copying: one trained model, evaluated at several delays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_jax.data import varied_key
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.evaluation.scores import write_evaluation
from lrd_jax.metrics import declarations
from lrd_jax.reporting import summary
from lrd_jax.reporting.plots import plot_transfer
from lrd_jax.reporting.results import strict


def check(workdir: Path, config: Any) -> None:
    """Raises UserError for another task, or a delay below 1."""
    del workdir
    delays = config.eval.delays
    if not varied_key(config.data.name):
        raise UserError(
            f"eval.delays={delays} is for tasks with a delay, for instance the copying task: leave"
            f" it out for {config.data.name}"
        )
    if any(not isinstance(delay, int) or delay < 1 for delay in delays):
        raise UserError(f"eval.delays={delays} must be whole numbers of steps, at least 1")


def run(loaded: Loaded) -> dict[str, Any]:
    """Evaluates the best parameters at each of `eval.delays`; writes `eval/transfer.json`.

    Every delay asks for the same symbols, those of the chosen split, which no training has seen. A
    plot of accuracy over the delay is written beside the file. As in Arpit et al. (2019),
    arXiv:1810.03023.

    Args:
      loaded: a copying run.

    Returns:
      What was written: `split`, `overrides`, and in `delays` for each its `delay`, `seeds` (as in
      `Loaded.scores`) and `baselines`.
    """
    config, split, rows = loaded.config, loaded.split, []
    key = varied_key(config.data.name)
    for delay in config.eval.delays:
        changed: Any = config.copy_and_resolve_references()
        changed.data[key] = delay
        there = loaded.changed(changed)
        changed.eval.batch_size = _batch_size(config, loaded.spec, there.spec)
        seeds, baselines = there.scores(), dict(there.spec.baselines)
        rows.append({"delay": delay, "seeds": seeds, "baselines": baselines})
    result: dict[str, Any] = {"split": split, "overrides": dict(loaded.overrides), "delays": rows}
    result["metrics"] = declarations(loaded.objective.metrics, loaded.objective.select)
    result = strict(result)
    name = "transfer" if split == "test" else f"transfer-{split}"
    target = write_evaluation(loaded.workdir, name, result)
    print(summary.transfer(result, target))
    try:
        trained = config.data[key]
        path = plot_transfer(result, target.with_suffix(".png"), trained=trained)
        print(f"plot in {path}")
    except UserError as error:
        print(f"no plot: {error}")
    return result


def _batch_size(config: Any, trained: DataSpec, spec: DataSpec) -> int:
    """Examples a batch, so that a long delay needs no more memory than the trained one did."""
    if config.eval.batch_size:
        return config.eval.batch_size
    return max(
        1, min(config.data.batch_size * trained.length // spec.length, config.data.batch_size)
    )
