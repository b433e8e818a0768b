"""The work directory: its lock, its files, and whether its run is complete."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrd_jax.data.vocabulary import Vocabulary
from lrd_jax.errors import RunError, UserError
from lrd_jax.reporting.results import read_result
from lrd_jax.runtime.locks import lock


@contextlib.contextmanager
def work_directory(workdir: Path) -> Iterator[None]:
    """Makes the directory and holds its lock, so that two runs never write to one place.

    Raises:
      UserError: it cannot be written, or another run holds it.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
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
        yield


def check_unused(workdir: Path) -> None:
    """Raises UserError where there are the traces of a run, whose config.json is lost."""
    for name in ("checkpoints", "metrics.jsonl"):
        if (workdir / name).exists():
            raise UserError(
                f"{workdir} holds {name} of some run, and no config.json to tell which; bring that"
                " back, or choose another --workdir"
            )


def check_writable(workdir: Path) -> None:
    """Raises UserError where nothing can be written, before any work is done."""
    if not os.access(workdir, os.W_OK):
        raise UserError(f"the work directory {workdir} cannot be written")


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file so that a kill leaves the old one or the new one, never half of it."""
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


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file as `write_atomically` does; ValueError where it holds NaN, JSON has none.

    `results.strict` makes it None.
    """
    write_atomically(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


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


def finished(workdir: Path, config: Any) -> dict[str, Any] | None:
    """The result of a run that has nothing left to do, None if it has.

    A run that `train.stop_step` ended goes on when that is raised.
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
    return result if steps >= min(end, num_steps) else None
