"""Which sequences are for training, validation and test: by files, or drawn, by sequence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lrd_jax.data.pipeline import SPLITS
from lrd_jax.data.sequence_files import ENDINGS
from lrd_jax.errors import UserError

ALL = "all"
_NAMES = {"train": "train", "test": "test", "valid": "valid", "validation": "valid", "val": "valid"}
_BESIDE = ("_lengths.npy", "_targets.npy", "_ids.npy")
_USE = "use a part such as 0.2, or last:<n> or first:<n> with n at least 1"


def find_files(path: Path) -> dict[str, Path]:
    """Finds the files of the splits.

    Args:
        path: a file; a folder with one file, or with files that are called `train`, `valid` and
            `test` or end so, such as `GunPoint_TRAIN.ts`; or what such names begin with, as in
            `DIR/GunPoint`.

    Returns:
        Split -> file; `ALL` -> a file that holds all sequences.

    Raises:
        UserError: nothing is there, or it is not clear what is what.
    """
    if path.is_file():
        return {ALL: path}
    folder, begins = (path, "") if path.is_dir() else (path.parent, path.name + "_")
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    files = [
        file
        for file in inside
        if file.suffix.lower() in ENDINGS
        and file.name.startswith(begins)
        and not file.name.endswith(_BESIDE)
    ]
    if not files:
        kinds = ", ".join(ENDINGS)
        if begins:
            raise UserError(
                f"data.path={path}: there is no file or folder {path.absolute()}, and no file that"
                f" begins like it and ends in {kinds}"
            )
        raise UserError(f"data.path={path}: there are no sequences in files of {kinds}")
    found: dict[str, Path] = {}
    for file in files:
        last = re.split(r"[_-]", file.stem.lower())[-1]
        split = _NAMES.get(last, ALL if len(files) == 1 else "")
        if not split:
            raise UserError(
                f"data.path={path}: {file.name} is none of train, valid and test; take it away, or"
                " name one file by data.path"
            )
        if split in found:
            raise UserError(
                f"data.path={path}: {found[split].name} and {file.name} are both for {split}; name"
                " what the files of one data set begin with, as in DIR/GunPoint"
            )
        found[split] = file
    if ALL not in found and "train" not in found:
        raise UserError(f"data.path={path}: there is no file for training, such as train.csv")
    return found


def divide(
    files: dict[str, int],
    valid_split: str,
    test_split: str,
    labels: Sequence[object] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Says which sequences of which file make up each split.

    What a file does not give is taken from the training sequences, test first. A part is drawn once
    for all runs; with labels, each class gives its share.

    Args:
        files: name of a file, as `find_files` has them, -> its sequences.
        valid_split: `data.valid_split`: a part such as "0.2", `last:<n>` or `first:<n>`; a file for
            it wins.
        test_split: `data.test_split`, the same.
        labels: of the sequences that are divided, where they are classes.

    Returns:
        Split -> (file -> numbers of its sequences, int64, in their order).

    Raises:
        UserError: a value that means nothing, or that leaves nothing to train on.
    """
    source = "train" if "train" in files else ALL
    left = np.arange(files[source])
    found = {}
    for split, key, value in (
        ("test", "test_split", test_split),
        ("valid", "valid_split", valid_split),
    ):
        if split in files:
            found[split] = {split: np.arange(files[split])}
            continue
        if not value:
            raise UserError(
                f"there is no file for {split}: add one, such as {split}.csv, or set"
                f" data.{key}=0.2 to hold out a part of the sequences"
            )
        taken = _held_out(
            len(left), value, f"data.{key}", split, labels and [labels[i] for i in left.tolist()]
        )
        if not 0 < taken.sum() < len(left):
            raise UserError(f"data.{key}={value} of {len(left)} sequences leaves nothing: {_USE}")
        found[split] = {source: left[taken]}
        left = left[~taken]
    return {"train": {source: left}, **{split: found[split] for split in SPLITS[1:]}}


def _held_out(
    count: int, value: str, key: str, split: str, labels: Sequence[object] | None
) -> np.ndarray:
    """Marks the sequences that are held out, (count,) bool."""
    marked = np.zeros(count, bool)
    if match := re.fullmatch("(last|first):([1-9][0-9]*)", value):
        size = int(match[2])
        if size >= count:
            raise UserError(
                f"{key}={value} leaves nothing of {count} sequences to train on: {_USE}"
            )
        marked[-size:] = match[1] == "last"
        marked[:size] |= match[1] == "first"
        return marked
    try:
        part = float(value)
    except ValueError:
        part = -1.0
    if not 0 < part < 1:
        raise UserError(f"{key}={value!r}: {_USE}")
    order = np.random.default_rng(SPLITS.index(split)).permutation(count)
    if labels is not None:  # class after class, so that even picks take the same part of each
        numbers = np.unique([str(label) for label in labels], return_inverse=True)[1]
        order = order[np.argsort(numbers[order], kind="stable")]
    size = max(1, round(part * count))
    marked[order[((np.arange(size) + 0.5) * count / size).astype(int)]] = True
    return marked
