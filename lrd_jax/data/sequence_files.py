"""Sequences of a person's own, from files: what they hold, checked, and where each stands.

Formats: `.npz` and `.npy` (this file), one table in long form as `.csv` or `.parquet`
(`sequence_tables`), and the `.ts` files of the UCR/UEA archive (`sequence_ts`). Files are read in
order, some sequences at a time, and may be larger than memory. Nothing is executed: an array of
objects is refused, never unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.errors import UserError, one_line

AT_ONCE = 256
"""Sequences that `stream` gives at a time."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is to be found where; the fields are called like keys of `config.data`.

    Attributes:
        id_column: tables: column that names the sequence of a row.
        time_column: tables: column of the time, which must increase; "" = the order of the rows.
        target_columns: tables: columns of the target; () = there is none.
        channels: tables: columns that are read as channels; () = all others. Other files: their
            names, in order; () = x0, x1, ...
    """

    id_column: str = "id"
    time_column: str = "time"
    target_columns: tuple[str, ...] = ("target",)
    channels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a sequence stands, for messages.

    Attributes:
        file: its path.
        row: of the sequence's first step, or of all of it; as an editor counts.
        unit: what is counted: "row", "line", or "" where `row` is none.
        by_step: whether each step has a row of its own.
        name: of the array, of files that have some.
    """

    file: str
    row: int = 0
    unit: str = ""
    by_step: bool = False
    name: str = ""

    def at(self, step: int = 0) -> str:
        """Names file and row of a step, e.g. "train.csv, row 7"."""
        row = f"{self.unit} {self.row + step * self.by_step}" if self.unit else ""
        inside = "" if self.by_step or not step else f"step {step}"
        return ", ".join(part for part in (self.file, self.name, row, inside) if part)


@dataclasses.dataclass
class Sequences:
    """Some sequences as they stand in files; a missing value is NaN.

    Attributes:
        ids: of each sequence.
        inputs: of each, (time, channels) float32.
        targets: of each, text, whole numbers or float64: (numbers,), or (time, numbers) where
            `per_step`; None where the files have none.
        per_step: whether a target stands beside each step. A table always has them so.
        channels: names of the channels.
        target_names: of the columns of the targets.
        places: where each stands.
    """

    ids: list[str]
    inputs: list[np.ndarray]
    targets: list[np.ndarray] | None
    per_step: bool
    channels: tuple[str, ...]
    target_names: tuple[str, ...]
    places: list[Place]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, numbers: Sequence[int]) -> Sequences:
        """Returns some of them, in this order."""

        def of(values: list[Any]) -> list[Any]:
            return [values[number] for number in numbers]

        targets = None if self.targets is None else of(self.targets)
        return dataclasses.replace(
            self, ids=of(self.ids), inputs=of(self.inputs), targets=targets, places=of(self.places)
        )


def read(path: str | Path, layout: Layout = Layout(), *, need_targets: bool = True) -> Sequences:
    """Reads all sequences of one file; arguments, and errors, as of `stream`."""
    return joined(list(stream(path, layout, need_targets=need_targets)))


