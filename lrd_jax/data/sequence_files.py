"""Sequences of a person's own, from files: `read`, or `stream` for what is larger than memory.

Formats: `.npz` and `.npy` (`sequence_arrays`), one table in long form as `.csv` or `.parquet`
(`sequence_tables`), and the `.ts` files of the UCR/UEA archive (`sequence_ts`). Files are read in
order, some sequences at a time. Nothing is executed: an array of objects is refused, never
unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lrd_jax.data.sequence import Layout, Place, Sequences, joined
from lrd_jax.errors import UserError, one_line

__all__ = ["ENDINGS", "Layout", "Place", "Sequences", "joined", "read", "stream"]

ENDINGS = (".npz", ".npy", ".csv", ".parquet", ".ts")
AT_ONCE = 256
"""Sequences that `stream` gives at a time."""


PLAIN = Layout()


def read(path: str | Path, layout: Layout = PLAIN, *, need_targets: bool = True) -> Sequences:
    """Reads all sequences of one file; arguments, and errors, as of `stream`."""
    return joined(list(stream(path, layout, need_targets=need_targets)))


def stream(
    path: str | Path,
    layout: Layout = PLAIN,
    *,
    need_targets: bool = True,
    at_once: int = AT_ONCE,
) -> Iterator[Sequences]:
    """Reads the sequences of one file, in order, some at a time.

    Args:
        path: of the file; its ending names the format.
        layout: what is to be found where.
        need_targets: whether a file without targets is refused; else they are read where they are
            there, as before a prediction.
        at_once: sequences at a time, at most.

    Yields:
        At least one sequence each time.

    Raises:
        UserError: the file cannot be read, or is wrong; names file and row.
    """
    path = Path(path)
    reader = _reader(path)
    found = 0
    try:
        for some in reader(path, layout, need_targets, at_once):
            found += len(some)
            yield some
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or one_line(str(error))}") from error
    if not found:
        raise UserError(f"{path} has no sequences")


def _reader(path: Path) -> Callable[..., Iterator[Sequences]]:
    """The function that reads a file, by its ending; UserError where there is none."""
    if path.is_dir() or not path.exists():
        what = "is a folder, name a file" if path.is_dir() else "there is no such file"
        raise UserError(f"cannot read {path}: {what}")
    ending = path.suffix.lower()
    if ending in (".csv", ".parquet"):
        from lrd_jax.data.sequence_tables import read_table

        return read_table
    if ending == ".ts":
        from lrd_jax.data.sequence_ts import read_ts

        return read_ts
    if ending in (".npz", ".npy"):
        from lrd_jax.data.sequence_arrays import read_arrays

        return read_arrays
    raise UserError(f"{path}: sequences are read from files in {', '.join(ENDINGS)}")
