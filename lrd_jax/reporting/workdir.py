"""The work directory: its lock, its files, and whether its run is complete."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrd_jax.config.record import load_workdir, read_json
from lrd_jax.data import drawn
from lrd_jax.data.spec import DataSpec
from lrd_jax.data.vocabulary import Vocabulary
from lrd_jax.errors import RunError, UserError, out_of_memory
from lrd_jax.reporting.results import read_result
from lrd_jax.reporting.writers import read_metrics
from lrd_jax.runtime.locks import lock

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def work_directory(workdir: Path) -> Iterator[None]:
    """Makes the directory and holds its lock, so that two runs never write to one place.

    A run that finds too little memory before its first save leaves nothing that it wrote.

    Raises:
      UserError: it cannot be written, or another run holds it.
    """
    made = not workdir.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        before = frozenset(os.listdir(workdir))
        file = (workdir / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the work directory {workdir} cannot be written ({error.strerror});"
            " choose another --workdir"
        ) from error
    with file:
        if not lock(file):
            raise UserError(
                f"the work directory {workdir} is in use by another run; wait for it, or choose"
                " another --workdir"
            )
        try:
            yield
        except Exception as error:
            if out_of_memory(error) and not _saved(workdir):
                _remove_new(workdir, before, made)
            raise


def _saved(workdir: Path) -> bool:
    """Whether there is a complete checkpoint."""
    folders = (workdir / "checkpoints", workdir / "checkpoints_replaced")
    return any(path.name.isdigit() for folder in folders for path in folder.glob("*"))


def _remove_new(workdir: Path, before: frozenset[str], made: bool) -> None:
    """Removes what was written since: another config may be tried in its place."""
    for name in set(os.listdir(workdir)) - before:
        path = workdir / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if made:
        with contextlib.suppress(OSError):
            workdir.rmdir()


def check_unused(workdir: Path) -> None:
    """Raises UserError where there are the traces of a run, whose config.json is lost."""
    for name in ("checkpoints", "metrics.jsonl", "result.json", "vocabulary.json", "tensorboard"):
        if (workdir / name).exists():
            raise UserError(
                f"{workdir} holds {name} of some run, and no config.json to tell which; bring that"
                " back, or choose another --workdir"
            )


def check_checkpoints(workdir: Path, checkpoint_every_steps: int) -> None:
    """Refuses to start over a run whose checkpoints are lost, and to go on without its metrics.

    A run that was killed before its first checkpoint was complete has metrics and no checkpoint
    either. It may start over; it has the (empty) folder, and has not come past its second save,
    which waits for the first.

    Args:
      workdir: of a run, with its config.json.
      checkpoint_every_steps: the key of `train`; 0: a save follows each validation.

    Raises:
      UserError: a part of the record is missing; nothing was touched.
    """
    saved = _saved(workdir)
    metrics = workdir / "metrics.jsonl"
    if saved and not metrics.exists():
        raise UserError(
            f"{workdir} has checkpoints and no metrics.jsonl: bring it back, or choose another"
            " --workdir to start over"
        )
    if saved:
        return
    records = read_metrics(metrics) if metrics.exists() else []
    validated = {record["step"] for record in records if record.get("split") == "valid"}
    passed = any(
        record.get("split") == "test"
        or (checkpoint_every_steps and record["step"] > 2 * checkpoint_every_steps)
        for record in records
    )
    lost = passed or len(validated) > 2 or (records and not (workdir / "checkpoints").is_dir())
    if lost or (workdir / "result.json").exists():
        raise UserError(
            f"the checkpoints of {workdir} are missing, and training would start over what is"
            " recorded there: bring them back, or choose another --workdir"
        )


def check_metrics(workdir: Path, size: int) -> None:
    """Refuses to go on from a checkpoint where metrics.jsonl lacks what was in it then.

    Args:
      workdir: of a run.
      size: bytes of the file when the checkpoint was made; 0 where an older version did not note
        it.

    Raises:
      UserError: the file is shorter.
    """
    path = workdir / "metrics.jsonl"
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise UserError(
            f"{path} is cut: {found:,} bytes of {size:,} that it had at the last checkpoint; bring"
            " it back, or choose another --workdir to start over"
        )


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file so that a kill leaves the old one or the new one, never half of it.

    Raises:
      RunError: the disk does not take it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror}); mend that, then run the same command again"
        ) from error


def keep(path: Path, text: str) -> Path | None:
    """Writes what was printed already; a run that may only be read costs a warning.

    Returns:
      The path; None where it could not be written.
    """
    try:
        write_atomically(path, text)
    except RunError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
        logger.warning("%s is not written (%s)", path, reason)
        return None
    return path


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file as `write_atomically` does; ValueError where it holds NaN, JSON has none.

    `results.strict` makes it None.
    """
    write_atomically(path, json_text(values))