def stream(
    path: str | Path,
    layout: Layout = Layout(),
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
        return _read_arrays
    raise UserError(f"{path}: sequences are read from files in {', '.join(ENDINGS)}")


ENDINGS = (".npz", ".npy", ".csv", ".parquet", ".ts")


def joined(parts: Sequence[Sequences]) -> Sequences:
    """Returns sequences of one kind as one."""
    first = parts[0]
    targets = None
    if first.targets is not None:
        targets = [target for part in parts for target in part.targets or ()]
    return dataclasses.replace(
        first,
        ids=[name for part in parts for name in part.ids],
        inputs=[each for part in parts for each in part.inputs],
        targets=targets,
        places=[place for part in parts for place in part.places],
    )


def check_values(inputs: np.ndarray, place: Place, channels: Sequence[str]) -> None:
    """Raises UserError where a sequence is empty, or a value infinite (or too large for float32).

    Missing values, NaN, are left to `sequence_fit`, which knows whether they may be.
    """
    if not len(inputs):
        raise UserError(f"{place.at()}: the sequence is empty")
    if np.isinf(inputs).any():
        step, channel = np.argwhere(np.isinf(inputs))[0]
        raise UserError(
            f"{place.at(int(step))}: channel {channels[channel]!r} is infinite, or too large for"
            " float32"
        )


def default_names(count: int, layout: Layout, place: str) -> tuple[str, ...]:
    """Returns the names of channels that the file does not name; UserError if too many or few."""
    if layout.channels and len(layout.channels) != count:
        raise UserError(
            f"{place} has {count} channels, and data.channels names {len(layout.channels)}"
        )
    return layout.channels or tuple(f"x{number}" for number in range(count))


# ---- Arrays -------------------------------------------------------------------------------------


def _read_arrays(
    path: Path, layout: Layout, need_targets: bool, at_once: int
) -> Iterator[Sequences]:
    """Reads `.npz` and `.npy`.

    `.npz`: `inputs` (sequences, time, channels), or (sequences, time) for one channel, with
    `lengths` where they differ; or arrays `x_0`, `x_1`, ..., each (time, channels) or (time,).
    `targets`: (sequences, ...), or (sequences, time, ...) for one a step; beside `x_0` perhaps
    `y_0`, `y_1`, ... for one a step. `ids` names the sequences. `.npy`: the inputs, the others
    beside it in files like `train_lengths.npy`.
    """
    try:
        with _arrays(path) as arrays:
            yield from _split_arrays(path, arrays, layout, need_targets, at_once)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is damaged ({one_line(str(error))})") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        text = one_line(str(error))
        if "allow_pickle" in text:
            raise UserError(
                f"{path} holds an array of objects, which is never unpickled: save arrays of"
                " numbers x_0, x_1, ..., or one padded array and its lengths"
            ) from error
        raise UserError(f"{path} is damaged ({text[:100]})") from error


class _Files:
    """The arrays of `.npy` files that lie side by side, under the names that `.npz` gives them."""

    def __init__(self, path: Path) -> None:
        self._paths = {"inputs": path}
        for name in ("lengths", "targets", "ids"):
            if (beside := path.with_name(f"{path.stem}_{name}.npy")).exists():
                self._paths[name] = beside
        self.files = list(self._paths)

    def __getitem__(self, name: str) -> np.ndarray:
        # Mapped, so that of a large file only what is asked for is read.
        return np.load(self._paths[name], mmap_mode="r", allow_pickle=False)


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Any]:
    if path.suffix.lower() == ".npy":
        yield _Files(path)
        return
    with path.open("rb") as file:  # NumPy would leave a damaged one open
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise UserError(f"{path} is an array of its own, as .npy files have them: call it so")
        yield found


