"""The copying and the adding task: sequences made of a few random draws.

Both go back to Hochreiter and Schmidhuber (1997), "Long Short-Term Memory". Copying: ten symbols
are shown, then blanks, and after a signal the symbols are to be written in the same order. Adding:
of many numbers two are marked, and their sum is to be given after the last.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

import numpy as np

from lrd_jax.data.builders.synthetic import (
    ALPHABET,
    NUM_SYMBOLS,
    LrdCopy,
    Records,
    draw_symbols,
    draw_terms,
    stream,
)
from lrd_jax.data.pipeline import SPLITS
from lrd_jax.data.prepare import prepared, read_records
from lrd_jax.data.spec import Batch, DataSpec
from lrd_jax.errors import UserError

BLANK, MARKER = 0, ALPHABET + 1
_VOCABULARY = ALPHABET + 2


class Task(Protocol):
    """Turns random draws into sequences."""

    @property
    def spec(self) -> DataSpec:
        """Sizes, and what predicting without memory scores."""
        ...

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """Draws what `count` examples are made of."""
        ...

    def expand(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs (examples, time, n) and targets of drawn examples."""
        ...


@dataclasses.dataclass(frozen=True)
class Copying:
    """Copying in one of the published definitions.

    With s the ten symbols (1 .. 8), 0 the blank and 9 the marker:

        hdetach:  x = s, 0 x (delay-1), 9, 0 x 10      y = 0 x (delay+10), s
        gu:       x = s, 0 x delay, 9 x 10             y = s, on the last 10 steps alone
        marker:   x = s, 0 x delay, 9, 0 x 9           y = 0 x (delay+10), s

    `hdetach` is that of Arpit et al. (2019), arXiv:1810.03023, which recalls one step after the
    marker; `gu` that of the code around Gu et al. (2020), arXiv:1910.09890, ten markers asking for
    one symbol each; `marker` that of Lezcano-Casado and Martínez-Rubio (2019), arXiv:1901.08428,
    which recalls from the marker on.

    Attributes:
        preset: `hdetach`, `gu` or `marker`.
        delay: as above, at least 1; a sequence has delay + 20 steps.
        encoding: `scalar` (the id itself as a number), `onehot`, or `preset`: scalar for `hdetach`,
            one-hot for the others.

    Raises:
        UserError: a value that is unknown or out of range.
    """

    preset: str
    delay: int
    encoding: str = "preset"

    def __post_init__(self):
        LrdCopy.check_variant(self.preset)
        if self.delay < 1:
            raise UserError(f"data.delay={self.delay} must be at least 1 step")
        if self.encoding not in ("preset", "scalar", "onehot"):
            raise UserError(f"unknown data.encoding {self.encoding!r}: use preset, scalar, onehot")

    @property
    def spec(self) -> DataSpec:
        """Sizes, and what writing blanks and then guessing scores."""
        length = self.delay + 2 * NUM_SYMBOLS
        scored = NUM_SYMBOLS if self.preset == "gu" else length
        by_preset = "scalar" if self.preset == "hdetach" else "onehot"
        one_hot = (by_preset if self.encoding == "preset" else self.encoding) == "onehot"
        return DataSpec(
            kind="tag",
            length=length,
            features=_VOCABULARY if one_hot else 1,
            # Without the marker, which is never a target; the readout of `gu` is as wide as its
            # input.
            classes=_VOCABULARY if self.preset == "gu" else _VOCABULARY - 1,
            one_hot=one_hot,
            values=_VOCABULARY,
            symbols=True,
            scored=scored,
            recalled=NUM_SYMBOLS,
            baselines={
                "loss": NUM_SYMBOLS * math.log(ALPHABET) / scored,
                "accuracy": 1 / ALPHABET,
            },
        )

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """See `draw_symbols`."""
        return draw_symbols(rng, count)

    def expand(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs (examples, delay + 20, 1) and targets (examples, scored), both uint8."""
        symbols, spec = records["symbols"], self.spec
        inputs = np.full((len(symbols), spec.length, 1), BLANK, np.uint8)
        inputs[:, :NUM_SYMBOLS, 0] = symbols
        if self.preset == "gu":
            inputs[:, -NUM_SYMBOLS:] = MARKER
        else:
            inputs[:, self.delay + NUM_SYMBOLS - (self.preset == "hdetach")] = MARKER
        targets = np.full((len(symbols), spec.scored), BLANK, np.uint8)
        targets[:, -NUM_SYMBOLS:] = symbols
        return inputs, targets

    def __str__(self) -> str:
        return f"copy ({self.preset}, delay {self.delay})"


@dataclasses.dataclass(frozen=True)
class Adding:
    """Adding: the sum of the two marked numbers.

    A step is (value, marker), the value uniform over [0, 1). One marker stands in each half of the
    sequence, as in the code around Gu et al. (2020) and of coRNN (Rusch and Mishra 2021,
    arXiv:2010.00951), so the two never coincide.

    Attributes:
        length: steps, at least 2.
    """

    length: int
    BASELINE: ClassVar[float] = 1 / 6
    """Mean squared error of always saying 1: the variance of a sum of two uniform numbers."""

    @property
    def spec(self) -> DataSpec:
        """Sizes, and what saying 1 scores."""
        baselines = {"loss": self.BASELINE}
        return DataSpec("regress", self.length, features=2, classes=1, baselines=baselines)

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """See `draw_terms`."""
        return draw_terms(rng, count, self.length)

    def expand(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs (examples, length, 2) and targets (examples,), both float32."""
        values, markers = records["values"], records["markers"]
        inputs = np.stack([values, np.zeros_like(values)], axis=-1)
        np.put_along_axis(inputs[..., 1], markers, 1.0, axis=1)
        return inputs, np.take_along_axis(values, markers, axis=1).sum(axis=1)

    def __str__(self) -> str:
        return f"adding (length {self.length})"


class SyntheticDataset:
    """A `Dataset` of a task: sequences are made when a batch is, so memory does not hold them."""

    def __init__(self, task: Task, splits: dict[str, Records], batch_size: int, epoch_steps: int):
        """Keeps references to the arrays.

        Args:
            task: makes the sequences.
            splits: fixed examples of "validation", "test" and perhaps "train"; without it, every
                training batch is drawn afresh.
            batch_size: of the global training batch.
            epoch_steps: training batches that are called one epoch.

        Raises:
            UserError: `batch_size` or `epoch_steps` is not positive.
        """
        for key, value in (("batch_size", batch_size), ("steps_per_epoch", epoch_steps)):
            if value < 1:
                raise UserError(f"data.{key}={value} must be at least 1")
        self.spec = task.spec
        self.num_train = batch_size * epoch_steps
        self._task = task
        self._splits = splits
        self._batch_size = batch_size

    def train_batch(self, seed: int, step: int, rows: slice) -> Batch:
        """Returns `rows` of the global training batch `step`.

        Fixed examples are drawn with replacement; else all rows are drawn, however few are wanted,
        so that slices agree.
        """
        rng = stream("batch", seed, step)
        if "train" in self._splits:
            fixed = self._splits["train"]
            index = rng.integers(_count(fixed), size=self._batch_size)[rows]
            return self._batch(_rows(fixed, index))
        return self._batch(_rows(self._task.draw(rng, self._batch_size), rows))

    def eval_batches(
        self, split: str, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields `rows` of each batch of a split's fixed examples; the last is padded, with mask 0.

        Raises:
            UserError: unknown split, training examples that are not fixed, or a batch size below 1.
        """
        records = self._split(split)
        if batch_size < 1:
            raise UserError(f"evaluation batch size {batch_size} must be at least 1")
        return self._batches(records, batch_size, range(batch_size)[rows])

    def _batches(self, records: Records, batch_size: int, rows: range) -> Iterator[Batch]:
        for start in range(rows.start, _count(records) + rows.start, batch_size):
            part = _rows(records, slice(start, start + len(rows)))
            yield self._batch(part, padding=len(rows) - _count(part))

    def _batch(self, records: Records, padding: int = 0) -> Batch:
        mask = np.ones(_count(records), np.float32)
        inputs, targets = self._task.expand(records)
        batch = {"inputs": inputs, "targets": targets, "mask": mask}
        return {
            name: np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1)) if padding else array
            for name, array in batch.items()
        }

    def eval_size(self, split: str) -> int:
        """Returns the number of fixed examples of a split."""
        return _count(self._split(split))

    def describe(self) -> str:
        """Returns the task, the shape of a sequence and the sizes of the splits, in one line."""
        sizes = " / ".join(
            f"{self.eval_size(split)}" if _STORED[split] in self._splits else "fresh"
            for split in SPLITS
        )
        return (
            f"{self._task}: {self.spec.length} steps of {self.spec.features}, "
            f"train / valid / test {sizes}"
        )

    def _split(self, split: str) -> Records:
        if split not in _STORED:
            raise UserError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
        if _STORED[split] not in self._splits:
            raise UserError(
                f"{self._task} draws fresh training examples at every step: there is no training "
                "split to evaluate, use valid or test"
            )
        return self._splits[_STORED[split]]


def make_dataset(data: Any) -> SyntheticDataset:
    """Builds the copying or the adding task, storing its fixed examples on disk the first time.

    Args:
        data: the group `data` of the config.

    Raises:
        UserError: a value that is unknown or out of range.
    """
    task = make_task(data)
    stored = f"copy/{data.preset}" if data.name == "copy" else f"adding/{data.length}"
    splits = _fixed_examples(stored, data.data_dir)
    return SyntheticDataset(task, splits, data.batch_size, data.steps_per_epoch)


def make_task(data: Any) -> Task:
    """Returns the task that the group `data` of the config describes.

    Raises:
        UserError: a value that is unknown or out of range.
    """
    if data.name == "copy":
        return Copying(data.preset, data.delay, data.encoding)
    return Adding(data.length)


@functools.lru_cache(maxsize=1)  # evaluation at several delays reads the same symbols
def _fixed_examples(name: str, data_dir: str) -> dict[str, Records]:
    with prepared(name, data_dir) as builder:
        return {split: read_records(builder, split) for split in builder.info.splits}


_STORED = {"train": "train", "valid": "validation", "test": "test"}  # names as TFDS has them


def _count(records: Records) -> int:
    return len(next(iter(records.values())))


def _rows(records: Records, index: slice | np.ndarray) -> Records:
    return {name: array[index] for name, array in records.items()}
