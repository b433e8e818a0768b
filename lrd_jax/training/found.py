"""What a run finds in its work directory, and what it keeps there before it begins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lrd_jax.config import record, source
from lrd_jax.data import drawn
from lrd_jax.data.sequence_fit import FILE, read_fit
from lrd_jax.data.spec import Dataset, DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation.exported import is_exported
from lrd_jax.reporting import provenance
from lrd_jax.reporting.workdir import (
    check_checkpoints,
    check_draws,
    check_metrics,
    check_unused,
    finished,
    keep_spec,
    keep_vocabulary,
    write_atomically,
)
from lrd_jax.reporting.writers import read_metrics
from lrd_jax.runtime import processes
from lrd_jax.training import effects


def check_same_everywhere(config: Any, workdir: Path) -> None:
    """Raises UserError where the processes of a run were started with different flags."""
    text, place = processes.from_first(lambda: [record.to_json(config), str(workdir)])
    lines = record.differences(record.from_json(text), config)
    lines = [line for line in lines if not line.startswith("data.data_dir:")]  # a local disk
    if place != str(workdir):
        lines.append(f"--workdir: {place} -> {workdir}")
    if lines:
        raise UserError(
            f"this process was started with other flags than process 0 ({'; '.join(lines)})"
        )


def earlier_result(workdir: Path, config: Any) -> dict[str, Any] | None:
    """What `finished` returns; refuses the work directory of another config, or an export."""
    if is_exported(workdir):
        raise UserError(
            f"{workdir} holds an exported model, which is used and not trained: choose another"
            " --workdir, and to start from a run's parameters --config.train.init_from=RUN"
        )
    known = workdir / "config.json"
    if not known.exists():
        return None
    earlier: Any = record.load_workdir(workdir)
    same_length = record.check_same(earlier, config)
    result = finished(workdir, config) if same_length else None
    if result is None:
        saves = [c.train.checkpoint_every_steps for c in (earlier, config)]
        check_checkpoints(workdir, max(saves) if all(saves) else 0)
    return result


def keep_config(workdir: Path, config: Any, config_flag: str, spec: DataSpec) -> list[str]:
    """Writes config.json, spec.json and vocabulary.json where missing; tells what is unchecked."""
    known = workdir / "config.json"
    told = []
    if not known.exists():
        check_unused(workdir)
        draws = drawn(config)
        text = record.to_json(
            config,
            unused=sorted(effects.unused(config)),
            **({"draws": draws} if draws else {}),
            **source.made_from(config_flag),
            **source.own_file(config_flag),
            versions=provenance.versions(),
            commit=provenance.commit(),
        )
        write_atomically(known, text)
    elif spec.vocabulary and not (workdir / "vocabulary.json").exists():
        told.append(
            "vocabulary.json is missing: it is written again from this text, which cannot be"
            " compared with the one that the run began with"
        )
    check_draws(workdir)
    keep_vocabulary(workdir, spec.vocabulary)
    keep_spec(workdir, spec)
    return told


def keep_fit(workdir: Path, dataset: Dataset) -> None:
    """Writes what was fitted on training examples; a run that goes on must have the same.

    Raises:
      UserError: it has not.
    """
    fit = getattr(dataset, "fit", None)
    if fit is None:
        return
    kept = read_fit(workdir)
    if kept is None:
        write_atomically(workdir / FILE, fit.to_json())
    elif kept != fit:
        raise UserError(
            f"the training sequences are not those that {workdir} was trained with: bring these"
            " back, or choose another --workdir"
        )


_FILE_SYSTEM_S = 30  # within which a new file shows on the other hosts of a network file system


def check_visible(workdir: Path) -> None:
    """Raises UserError where this process does not see the work directory of process 0."""
    deadline = time.monotonic() + _FILE_SYSTEM_S
    while not (workdir / "config.json").exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"the work directory {workdir} of process 0 cannot be seen from here; choose a"
                " --workdir on a file system that all processes share"
            )
        time.sleep(0.5)


def say_what_is_missing(workdir: Path, start: int, extra: dict[str, Any], config: Any) -> None:
    """Tells what of the record begins anew; UserError where metrics would be lost."""
    check_metrics(workdir, extra.get("metrics_bytes", 0))
    metrics = workdir / "metrics.jsonl"
    if start and config.train.tensorboard and not (workdir / "tensorboard").is_dir():
        processes.say(
            f"note: tensorboard/ is missing: it begins at step {start}; metrics.jsonl has all steps"
        )
    elif not start and metrics.exists() and (lines := read_metrics(metrics)):
        processes.say(
            f"note: the run ended at step {lines[-1]['step']}, before its first checkpoint was"
            " complete: it starts again at step 0"
        )