def _split_arrays(
    path: Path, arrays: Any, layout: Layout, need_targets: bool, at_once: int
) -> Iterator[Sequences]:
    names = set(arrays.files)
    single = sorted((n for n in names if n[:2] == "x_" and n[2:].isdecimal()), key=_number)
    if ("inputs" in names) == bool(single):
        raise UserError(
            f"{path} must hold either `inputs` (padded, with `lengths`) or x_0, x_1, ...; it holds"
            f" {', '.join(sorted(names)) or 'nothing'}"
        )
    own = [f"y_{_number(name)}" for name in single]
    whole = arrays["inputs"] if not single else None
    count = len(single) if whole is None else len(whole)
    by_step = bool(single) and "targets" not in names and own[0] in names
    targets = arrays["targets"] if "targets" in names else None
    if targets is None and not by_step and need_targets and layout.target_columns:
        raise UserError(f"{path} has no array `targets`; set data.target=next for a forecast")
    if not layout.target_columns:
        targets, by_step = None, False
    lengths = arrays["lengths"] if "lengths" in names else None
    ids = [str(each) for each in arrays["ids"].tolist()] if "ids" in names else None
    for name, beside in (("lengths", lengths), ("targets", targets), ("ids", ids)):
        if beside is not None and len(beside) != count:
            raise UserError(f"{path}: `{name}` has {len(beside)} entries for {count} sequences")
    if ids is not None and len(set(ids)) < count:
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{path}: `ids` has {twice!r} twice")
    per_step = by_step
    if whole is not None:
        if whole.ndim not in (2, 3) or (lengths is not None and lengths.dtype.kind not in "iu"):
            raise UserError(
                f"{path}: `inputs` {whole.shape} must be (sequences, time, channels) or (sequences,"
                " time), and `lengths` whole numbers"
            )
        per_step = targets is not None and targets.ndim > 1 and _is_per_step(targets, whole)
    for start in range(0, count, at_once):
        some = Sequences([], [], None, per_step, (), (), [])
        found = []
        for number in range(start, min(start + at_once, count)):
            if whole is None:
                place = Place(str(path), name=single[number])
                values = arrays[single[number]]
            else:
                place = Place(str(path), name=f"inputs[{number}]")
                values = whole[number][: _length(lengths, number, whole.shape[1], place)]
            values = _as_steps(values, place)
            channels = default_names(values.shape[1], layout, place.at())
            _check_channels(some, channels, place)
            check_values(values, place, channels)
            some.channels = channels
            some.ids.append(str(number) if ids is None else ids[number])
            some.inputs.append(values)
            some.places.append(place)
            if by_step:
                if own[number] not in names:
                    raise UserError(f"{path} has {single[number]} and no {own[number]}")
                found.append(_steps_of(arrays[own[number]], len(values), place))
            elif targets is not None:
                one = targets[number][: len(values)] if per_step else targets[number]
                found.append(np.array(one).reshape((len(values), -1) if per_step else -1))
        if found:
            _check_targets(found, path)
            some.targets = found
            some.target_names = target_names(layout, found[0].shape[-1])
        yield some


def target_names(layout: Layout, count: int) -> tuple[str, ...]:
    """Returns names of target columns, numbered where the layout does not name as many."""
    if len(layout.target_columns) == count:
        return layout.target_columns
    return tuple(f"{layout.target_columns[0]}{number}" for number in range(count))


def _is_per_step(targets: np.ndarray, whole: np.ndarray) -> bool:
    return targets.ndim == 3 or targets.shape[1] == whole.shape[1]


def _number(name: str) -> int:
    return int(name[2:])


def _length(lengths: Any, number: int, padded: int, place: Place) -> int:
    length = padded if lengths is None else int(lengths[number])
    if not 0 < length <= padded:
        why = "the sequence is empty" if length == 0 else f"its length does not fit {padded} steps"
        raise UserError(f"{place.at()}: lengths[{number}]={length}: {why}")
    return length


def _as_steps(values: np.ndarray, place: Place) -> np.ndarray:
    if values.dtype.kind not in "fiub" or values.ndim not in (1, 2):
        raise UserError(
            f"{place.at()} is {values.dtype} {values.shape}: a sequence is numbers (time, channels)"
        )
    with np.errstate(over="ignore"):
        values = np.array(values, np.float32)
    return values.reshape(len(values), -1) if values.size else values.reshape(0, 1)


def _check_channels(before: Sequences, channels: tuple[str, ...], place: Place) -> None:
    if before.inputs and len(channels) != len(before.channels):
        raise UserError(
            f"{place.at()} has {len(channels)} channels, and {before.places[-1].at()} has"
            f" {len(before.channels)}"
        )


def _steps_of(targets: np.ndarray, steps: int, place: Place) -> np.ndarray:
    if targets.ndim not in (1, 2) or len(targets) != steps:
        raise UserError(
            f"{place.at()} has {steps} steps, and its targets are {targets.shape}: one a step"
        )
    return targets.reshape(steps, -1)


def _check_targets(targets: Sequence[np.ndarray], path: Path) -> None:
    if len({each.shape[-1] for each in targets}) > 1 or targets[0].dtype.kind not in "fiubU":
        raise UserError(f"{path}: the targets must be numbers or text, as many for each sequence")
