"""What is fitted on training sequences alone, and kept with the model: scaling, labels, kind.

`Statistics` reads sequences once, some at a time; `fit` makes a `Fit` of them, which turns
sequences as they stand in files into arrays for the network, those of training and those of a later
prediction alike. It is kept in the work directory as `sequences.json`. Nothing here loads JAX.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.data.sequence import Layout, Place, Sequences, in_order
from lrd_jax.data.sequence_statistics import (
    MOST_LABELS,
    Statistics,
    first_missing,
    label_text,
    statistics,
)
from lrd_jax.errors import UserError, check_choice, did_you_mean

__all__ = ["Arrays", "Fit", "Statistics", "fit", "kind_of", "label_text", "read_fit", "statistics"]

TARGETS = ("auto", "class", "number", "class_per_step", "number_per_step", "next")
SCALES = ("none", "standard", "minmax")
MISSING = ("refuse", "mask", "hold")
FILE = "sequences.json"
_SET_MISSING = "set data.missing=hold (the last value stands for it) or mask (a channel that tells)"
_FILL_IN = "fill it in: the model was trained without gaps (data.missing=refuse)"
_MOST_CLASSES = 100  # different whole numbers that are still taken for classes


@dataclasses.dataclass
class Arrays:
    """Sequences as the network and its loss take them, but for scaling, done on the device.

    Attributes:
        ids: of each sequence.
        inputs: of each, (time, features) float32, without NaN.
        targets: of each, by `Fit.kind`: a number of a class, int32 (); float32 (numbers,); or the
            same for each step, (time,) and (time, numbers); None where the files have none.
    """

    ids: list[str]
    inputs: list[np.ndarray]
    targets: list[np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Fit:
    """What was fitted on training sequences. The network sees `(inputs - offset) * scale`.

    Attributes:
        kind: `class`, `number`, `class_per_step`, `number_per_step` or `next`.
        channels: their names.
        target_names: of the columns of the target; of `next` the channels.
        classes: by their numbers; () where targets are numbers.
        missing: `refuse`, `mask` or `hold`.
        fill: of each channel what stands for a missing value, its training mean.
        offset: of each feature: the channels, with `mask` the channels that tell after them.
        scale: the same.
        target_offset: of each number that is predicted; targets are `(number - offset) * scale`.
        target_scale: the same.
        length: of the longest training sequence.
        layout: how the training files were read, for those of a later prediction; None of data of
            other kinds, and of earlier versions.
    """

    kind: str
    channels: tuple[str, ...]
    target_names: tuple[str, ...]
    classes: tuple[str, ...]
    missing: str
    fill: tuple[float, ...]
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    target_offset: tuple[float, ...]
    target_scale: tuple[float, ...]
    length: int
    layout: Layout | None = dataclasses.field(default=None, compare=False)

    @property
    def features(self) -> int:
        """Width of a step."""
        return len(self.offset)

    @property
    def outputs(self) -> int:
        """Width of what is predicted."""
        return len(self.classes) or len(self.target_names)

    @property
    def per_step(self) -> bool:
        """Whether something is predicted at every step."""
        return self.kind in ("class_per_step", "number_per_step", "next")

    def apply(self, sequences: Sequences, *, need_targets: bool = True) -> Arrays:
        """Turns sequences as they stand in files into arrays.

        Args:
            sequences: of any split, or to predict for.
            need_targets: False gives none.

        Raises:
            UserError: other channels, a missing value, a label that no training sequence has; names
                file and row.
        """
        sequences = in_order(sequences, self.channels)
        each = zip(sequences.inputs, sequences.places, strict=True)
        advice = _SET_MISSING if need_targets else _FILL_IN
        inputs = [self.filled(values, place, advice) for values, place in each]
        targets = None
        if need_targets and self.kind == "next":
            targets = [self.scaled(x[1:, : len(self.channels)]) for x in inputs]
            for values, place in zip(inputs, sequences.places, strict=True):
                if len(values) < 2:
                    raise UserError(f"{place.at()}: a forecast needs at least 2 steps")
            inputs = [values[:-1] for values in inputs]
        elif need_targets:
            if sequences.targets is None:
                raise UserError(f"{sequences.places[0].file} has no targets")
            pairs = zip(sequences.targets, sequences.places, strict=True)
            targets = [self._target(target, sequences, place) for target, place in pairs]
        return Arrays(sequences.ids, inputs, targets)

    def filled(self, values: np.ndarray, place: Place, advice: str = _FILL_IN) -> np.ndarray:
        """Returns the features of one sequence (time, channels), without missing values.

        Args:
            values: the channels.
            place: for the message.
            advice: what can be done where a value is missing, also.

        Raises:
            UserError: a value is missing and may not be.
        """
        gone = np.isnan(values)
        if self.missing == "refuse":
            if gone.any():
                raise UserError(f"{first_missing(values, place, self.channels)}; {advice}")
            return values
        fill = np.array(self.fill, np.float32)
        if self.missing == "mask":
            return np.concatenate([np.where(gone, fill, values), gone], 1).astype(np.float32)
        steps = np.where(gone, -1, np.arange(len(values))[:, None])
        last = np.maximum.accumulate(steps, axis=0)
        held = np.take_along_axis(values, np.maximum(last, 0), axis=0)
        return np.where(last < 0, fill, held).astype(np.float32)

    def scaled(self, numbers: np.ndarray) -> np.ndarray:
        """Returns numbers `(..., numbers)` as they are predicted, float32."""
        shifted = numbers.astype(np.float64) - np.array(self.target_offset)
        return (shifted * np.array(self.target_scale)).astype(np.float32)

    def numbers(self, outputs: np.ndarray) -> np.ndarray:
        """Returns what the network said `(..., numbers)` in the units of the files, float64."""
        return np.asarray(outputs, np.float64) / np.array(self.target_scale) + self.target_offset

    def _target(self, target: np.ndarray, sequences: Sequences, place: Place) -> np.ndarray:
        """A sequence's target as it is trained on, one row or one a step.

        Raises:
          UserError: another number of targets, or of another kind, than in training.
        """
        if target.shape[-1] != len(self.target_names):
            raise UserError(
                f"{place.at()} has {target.shape[-1]} targets, and those of training have"
                f" {len(self.target_names)}"
            )
        if sequences.per_step and not self.per_step:
            if (differs := (target != target[0]).any(1)).any():
                raise UserError(
                    f"{place.at(int(differs.argmax()))}: the target differs from the sequence's"
                    " first; set data.target=class_per_step or number_per_step"
                )
            target = target[0]
        elif self.per_step and not sequences.per_step:
            raise UserError(f"{place.at()} has one target, and data.target={self.kind} needs more")
        if not self.classes:
            try:
                return self.scaled(target.astype(np.float64))
            except ValueError:
                raise UserError(f"{place.at()}: the target is no number") from None
        labels = enumerate(target[..., 0].reshape(-1).tolist())
        numbers = [self._number(label, place, step) for step, label in labels]
        return np.array(numbers if self.per_step else numbers[0], np.int32)

    def _number(self, label: Any, place: Place, step: int) -> int:
        text = label_text(label)
        try:
            return self._numbers[text]
        except KeyError:
            raise UserError(
                f"{place.at(step)}: the label {text[:40]!r} is in no training sequence"
                + (did_you_mean(text, self.classes) or f": {', '.join(self.classes)[:80]}")
            ) from None

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    def to_json(self) -> str:
        """Returns the text of `sequences.json`."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Fit:
        """Reads what `to_json` wrote; ValueError if it is damaged."""
        try:
            content = json.loads(text)
            lists: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
            if lists.get("layout") is not None:
                lists["layout"] = Layout(**lists["layout"])
            return cls(**lists)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not what training wrote: {error}") from error


