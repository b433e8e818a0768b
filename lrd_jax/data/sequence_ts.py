"""The `.ts` files of the UCR/UEA archive of time series.

Format: Bagnall et al. (2018), "The UEA multivariate time series classification archive",
arXiv:1811.00075, and the archive's page on `.ts` files: a header of lines that begin with "@", then
one sequence a line, its channels separated by ":", its values by ",", the label last; "?" is a
missing value. Sequences may differ in length, channels of one sequence may not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrd_jax.data.sequence import Layout, Place, Sequences, check_values, default_names
from lrd_jax.errors import UserError


class _Header(NamedTuple):
    """What the lines before "@data" say.

    Attributes:
        labelled: whether the last part of a line is a label.
        classes: the labels that there are; () where it is a number.
        dimensions: channels; 0 where nothing is said.
        length: steps of every sequence; 0 where nothing is said.
    """

    labelled: bool
    classes: tuple[str, ...]
    dimensions: int
    length: int


def read_ts(path: Path, layout: Layout, need_targets: bool, at_once: int) -> Iterator[Sequences]:
    """Reads the sequences of a file; arguments and errors as of `sequence_files.stream`."""
    header, number, count = {}, 0, 0
    parsed: _Header | None = None
    some = _empty()
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                line = line.strip()
                if not line or line.startswith("#"):
                    continue
                place = Place(str(path), number, "line")
                if parsed is None:
                    if line.lower() == "@data":
                        parsed = _parse(header, path, layout, need_targets)
                    elif line.startswith("@"):
                        key, *values = line[1:].split()
                        header[key.lower()] = values
                    else:
                        raise UserError(f"{place.at()}: data before the line @data")
                    continue
                _add(some, line, parsed, place, layout, str(count))
                count += 1
                if len(some) == at_once:
                    yield some
                    some = _empty()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (after line {number})") from error
    if parsed is None:
        raise UserError(f"{path} has no line @data: it is no .ts file, or is cut")
    if len(some):
        yield some


def _empty() -> Sequences:
    return Sequences([], [], None, False, (), (), [])


def _parse(header: dict[str, list[str]], path: Path, layout: Layout, need_targets: bool) -> _Header:
    """What the `@` lines of a file say; UserError for what is not read."""

    def says(key: str) -> bool:
        return [value.lower() for value in header.get(key, [])[:1]] == ["true"]

    def number(key: str) -> int:
        value = "".join(header.get(key, ["0"]))
        if not value.isdecimal():
            raise UserError(f"{path}: @{key} {value} is no number")
        return int(value)

    if says("timestamps"):
        raise UserError(f"{path} has time stamps (@timeStamps true), which are not read")
    labelled = says("classlabel") or says("targetlabel")
    if not labelled and need_targets and layout.target_columns:
        raise UserError(f"{path} has no labels; set data.target=next for a forecast")
    classes = tuple(header.get("classlabel", [])[1:]) if says("classlabel") else ()
    dimensions = 1 if says("univariate") else number("dimensions")
    length = number("serieslength") if says("equallength") else 0
    return _Header(labelled, classes, dimensions, length)


def _add(
    some: Sequences, line: str, header: _Header, place: Place, layout: Layout, name: str
) -> None:
    """Adds the sequence of a line."""
    parts = [part.strip() for part in line.split(":")]
    label = parts.pop() if header.labelled else ""
    if not parts:
        raise UserError(f"{place.at()}: a label and no values")
    if header.labelled:
        _check_label(label, header, place)
    channels = [_values(part, place, index) for index, part in enumerate(parts)]
    lengths = [len(channel) for channel in channels]
    if len(set(lengths)) > 1:
        odd = next(index for index, length in enumerate(lengths) if length != lengths[0])
        raise UserError(
            f"{place.at()}: channel {odd} has {lengths[odd]} steps, and channel 0 has {lengths[0]}"
        )
    if header.dimensions and len(channels) != header.dimensions:
        raise UserError(
            f"{place.at()} has {len(channels)} channels, and the header names {header.dimensions}"
        )
    if some.inputs and len(channels) != len(some.channels):
        raise UserError(
            f"{place.at()} has {len(channels)} channels, and the line before {len(some.channels)}"
        )
    if header.length and lengths[0] != header.length:
        raise UserError(
            f"{place.at()} has {lengths[0]} steps, and the header says that all have"
            f" {header.length} (@seriesLength)"
        )
    with np.errstate(over="ignore"):
        inputs = np.stack(channels, axis=1).astype(np.float32)
    some.channels = default_names(len(channels), layout, place.at())
    check_values(inputs, place, some.channels)
    some.ids.append(name)
    some.inputs.append(inputs)
    some.places.append(place)
    if header.labelled and layout.target_columns:
        some.targets = some.targets or []
        some.targets.append(np.array([label if header.classes else float(label)]))
        some.target_names = layout.target_columns[:1]


def _check_label(label: str, header: _Header, place: Place) -> None:
    """Raises UserError for a label that the header does not list, or a target that is no number."""
    if header.classes and label not in header.classes:
        raise UserError(
            f"{place.at()}: the label {label[:40]!r} is none of @classLabel"
            f" ({', '.join(header.classes)[:80]})"
        )
    if not header.classes:
        try:
            float(label)
        except ValueError:
            raise UserError(f"{place.at()}: the target {label[:40]!r} is no number") from None


def _values(text: str, place: Place, channel: int) -> np.ndarray:
    """Returns the values of one channel, float64."""
    if not text:
        return np.zeros(0)
    if text.startswith("("):
        raise UserError(f"{place.at()}: time stamps, (time, value), are not read")
    words = text.split(",")
    try:
        return np.array([np.nan if word.strip() == "?" else float(word) for word in words])
    except ValueError:
        wrong = next(word for word in words if word.strip() != "?" and not _is_number(word))
        raise UserError(
            f"{place.at()}: {wrong.strip()[:40]!r} in channel {channel} is no number"
        ) from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
