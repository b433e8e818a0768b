"""Evaluation of a work directory's best checkpoint, `--mode=eval`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax

from lrd_jax.config import checks, record
from lrd_jax.data import make_dataset
from lrd_jax.errors import UserError
from lrd_jax.evaluation import pictures
from lrd_jax.metrics import declarations
from lrd_jax.reporting import summary
from lrd_jax.training.checkpoints import Checkpoints
from lrd_jax.training.program import Trainer
from lrd_jax.training.results import seed_results
from lrd_jax.training.state import TrainState
from lrd_jax.training.workdir import check_vocabulary, check_writable, write_atomically


def evaluate(workdir: str | Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Evaluates the best checkpoint of a work directory; writes `eval/<name>.json`.

    The name is the split, with the changes of the data after it: `test-data.permutation=none.json`.

    Args:
      workdir: of a run that saved at least once; may be in use by one that trains.
      overrides: changed config keys, `data.*` and `eval.*` only.

    A run with an auxiliary loss also gets a picture of what its decoder made of some examples.

    Returns:
      What was written: `split`, `overrides`, and `seeds` with step and metrics of each; with an
      auxiliary loss the `baselines` of the split.

    Raises:
      UserError: no such run, or an override that is not allowed or does not fit the model.
    """
    workdir = Path(workdir).expanduser()
    config: Any = record.eval_overrides(record.load_workdir(workdir), overrides)
    check_writable(workdir)
    split = config.eval.split
    trainer, trained = load_best(workdir, config)
    seeds = _scores(trainer, trained)
    result: dict[str, Any] = {"split": split, "overrides": overrides, "seeds": seeds}
    result["metrics"] = declarations(trainer.objective.metrics, trainer.objective.select)
    if auxiliary := config.aux.kind != "none":
        result["baselines"] = dict(trainer.objective.baselines(trainer.dataset, split))
    target = write_evaluation(workdir, split, result)
    print(summary.evaluation(result, target))
    if auxiliary:
        pictures.draw(trainer, trained.best.params, result, target)
    return result


def evaluate_best(workdir: Path, config: Any) -> list[dict[str, Any]]:
    """Evaluates the best checkpoint of a work directory on `config.eval.split`.

    Args:
      workdir: of a run that saved at least once.
      config: the run's config, with other `data.*` and `eval.*` perhaps.

    Returns:
      Member by member: its seed (and swept values), its best step with the validation metrics, the
      metrics of the split.

    Raises:
      UserError: no such run, or a value that does not fit the model.
    """
    return _scores(*load_best(workdir, config))


def load_best(workdir: Path, config: Any) -> tuple[Trainer, TrainState]:
    """What evaluates a work directory, and its state with the best parameters; see above."""
    checks.validate(config)
    config = config.copy_and_resolve_references()
    # Nothing is differentiated, and sequences may be shorter here.
    config.truncate.steps, config.truncate.supervised = 0, "same"
    dataset = make_dataset(config)
    if config.aux.kind != "none":
        fitting = dataset.spec.length - 1 - max(config.aux.gap, 0)
        config.aux.segment_length = max(2, min(config.aux.segment_length, fitting))
    trainer = Trainer(config, dataset)
    return trainer, restore_best(workdir, trainer)


def _scores(trainer: Trainer, trained: TrainState) -> list[dict[str, Any]]:
    split = trainer.config.eval.split
    values = trainer.evaluate(trained.best.params, split)
    metrics = trainer.objective.metrics
    return seed_results(jax.device_get(trained), split, values, trainer.members, metrics)


def restore_best(workdir: Path, trainer: Trainer) -> TrainState:
    """Restores the newest checkpoint of a work directory, which holds the best parameters.

    Args:
      workdir: of a run that saved at least once; nothing in it is touched.
      trainer: built with the run's config.

    Raises:
      UserError: no such run, or one whose model or text is another.
    """
    check_vocabulary(workdir, trainer.dataset.spec.vocabulary)
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoint yet; train it first")
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        restored = checkpoints.restore_latest(trainer.template())
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(f"{workdir} holds no checkpoint yet; train it first")
    if not jax.device_get(restored[0].best.step).any():
        raise UserError(f"{workdir} was not evaluated on validation data yet; train it further")
    return restored[0]


def write_evaluation(workdir: Path, name: str, result: dict[str, Any]) -> Path:
    """Writes `eval/<name>.json`, the changes of the data added to the name; returns its path."""
    changes = [
        f"{key}={value}"
        for key, value in sorted(result["overrides"].items())
        if not key.startswith("eval.") and key not in ("data.data_dir", "data.batch_size")
    ]
    name = re.sub(r"[^\w.=+-]+", "_", "-".join([name, *changes]))
    target = workdir / "eval" / f"{name}.json"
    write_atomically(target, json.dumps(result, indent=2) + "\n")
    return target
