"""Sequences of a person's own as they stand in files, and where each stands, for messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrd_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is to be found where; the fields are called like keys of `config.data`.

    One name may stand for a tuple of one.

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

    def __post_init__(self) -> None:
        for field in ("target_columns", "channels"):
            names = getattr(self, field)
            names = (names,) if isinstance(names, str) else tuple(names)
            if len(set(names)) < len(names):
                raise UserError(f"data.{field}={names} names a column twice")
            object.__setattr__(self, field, names)


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

    Args:
        inputs: `(time, channels)`.
        place: of the sequence in its file.
        channels: their names.
    """
    if not len(inputs):
        raise UserError(f"{place.at()}: the sequence is empty")
    if np.isinf(inputs).any():
        step, channel = np.argwhere(np.isinf(inputs))[0]
        raise UserError(
            f"{place.at(int(step))}: channel {channels[channel]!r} is infinite, or too large for"
            " float32"
        )


def in_order(sequences: Sequences, channels: tuple[str, ...]) -> Sequences:
    """Returns sequences whose channels stand in the order of those that are known, by their names.

    Raises:
        UserError: they have others.
    """
    if sequences.channels == channels:
        return sequences
    if sorted(sequences.channels) != sorted(channels):
        raise UserError(
            f"{sequences.places[0].at()} has the channels {', '.join(sequences.channels)[:80]}, and"
            f" those before have {', '.join(channels)[:80]}"
        )
    places = [sequences.channels.index(name) for name in channels]
    inputs = [values[:, places] for values in sequences.inputs]
    return dataclasses.replace(sequences, inputs=inputs, channels=channels)


def default_names(count: int, layout: Layout, place: str) -> tuple[str, ...]:
    """Returns the names of channels that the file does not name; UserError if too many or few."""
    if layout.channels and len(layout.channels) != count:
        raise UserError(
            f"{place} has {count} channels, and there should be {len(layout.channels)}"
            f" (data.channels: {', '.join(layout.channels)[:80]})"
        )
    return layout.channels or tuple(f"x{number}" for number in range(count))
