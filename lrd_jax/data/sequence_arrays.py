"""Sequences from `.npz` and `.npy` files."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.data.sequence import Layout, Place, Sequences, check_values, default_names
from lrd_jax.errors import UserError, one_line


def read_arrays(
    path: Path, layout: Layout, need_targets: bool, at_once: int
) -> Iterator[Sequences]:
    """Reads `.npz` and `.npy`; arguments and errors as of `sequence_files.stream`.

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
    """Yields the sequences of an archive some at a time, checked.

    Args:
      path: of the file, for messages.
      arrays: its arrays by name, `inputs` `(sequences, time, channels)` with `lengths`, or `x_0`
        `(time, channels)`, `x_1`, ...; perhaps `targets` (or `y_0`, ...) and `ids`.
      layout: which names the columns of a table have; without target columns targets are not read.
      need_targets: whether a file without them is refused.
      at_once: sequences in each part.

    Raises:
      UserError: arrays that are missing, do not fit each other, or are of another shape or kind.
    """
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
