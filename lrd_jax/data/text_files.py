"""Which text files of a folder train, validate and test, and their lines."""

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lrd_jax.data.pipeline import SPLITS
from lrd_jax.data.vocabulary import read_lines
from lrd_jax.errors import UserError

_SUFFIXES = (".txt", ".tokens")
_NAMES = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "validation", "val", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
_SHOWN = 4  # names in a line


class TextFiles(NamedTuple):
    """The files of a folder.

    Attributes:
      splits: by "train", "valid" and "test", those that have any; each by name.
      unused: what might have been meant, by name.
    """

    splits: dict[str, list[Path]]
    unused: list[Path]

    def describe(self) -> str:
        """Returns, in one line, which file is for what."""
        parts = {split: self.splits[split] for split in SPLITS if split in self.splits}
        parts |= {"not used": self.unused} if self.unused else {}
        return "; ".join(f"{what}: {_some(paths)}" for what, paths in parts.items())


def find_files(folder: Path) -> TextFiles:
    """Finds the files of each split.

    They are those with the name of a split as a word, in any case and place: `train.txt`,
    `ptb.valid.txt`, `wiki.test.tokens`, `x_val.txt`, `Dev-00.TXT`, `testBooks.txt`. Where none is
    named for training, the `.txt` files that are named for no split train. Names that begin with a
    dot are passed over: folders that were copied from a Mac hold one beside each file.

    Args:
      folder: a folder, or one file, which is for training.

    Raises:
      UserError: no such folder, no text for training, or a name with several splits in it.
    """
    if folder.is_file():
        return TextFiles({"train": [folder]}, [])
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: data.text_dir names one with .txt files")
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    others, unused = [], []
    for path in paths:
        named = _splits_in(path.stem)
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith(".") or not path.is_file():
            if path.suffix.lower() in _SUFFIXES or named:
                unused.append(path)
        elif len(named) > 1:
            raise UserError(
                f"{path} may be for {' or for '.join(named)}, by its name (data.text_dir): give it"
                " one with one of these words, or take it away"
            )
        elif named:
            splits[named[0]].append(path)
        else:
            others.append(path)
    if not splits["train"]:
        splits["train"] = [path for path in others if path.suffix.lower() == ".txt"]
        others = [path for path in others if path not in splits["train"]]
    if not splits["train"]:
        held_out = [path for paths in splits.values() for path in paths]
        what = f"but for {_some(held_out)}, there is no .txt file" if held_out else "no .txt file"
        raise UserError(f"{what} to train on in {folder} (data.text_dir)")
    found = {split: paths for split, paths in splits.items() if paths}
    return TextFiles(found, sorted(unused + others))


def lines_of(paths: Iterable[Path], marked: list[Path]) -> Iterator[str]:
    """Yields the lines of some files, with their ends; a byte order mark is left out.

    Args:
      paths: the files, in UTF-8.
      marked: gets those that began with a byte order mark.

    Raises:
      UserError: one of them is not text in UTF-8.
      OSError: one of them cannot be read.
    """
    for path in paths:
        with path.open("rb") as file:
            start = file.peek()
            if b"\0" in start:  # valid in UTF-8, and in no text
                raise UserError(f"{path} is not text in UTF-8: it holds zero bytes")
            if start.startswith(codecs.BOM_UTF8):
                file.read(len(codecs.BOM_UTF8))
                marked.append(path)
            yield from read_lines(file, str(path))


def _splits_in(stem: str) -> list[str]:
    """Returns the splits that a name without its suffix names."""
    # A word ends at what is no letter, and before a capital after a small letter.
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", stem)
    words = {re.sub(r"(set|data)$", "", word.lower()) for word in words}
    return [split for split in SPLITS if words & set(_NAMES[split])]


def _some(paths: list[Path]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(path.name for path in paths[:_SHOWN]) + more
