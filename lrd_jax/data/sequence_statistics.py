"""What is counted of training sequences, some at a time, before anything is fitted to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lrd_jax.data.sequence import Place, Sequences, in_order
from lrd_jax.errors import UserError

MOST_LABELS = 10_000
"""That are remembered."""


class Moments:
    """Count, mean, spread and range of columns, over what is added; NaN counts for nothing."""

    def __init__(self, columns: int) -> None:
        self.count = np.zeros(columns)
        self.mean, self.square = np.zeros(columns), np.zeros(columns)  # of deviations, summed
        self.low, self.high = np.full(columns, np.inf), np.full(columns, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Adds rows `(rows, columns)`, by the update of Chan, Golub and LeVeque (1983)."""
        values = values.astype(np.float64)
        there = ~np.isnan(values)
        count = there.sum(0)
        total = self.count + count
        mean = np.where(there, values, 0).sum(0) / np.maximum(count, 1)
        square = (np.where(there, values - mean, 0) ** 2).sum(0)
        shift = mean - self.mean
        self.square += square + shift**2 * self.count * count / np.maximum(total, 1)
        self.mean += shift * count / np.maximum(total, 1)
        self.count = total
        self.low = np.minimum(self.low, np.where(there, values, np.inf).min(0))
        self.high = np.maximum(self.high, np.where(there, values, -np.inf).max(0))

    def scaling(self, how: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns offset and scale of each column; a constant one is not scaled."""
        zero, one = np.zeros_like(self.mean), np.ones_like(self.mean)
        offset = {"none": zero, "standard": self.mean, "minmax": self.low}[how]
        deviation = np.sqrt(self.square / np.maximum(self.count, 1))
        width = {"none": one, "standard": deviation, "minmax": self.high - self.low}[how]
        # Rounding leaves a spread of about 1e-16 of a constant's own size.
        constant = width <= 1e-12 * np.maximum(np.abs(self.mean), 1e-30)
        return tuple(offset.tolist()), tuple((1 / np.where(constant, 1, width)).tolist())

    def to_json(self) -> dict[str, list[float]]:
        """Returns what `from_json` takes."""
        return {name: array.tolist() for name, array in vars(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, list[float]]) -> Moments:
        """Reads what `to_json` gave."""
        made = cls(0)
        vars(made).update({name: np.array(values, float) for name, values in content.items()})
        return made


class Statistics:
    """What `fit` needs to know of training sequences; add them, some at a time."""

    def __init__(self) -> None:
        self.channels: tuple[str, ...] = ()
        self.target_names: tuple[str, ...] = ()
        self.lengths: list[int] = []
        self.per_step = False  # a target beside each step
        self.varies = ""  # where a target first differs within a sequence
        self.missing = ""  # where a value is first missing, with its channel
        self.numeric, self.whole = True, True  # all targets are numbers, whole ones
        self.labels: set[str] = set()
        self.inputs, self.once, self.steps = Moments(0), Moments(0), Moments(0)

    def add(self, sequences: Sequences) -> None:
        """Counts some sequences.

        Raises:
            UserError: they have other channels than those before.
        """
        if not self.channels:
            self.channels, self.target_names = sequences.channels, sequences.target_names
            self.per_step = sequences.per_step and sequences.targets is not None
            self.inputs = Moments(len(self.channels))
            self.once, self.steps = (Moments(len(self.target_names)) for _ in range(2))
        sequences = in_order(sequences, self.channels)
        for values, place in zip(sequences.inputs, sequences.places, strict=True):
            self.lengths.append(len(values))
            if not self.missing and np.isnan(values).any():
                self.missing = first_missing(values, place, self.channels)
        self.inputs.add(np.concatenate(sequences.inputs))
        for target, place in zip(sequences.targets or (), sequences.places, strict=False):
            self._add_target(target, place)

    def _add_target(self, target: np.ndarray, place: Place) -> None:
        """Counts a target, `(numbers,)` or `(time, numbers)`; UserError where it is missing."""
        rows = target if self.per_step else target[None]
        if not self.varies and (differs := (rows != rows[0]).any(1)).any():
            self.varies = place.at(int(differs.argmax()))
        if len(self.labels) <= MOST_LABELS:
            self.labels.update(label_text(each) for each in set(rows.ravel().tolist()))
        if not self.numeric:
            return
        try:
            numbers = rows.astype(np.float64)
        except ValueError:
            self.numeric = False
            return
        if not np.isfinite(numbers).all():
            step = int(np.argwhere(~np.isfinite(numbers))[0, 0])
            raise UserError(f"{place.at(step)}: the target is missing or infinite")
        self.whole = self.whole and bool((numbers == np.round(numbers)).all())
        self.once.add(numbers[:1])
        self.steps.add(numbers)

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` takes, without the lengths."""
        content = {k: v for k, v in vars(self).items() if k != "lengths"}
        moments = {k: v.to_json() for k, v in content.items() if isinstance(v, Moments)}
        return content | moments | {"labels": sorted(self.labels)}

    @classmethod
    def from_json(cls, content: dict[str, Any], lengths: Sequence[int]) -> Statistics:
        """Reads what `to_json` gave."""
        made = cls()
        for name, value in content.items():
            kind = type(getattr(made, name))
            setattr(made, name, Moments.from_json(value) if kind is Moments else kind(value))
        made.lengths = list(lengths)
        return made


def statistics(parts: Iterable[Sequences]) -> Statistics:
    """Returns the statistics of training sequences, read some at a time."""
    found = Statistics()
    for part in parts:
        found.add(part)
    return found


def label_text(value: Any) -> str:
    """Returns a label as text; a whole number is written alike in every format."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def first_missing(values: np.ndarray, place: Place, channels: Sequence[str]) -> str:
    """Says where the first value is missing, and of which channel.

    Args:
        values: `(time, channels)`, with a NaN.
        place: of the sequence in its file.
        channels: their names.
    """
    step, channel = np.argwhere(np.isnan(values))[0]
    return f"{place.at(int(step))}: channel {channels[channel]!r} has no value"
