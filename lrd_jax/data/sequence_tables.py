"""Sequences from one table in long form, `.csv` or `.parquet`: a row is a step of a sequence.

Read with pyarrow in batches of rows, so that a table may be larger than memory. The rows of a
sequence stand together, and its time increases: what is not sorted is refused, since sorting would
need all of it.
"""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.data.sequence import Layout, Place, Sequences, check_values
from lrd_jax.errors import UserError, did_you_mean, one_line

_MISSING = ["", "?", "NA", "N/A", "nan", "NaN", "NAN", "null", "NULL"]
_BLOCK = 2**22  # bytes of a .csv file that are parsed at a time
_ROWS = 2**16  # of a .parquet file


def read_table(path: Path, layout: Layout, need_targets: bool, at_once: int) -> Iterator[Sequences]:
    """Reads the sequences of a table; arguments and errors as of `sequence_files.stream`.

    Targets are always those of each row: only the whole table shows whether they differ within a
    sequence.
    """
    is_csv = path.suffix.lower() == ".csv"
    names, batches = _open_csv(path) if is_csv else _open_parquet(path)
    columns = _Columns(path, names, layout, need_targets)
    first = 2 if is_csv else 1  # an editor counts the line of names
    reader = _Reader(path, columns, first)
    some: list[tuple[str, Any, Any, Place]] = []
    for batch in batches:
        some += reader.add(batch)
        while len(some) >= at_once:
            yield columns.sequences(some[:at_once])
            some = some[at_once:]
    some += reader.end()
    for start in range(0, len(some), at_once):
        yield columns.sequences(some[start : start + at_once])


class _Columns:
    """Which columns are read as what."""

    def __init__(self, path: Path, names: Sequence[str], layout: Layout, need: bool) -> None:
        if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
            raise UserError(f"{path} has two columns {twice[0]!r}")
        self._path, self._names, self._training = path, names, need
        self.id = self._found(layout.id_column, "id_column")
        self.time = layout.time_column and self._found(
            layout.time_column, "time_column", ', or "" where the rows are in order'
        )
        self.targets = tuple(n for n in layout.target_columns if need or n in names)
        for name in self.targets:
            self._found(name, "target_columns", ", or data.target=next for a forecast")
        known = {self.id, self.time, *layout.target_columns}
        self.channels = layout.channels or tuple(name for name in names if name not in known)
        for name in self.channels:
            self._found(name, "channels")
        if need and (both := [name for name in self.channels if name in self.targets]):
            raise UserError(
                f"{path}: column {both[0]!r} is the target, and a channel too, from which it would"
                " be read off: leave it out of data.channels, or set data.target=next to forecast"
            )
        if not self.channels:
            raise UserError(f"{path} has no columns that could be channels: {', '.join(names)}")

    def _found(self, name: str, key: str, otherwise: str = "") -> str:
        """The name of a column that is there; UserError, with a hint, where it is not."""
        if name in self._names:
            return name
        shown = ", ".join(self._names)[:120]
        hint = did_you_mean(name, self._names)
        if len(self._names) == 1 and (marks := [m for m in ";\t|" if m in self._names[0]]):
            raise UserError(
                f"{self._path}: its columns are separated by {marks[0]!r}; use commas, and a point"
                " in numbers"
            )
        advice = f"name another by data.{key}{otherwise}"
        if not self._training:  # for a prediction, where no key of the data can change
            advice = "call it as the training files do"
        raise UserError(f"{self._path} has no column {name!r}{hint}: it has {shown}; {advice}")

    def sequences(self, some: Sequence[tuple[str, Any, Any, Place]]) -> Sequences:
        """Returns read sequences, each name, inputs, targets and place."""
        names, inputs, targets, places = (list(each) for each in zip(*some, strict=True))
        for each, place in zip(inputs, places, strict=True):
            check_values(each, place, self.channels)
        return Sequences(
            names,
            inputs,
            targets if self.targets else None,
            True,
            self.channels,
            self.targets,
            places,
        )