def read_fit(workdir: str | Path) -> Fit | None:
    """Reads `sequences.json` of a work directory; None where it has none, UserError if damaged."""
    path = Path(workdir) / FILE
    if not path.exists():
        return None
    try:
        return Fit.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error})") from error


def fit(
    found: Statistics, *, target: str = "auto", scale: str = "none", missing: str = "refuse"
) -> Fit:
    """Fits scaling, labels and the kind of target.

    Args:
        found: of the training sequences.
        target: what is predicted, one of `TARGETS`. `auto`: at every step where the targets of a
            sequence differ, else once; a class where targets are text or few whole numbers (at most
            100 different ones, and half as many as sequences), else numbers.
        scale: one of `SCALES`; also of numbers that are predicted.
        missing: one of `MISSING`.

    Raises:
        UserError: a value that is unknown or does not fit these sequences.
    """
    check_choice("data.scale", scale, SCALES)
    check_choice("data.missing", missing, MISSING)
    if found.missing and missing == "refuse":
        raise UserError(f"{found.missing}; {_SET_MISSING}")
    if not found.inputs.count.all():
        channel = found.channels[int(found.inputs.count.argmin())]
        raise UserError(f"channel {channel!r} has no value in any training sequence: leave it out")
    offset, factor = found.inputs.scaling(scale)
    kind = kind_of(found, target)
    classes: tuple[str, ...] = ()
    names, moments = found.target_names, found.steps if kind == "number_per_step" else found.once
    if kind == "next":
        if missing == "mask":
            raise UserError("data.missing=mask has no next value to predict: use data.missing=hold")
        names, moments = found.channels, found.inputs
    elif kind.startswith("class"):
        classes = _classes(found)
    number = (0.0,) * len(names), (1.0,) * len(names)
    target_offset, target_scale = number if classes else moments.scaling(scale)
    told = len(found.channels) if missing == "mask" else 0
    longest = max(found.lengths) - (kind == "next")
    return Fit(
        kind=kind,
        channels=found.channels,
        target_names=names,
        classes=classes,
        missing=missing,
        fill=tuple(found.inputs.mean.tolist()),
        offset=offset + (0.0,) * told,
        scale=factor + (1.0,) * told,
        target_offset=target_offset,
        target_scale=target_scale,
        length=longest,
    )