def json_text(values: Any) -> str:
    """Returns the text of a JSON file; ValueError where a value is NaN or infinite."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def keep_vocabulary(workdir: Path, vocabulary: Vocabulary | None) -> None:
    """Writes the vocabulary of a run that has one; a run that goes on must have the same text.

    Raises:
      UserError: see `check_vocabulary`.
    """
    check_vocabulary(workdir, vocabulary)
    path = workdir / "vocabulary.json"
    if vocabulary is not None and not path.exists():
        write_atomically(path, vocabulary.to_json())


def read_vocabulary(workdir: Path) -> Vocabulary | None:
    """Reads the vocabulary of a run; None if it has none. Raises UserError if it is damaged."""
    path = workdir / "vocabulary.json"
    if not path.exists():
        return None
    try:
        return Vocabulary.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and training writes it again from the same"
            " text"
        ) from error


def check_vocabulary(workdir: Path, vocabulary: Vocabulary | None) -> None:
    """Compares the vocabulary, and the text behind it, with that of the work directory, if any.

    Raises:
      UserError: the text is another one, or the file is damaged.
    """
    kept = read_vocabulary(workdir)
    if vocabulary is None or kept is None:
        return
    changed = sorted(
        split for split in vocabulary.texts if vocabulary.texts[split] != kept.texts.get(split)
    )
    if kept != vocabulary:
        raise UserError(
            f"the text is not the one that {workdir} was trained with ({', '.join(changed)} text"
            " changed): bring that back, or choose another --workdir"
        )


def check_draws(workdir: Path) -> None:
    """Refuses a task that draws others than the work directory was trained with.

    Its file was edited since, say. What an older work directory drew is not known.

    Raises:
      UserError: it does.
    """
    known = read_json(workdir / "config.json", "bring it back").get("draws", "")
    if known and known != drawn(load_workdir(workdir)):
        raise UserError(
            f"the task draws other examples than {workdir} was trained with (its file was edited"
            " since): bring that back, or choose another --workdir"
        )


def keep_spec(workdir: Path, spec: DataSpec) -> None:
    """Writes spec.json, what the data look like: the model can then be used without them."""
    path = workdir / "spec.json"
    if not path.exists():
        write_atomically(path, spec.to_json())


def read_spec(workdir: Path) -> DataSpec | None:
    """Reads what the data of a run look like; None of a run from before that was kept.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / "spec.json"
    if not path.exists():
        return None
    try:
        return DataSpec.from_json(path.read_text(encoding="utf-8"), read_vocabulary(workdir))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is damaged ({error}); remove it, and it is made from the data again"
        ) from error


def finished(workdir: Path, config: Any) -> dict[str, Any] | None:
    """The result of a run that has nothing left to do, None if it has.

    A run that `train.stop_step` ended goes on when that is raised; one that patience ended does
    not.

    Raises:
      UserError: its result is damaged, or of more steps than it has checkpoints of.
    """
    path = workdir / "result.json"
    if not path.exists():
        return None
    result = read_result(path)
    steps, num_steps = result["steps"], result["num_steps"]
    saved = [int(f.name) for f in (workdir / "checkpoints").glob("*") if f.name.isdigit()]
    if saved and max(saved) < steps:
        raise UserError(
            f"{path} is damaged ({steps} steps, and the newest checkpoint is of step {max(saved)});"
            " remove it, and the same command writes it again"
        )
    end = config.train.stop_step or num_steps
    return result if "ended_by" in result or steps >= min(end, num_steps) else None
