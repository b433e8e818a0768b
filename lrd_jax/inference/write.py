"""Tables of predictions: rows are written as they come, and the file appears when it is whole."""

from __future__ import annotations

import contextlib
import csv
import importlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lrd_jax.errors import RunError, UserError

Columns = Mapping[str, Sequence[Any] | np.ndarray]
"""Name -> values of the rows, all of one length; every part of a table has the same names."""


class _Table(Protocol):
    """A file that grows by some rows at a time."""

    def write(self, columns: Columns) -> None:
        """Appends rows; the first call names the columns."""
        ...

    def close(self) -> None:
        """Writes what is left."""
        ...


def check(path: Path, inputs: Path) -> None:
    """Refuses an output that cannot be, before anything is computed.

    Args:
      path: of the table.
      inputs: what is read.

    Raises:
      UserError: an unknown format, one whose library is not installed, or a path that is the
        input, a folder, or in none.
    """
    kind = path.suffix.lower()
    if kind not in _TABLES:
        raise UserError(
            f"--output={path}: tables are written as {', '.join(_TABLES)}; end its name in one"
        )
    if kind == ".parquet":
        _pyarrow()
    if path.is_dir():
        raise UserError(f"--output={path} is a folder: name a file")
    if path.exists() and inputs.exists() and path.samefile(inputs):
        raise UserError(f"--output={path} is the input: choose another name")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output={path}: there is no folder {path.absolute().parent}")


@contextlib.contextmanager
def table(path: Path) -> Iterator[_Table]:
    """Opens a table for writing; an earlier one is replaced when this one is whole.

    Raises:
      RunError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        writer = _TABLES[path.suffix.lower()](temporary)
        try:
            yield writer
        finally:
            writer.close()
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class _Csv:
    """A `.csv` file, with a heading."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer, self._begun = csv.writer(self._file), False

    def write(self, columns: Columns) -> None:
        if not self._begun:
            self._writer.writerow(columns)
            self._begun = True
        self._writer.writerows(zip(*columns.values(), strict=True))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """A `.parquet` file, a group of rows at a time."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, None

    def write(self, columns: Columns) -> None:
        arrow = _pyarrow()
        part = arrow.table({name: arrow.array(values) for name, values in columns.items()})
        if self._file is None:
            parquet = importlib.import_module("pyarrow.parquet")
            self._file = parquet.ParquetWriter(self._path, part.schema)
        self._file.write_table(part)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Npz:
    """An array for each column. Parts lie on the disk beside it until their number is known."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, 0
        self._parts: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}

    def write(self, columns: Columns) -> None:
        for number, (name, values) in enumerate(columns.items()):
            array = np.asarray(values)
            if array.dtype.kind in "OU":  # texts are as wide as the longest of all
                self._texts.setdefault(name, []).extend(map(str, values))
                continue
            if name not in self._parts:
                file = self._path.with_name(f"{self._path.name}{number}").open("w+b")
                self._parts[name] = (file, array.dtype)
            file, dtype = self._parts[name]
            file.write(np.ascontiguousarray(array, dtype).data)
        self._rows += len(next(iter(columns.values())))

    def close(self) -> None:
        """Puts the columns together into one archive, and removes their files."""
        try:
            with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as members:
                for name, texts in self._texts.items():
                    with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.array(texts), allow_pickle=False)
                for name, (file, dtype) in self._parts.items():
                    header = {"fortran_order": False, "shape": (self._rows,)}
                    header["descr"] = np.lib.format.dtype_to_descr(dtype)
                    file.seek(0)
                    with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array_header_2_0(member, header)
                        while piece := file.read(2**20):
                            member.write(piece)
        finally:
            for file, _ in self._parts.values():
                file.close()
                Path(file.name).unlink(missing_ok=True)


_TABLES: dict[str, Any] = {".csv": _Csv, ".npz": _Npz, ".parquet": _Parquet}


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(
            ".parquet files need pyarrow: pip install 'lrd-jax[tables]', or write .csv"
        ) from error