def kind_of(found: Statistics, target: str) -> str:
    """Returns the kind that a target comes to, see `fit`; UserError where it does not fit."""
    check_choice("data.target", target, TARGETS)
    if target != "auto":
        if target != "next" and not found.target_names:
            raise UserError(f"data.target={target}: the training sequences have no targets")
        if target == "next" and max(found.lengths) < 2:
            raise UserError("data.target=next needs sequences of at least 2 steps")
        if target.startswith("number") and not found.numeric:
            raise UserError(f"data.target={target}: the targets are text, not numbers")
        if target.endswith("per_step") and not found.per_step:
            raise UserError(f"data.target={target}: the files have one target for each sequence")
        if target in ("class", "number") and found.varies:
            raise UserError(
                f"data.target={target}, but {found.varies}: the target differs from the sequence's"
                f" first; use data.target={target}_per_step"
            )
        return target
    if not found.target_names:
        return "next"
    few = len(found.labels) <= min(_MOST_CLASSES, max(2, len(found.lengths) // 2))
    what = "class" if not found.numeric or (found.whole and few) else "number"
    return f"{what}_per_step" if found.varies else what


def _classes(found: Statistics) -> tuple[str, ...]:
    """Returns the labels in order: of numbers by size, of text by the alphabet."""
    if len(found.target_names) > 1:
        raise UserError(
            f"classes need one target, and there are {len(found.target_names)}"
            f" ({', '.join(found.target_names)}): name one by data.target_columns"
        )
    if not 2 <= len(found.labels) <= MOST_LABELS:
        raise UserError(
            f"the training sequences have {len(found.labels)} different labels, and classes need 2"
            f" to {MOST_LABELS}; numbers to be predicted are data.target=number"
        )
    return tuple(sorted(found.labels, key=float if found.numeric else None))