class _Reader:
    """Cuts batches of rows into sequences; one may go on from batch to batch."""

    def __init__(self, path: Path, columns: _Columns, first_row: int) -> None:
        self._path, self._columns, self._row = path, columns, first_row
        self._began: dict[str, int] = {}  # of each sequence its first row
        self._name, self._parts = "", []

    def add(self, batch: Any) -> list[tuple[str, Any, Any, Place]]:
        """Returns the sequences that have ended within the rows so far."""
        pc = _compute()

        if not batch.num_rows:
            return []
        columns, ended = self._columns, []
        ids = pc.cast(batch.column(columns.id), "string")
        if ids.null_count:
            row = self._row + ids.is_null().to_pylist().index(True)
            raise UserError(
                f"{self._path}, row {row}: column {columns.id!r} is empty: which sequence?"
            )
        inputs = np.stack([self._numbers(batch, name) for name in columns.channels], axis=1)
        with np.errstate(over="ignore"):
            inputs = inputs.astype(np.float32)
        time = self._time(batch, columns.time) if columns.time else None
        targets = self._targets(batch) if columns.targets else None
        runs = pc.run_end_encode(ids)
        start = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if name != self._name or not self._parts:
                ended += self.end()
                self._begin(name, self._row + start)
            part = slice(start, end)
            self._parts.append(
                (inputs[part], *(None if x is None else x[part] for x in (targets, time)))
            )
            start = end
        self._row += batch.num_rows
        return ended

    def _begin(self, name: str, row: int) -> None:
        if name in self._began:
            raise UserError(
                f"{self._path}, row {row}: sequence {name!r}, begun in row {self._began[name]},"
                " goes on after another one: sort the table by sequence and time"
            )
        self._began[name] = row
        self._name = name

    def end(self) -> list[tuple[str, Any, Any, Place]]:
        """Returns the sequence under way, if any, as ended."""
        if not self._parts:
            return []
        inputs, targets, times = zip(*self._parts, strict=True)
        self._parts = []
        place = Place(str(self._path), self._began[self._name], "row", by_step=True)
        if self._columns.time:
            self._check_time(np.concatenate(times), place)
        target = np.concatenate(targets) if self._columns.targets else None
        return [(self._name, np.concatenate(inputs), target, place)]

    def _check_time(self, time: np.ndarray, place: Place) -> None:
        late = np.flatnonzero(time[1:] <= time[:-1])
        if len(late):
            step = int(late[0]) + 1
            raise UserError(
                f"{place.at(step)}: the time of sequence {self._name!r} does not increase"
                f" ({time[step - 1]} before {time[step]})"
            )

    def _numbers(self, batch: Any, name: str, what: str = "a number") -> np.ndarray:
        """A column as float64, NaN where it is empty."""
        import pyarrow as pa

        pc = _compute()

        column = batch.column(name)
        try:
            if pa.types.is_string(column.type):
                column = pc.utf8_trim_whitespace(column)
            return pc.cast(column, "float64").to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            row, value = self._first_wrong(column)
            raise UserError(
                f"{self._path}, row {row}: {value!r} in column {name!r} is not {what}"
            ) from error

    def _first_wrong(self, column: Any) -> tuple[int, str]:
        for row, value in enumerate(column.to_pylist()):
            try:
                float(value if value is not None else 0)
            except (TypeError, ValueError):
                return self._row + row, str(value)[:40]
        return self._row, str(column[0])[:40]

    def _time(self, batch: Any, name: str) -> np.ndarray:
        """A column of times, numbers or dates, in a type that can be compared."""
        import pyarrow as pa

        pc = _compute()

        column = batch.column(name)
        if column.null_count:
            row = self._row + column.is_null().to_pylist().index(True)
            raise UserError(f"{self._path}, row {row}: the time is missing")
        if pa.types.is_string(column.type):
            try:
                column = pc.cast(pc.utf8_trim_whitespace(column), "float64")
            except pa.ArrowInvalid:
                try:
                    column = pc.cast(column, pa.timestamp("ns"))
                except pa.ArrowInvalid:
                    return self._numbers(batch, name, "a number or a date like 2024-01-31 12:00")
        return column.to_numpy(zero_copy_only=False)

    def _targets(self, batch: Any) -> np.ndarray:
        """The columns of the target, (rows, columns): text, whole numbers or float64."""
        import pyarrow as pa

        pc = _compute()

        found = []
        for name in self._columns.targets:
            column = batch.column(name)
            if pa.types.is_dictionary(column.type):
                column = pc.cast(column, column.type.value_type)
            if column.null_count:
                row = self._row + column.is_null().to_pylist().index(True)
                none = ", ".join(map(repr, _MISSING[1:]))
                raise UserError(
                    f"{self._path}, row {row}: the target {name!r} is missing (an empty cell and"
                    f" {none} count as missing)"
                )
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                found.append(column.to_numpy(zero_copy_only=False))
            else:
                text = pc.utf8_trim_whitespace(pc.cast(column, "string"))
                found.append(np.array(text.to_pylist(), object))
        return np.stack(found, axis=1)


def _open_csv(path: Path) -> tuple[list[str], Iterator[Any]]:
    """Returns the names of the columns, and batches of rows; every column is text."""
    pyarrow = _pyarrow(path)
    from pyarrow import csv as arrow_csv

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = [name.strip() for name in next(csv.reader(file), [])]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8") from error
    if not names:
        raise UserError(f"{path} is empty")
    if "" in names:
        raise UserError(
            f"{path}: column {names.index('') + 1} has no name (an index that pandas wrote? use"
            " index=False)"
        )

    def batches() -> Iterator[Any]:
        try:
            # One thread: only so the rows are counted.
            yield from arrow_csv.open_csv(
                path,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK, column_names=names, skip_rows=1
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pyarrow.string()),
                    null_values=_MISSING,
                    strings_can_be_null=True,
                ),
            )
        except pyarrow.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return  # names and no rows
            # A handler of such rows in Python would be called, or freed, by a thread of Arrow's,
            # while Python ends perhaps: an abort.
            if row := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", str(error)):
                raise UserError(
                    f"{path}, row {row[1]}: {row[3]} values, and the table has {row[2]} columns"
                ) from error
            raise UserError(f"{path} is no CSV table: {one_line(str(error))[:120]}") from error

    return names, batches()


def _open_parquet(path: Path) -> tuple[list[str], Iterator[Any]]:
    """Names of the columns and an iterator over batches of rows; UserError where it is damaged."""
    pyarrow = _pyarrow(path)
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is no Parquet file: {one_line(str(error))[:120]}") from error

    def batches() -> Iterator[Any]:
        try:
            yield from file.iter_batches(batch_size=_ROWS)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path} is damaged: {one_line(str(error))[:120]}") from error

    return list(file.schema_arrow.names), batches()


def _compute() -> Any:
    """Returns pyarrow's functions, which are made when it is loaded: no checker knows them."""
    return importlib.import_module("pyarrow.compute")


def _pyarrow(path: Path) -> Any:
    """Returns the library that reads tables; UserError where it is missing."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(f"{path}: tables need pyarrow: pip install 'lrd-jax[tables]'") from error
    return pyarrow
