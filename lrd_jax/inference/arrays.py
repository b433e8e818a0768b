"""What a caller gives to a model, as batches of few shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lrd_jax.data.sequence_files import Place
from lrd_jax.data.sequence_fit import Fit
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError


class Batches:
    """Sequences of one call, in their order.

    Attributes:
      steps: of the longest.
    """

    def __init__(
        self, spec: DataSpec, inputs: Any, lengths: Any = None, fit: Fit | None = None
    ) -> None:
        """Checks the sequences.

        Args:
          spec: what the model reads.
          inputs: as for `Model.predict`.
          lengths: as for `Model.predict`.
          fit: what was fitted on sequences of one's own: fills in missing values.

        Raises:
          UserError: they do not fit the model, or one another.
        """
        self._spec = spec
        self._rows: Any
        if isinstance(inputs, list | tuple) and inputs and np.ndim(inputs[0]) == _axes(spec) - 1:
            if lengths is not None:
                raise UserError("lengths are for one padded array: a list has them itself")
            self._rows = [
                _checked(spec, each, f"sequence {n}", fit) for n, each in enumerate(inputs)
            ]
            self._lengths = np.array([len(each) for each in self._rows], np.int32)
        else:
            whole = _checked(spec, inputs, "inputs", fit, batched=True)
            every = np.full(len(whole), whole.shape[1], np.int32)
            self._lengths = every if lengths is None else _checked_lengths(lengths, whole)
            self._rows = whole
            if fit is not None:
                self._rows = [row[:n] for row, n in zip(whole, self._lengths, strict=True)]
        if not len(self._rows) or not self._lengths.min():
            raise UserError("there is nothing to read: every sequence has at least one step")
        self.steps = int(self._lengths.max())
        if fit is not None:
            self._rows = [
                fit.filled(row, Place(f"sequence {number}"))
                if row.shape[-1] == len(fit.channels)
                else row
                for number, row in enumerate(self._rows)
            ]

    def padded(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Yields padded inputs, lengths, and how many rows are real.

        Shapes are few: sequences that are all of one length keep it; else the length is rounded up
        to the next 2^k or 3 * 2^k. A last batch has as many rows as the others.
        """
        count = len(self._lengths)
        size = min(batch_size, _bucket(count))
        one_length = (self._lengths == self.steps).all()
        for first in range(0, count, size):
            rows = self._rows[first : first + size]
            lengths = self._lengths[first : first + size]
            longest = int(lengths.max())
            steps = self.steps if one_length else _bucket(longest)
            like = np.asarray(self._rows[0])
            inputs = np.zeros((size, steps, *like.shape[1:]), like.dtype)
            for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                inputs[place, :length] = row[:length]
            filled = np.ones(size, np.int32)
            filled[: len(lengths)] = lengths
            yield inputs, filled, len(lengths)


def check_step(spec: DataSpec, x: Any, batch: int, fit: Fit | None = None) -> np.ndarray:
    """Returns one step of every sequence, ready for the network.

    Args:
      spec: describes the data.
      x: `(batch, channels)`, as in the files; of a language model `(batch,)` ids.
      batch: sequences that the state is of.
      fit: what was fitted on sequences of one's own; None of other data.

    Returns:
      `(batch, n)`, or ids.

    Raises:
      UserError: another shape or kind, or missing values that nothing may stand for.
    """
    x = np.asarray(x)
    if x.ndim != _axes(spec) - 1:
        raise UserError(f"a step has shape {list(x.shape)}, and must be {_shape(spec, 'batch')}")
    if len(x) != batch:
        raise UserError(f"a step of {len(x)} sequences, and the state is of {batch}")
    if fit is not None and fit.missing == "mask" and x.shape[-1] == len(fit.channels):
        x = fit.filled(x, Place("the step"))
    return _checked(spec, x[:, None], "the step", batched=True)[:, 0]


def _axes(spec: DataSpec) -> int:
    return 2 if spec.kind == "language" else 3


def _shape(spec: DataSpec, *axes: str) -> str:
    width = [] if spec.kind == "language" else [str(_width(spec))]
    return f"({', '.join([*axes, *width])})"


def _width(spec: DataSpec) -> int:
    return 1 if spec.one_hot else spec.features


def _checked(
    spec: DataSpec, given: Any, what: str, fit: Fit | None = None, *, batched: bool = False
) -> np.ndarray:
    """One sequence, or a batch of them, as an array of the right kind."""
    try:
        array = np.asarray(given)
        if array.dtype == object:
            raise ValueError("it is no array of numbers")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it holds {array.dtype}")
    except ValueError as error:
        raise UserError(
            f"{what} cannot be read as numbers ({error}): give an array, or a list of arrays"
            f" {_shape(spec, 'time')} of any lengths"
        ) from error
    axes = ("batch", "time") if batched else ("time",)
    right = array.ndim == len(axes) + (_axes(spec) - 2)
    if right and spec.kind != "language":
        channels = _width(spec) if fit is None else len(fit.channels)
        right = array.shape[-1] in (_width(spec), channels)
    if not right:
        raise UserError(
            f"{what} has shape {list(array.shape)}, and the model reads {_shape(spec, *axes)}"
        )
    ids = spec.one_hot or spec.kind == "language" or spec.values
    if not ids:
        fills = fit is not None and fit.missing != "refuse"
        if not np.isfinite(array[~np.isnan(array)] if fills else array).all():
            raise UserError(f"{what} holds {'' if fills else 'NaN or '}infinite values")
        narrow = array.dtype.itemsize < 4 or array.dtype == np.float32
        return array if narrow and fit is None else array.astype(np.float32)
    most = spec.features if spec.one_hot else spec.values or spec.classes
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise UserError(f"{what} holds fractions, and the model reads whole numbers below {most}")
    if array.size and (array.min() < 0 or array.max() >= most):
        raise UserError(
            f"{what} holds values from {array.min():g} to {array.max():g}, and the model reads"
            f" whole numbers from 0 to {most - 1}"
        )
    return array.astype(np.int32) if array.dtype.kind == "f" or array.itemsize > 4 else array


def _checked_lengths(lengths: Sequence[int] | np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Lengths as an array `(batch,)`; UserError where they do not fit the padded inputs."""
    found = np.asarray(lengths)
    if found.shape != whole.shape[:1] or found.dtype.kind not in "iu":
        raise UserError(
            f"lengths has shape {list(found.shape)}, and must be whole numbers, one for each of"
            f" the {len(whole)} sequences"
        )
    if len(found) and (found.min() < 1 or found.max() > whole.shape[1]):
        raise UserError(
            f"lengths are from {found.min()} to {found.max()}, and must be from 1 to the"
            f" {whole.shape[1]} steps that there are"
        )
    return found.astype(np.int32)


def _bucket(count: int) -> int:
    """The next 2^k or 3 * 2^k."""
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power
