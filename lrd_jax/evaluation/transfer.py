"""Transfer copying: one trained model, evaluated at several delays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_jax.config import record
from lrd_jax.data import make_dataset, varied_key
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation.scores import evaluate_best, write_evaluation
from lrd_jax.reporting import summary
from lrd_jax.reporting.plots import plot_transfer
from lrd_jax.training.workdir import check_writable


def evaluate(workdir: str | Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Evaluates the best checkpoint at each of `eval.delays`; writes `eval/transfer.json`.

    Every delay asks for the same symbols, those of the chosen split, which no training has seen. A
    plot of accuracy over the delay is written beside the file where matplotlib is installed. As in
    Arpit et al. (2019), arXiv:1810.03023.

    Args:
      workdir: of a copying run that saved at least once.
      overrides: changed config keys, `data.*` and `eval.*` only.

    Returns:
      What was written: `split`, `overrides`, and in `delays` for each its `delay`, `seeds` (as in
      `evaluation.evaluate_best`) and `baselines`.

    Raises:
      UserError: no such run, another task, or a delay below 1.
    """
    workdir = Path(workdir).expanduser()
    config: Any = record.eval_overrides(record.load_workdir(workdir), overrides)
    delays = config.eval.delays
    key = varied_key(config.data.name)
    if not key:
        raise UserError(
            f"eval.delays={delays} is for tasks with a delay, for instance the copying task: leave"
            f" it out for {config.data.name}"
        )
    if any(not isinstance(delay, int) or delay < 1 for delay in delays):
        raise UserError(f"eval.delays={delays} must be whole numbers of steps, at least 1")
    check_writable(workdir)
    trained = make_dataset(config).spec
    rows = []
    for delay in delays:
        changed: Any = config.copy_and_resolve_references()
        changed.data[key] = delay
        spec = make_dataset(changed).spec
        changed.eval.batch_size = _batch_size(config, trained, spec)
        seeds = evaluate_best(workdir, changed)
        rows.append({"delay": delay, "seeds": seeds, "baselines": dict(spec.baselines)})
    split = config.eval.split
    result = {"split": split, "overrides": overrides, "delays": rows}
    name = "transfer" if split == "test" else f"transfer-{split}"
    target = write_evaluation(workdir, name, result)
    print(summary.transfer(result, target))
    try:
        print(f"plot in {plot_transfer(result, target.with_suffix('.png'))}")
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
