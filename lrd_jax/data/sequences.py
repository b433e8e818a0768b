"""Batches of sequences that differ in length: `data.name=sequences`, and sets read from TFDS.

A batch is padded to one of a few bucket lengths, so that the compiler sees few shapes. Which
sequences are in it does not depend on that: see `BucketDataset`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from lrd_jax.data.pipeline import SPLITS, ArrayDataset, epoch_order
from lrd_jax.data.sequence_fit import Arrays, Fit
from lrd_jax.data.spec import Batch, DataSpec
from lrd_jax.errors import UserError, unknown

KINDS = {
    "class": "classify",
    "number": "regress",
    "class_per_step": "tag",
    "number_per_step": "regress_steps",
    "next": "forecast",
}
"""`Fit.kind` -> `DataSpec.kind`."""


class Part(NamedTuple):
    """The sequences of a split, read when they are asked for.

    Attributes:
        lengths: steps of each, int64.
        read: reads those with some numbers, as arrays with targets.
    """

    lengths: np.ndarray
    read: Callable[[np.ndarray], Arrays]


def in_memory(arrays: Arrays) -> Part:
    """Returns a split that is in memory."""
    targets = arrays.targets or []

    def read(numbers: np.ndarray) -> Arrays:
        inputs, wanted = ([values[n] for n in numbers] for values in (arrays.inputs, targets))
        return Arrays([arrays.ids[n] for n in numbers], inputs, wanted)

    return Part(np.array([len(values) for values in arrays.inputs]), read)


def data_spec(fit: Fit, varied: bool) -> DataSpec:
    """Describes sequences by what was fitted on those of training.

    Args:
        fit: see there.
        varied: whether they differ in length, or later ones may.
    """
    return DataSpec(
        kind=KINDS[fit.kind],
        length=fit.length,
        features=fit.features,
        classes=fit.outputs,
        offset=fit.offset,
        scale=fit.scale,
        scored=fit.length if fit.kind == "class_per_step" else 0,
        varied=varied,
        class_names=fit.classes or fit.target_names,
        target_offset=fit.target_offset,
        target_scale=fit.target_scale,
    )


def make_batches(
    fit: Fit,
    parts: dict[str, Part],
    batch_size: int,
    description: str,
    buckets: int,
    bucket_batches: int,
) -> ArrayDataset | BucketDataset:
    """Builds the data set: of arrays in memory where all sequences have one length, and fit there.

    Args:
        fit: of the training sequences.
        parts: of "train", "valid" and "test".
        batch_size: of the global training batch.
        description: for the start-up log.
        buckets: see `BucketDataset`.
        bucket_batches: see `BucketDataset`.

    Raises:
        UserError: a value out of range.
    """
    for key, value in (("buckets", buckets), ("bucket_batches", bucket_batches)):
        if value < 1:
            raise UserError(f"data.{key}={value} must be at least 1")
    lengths = np.concatenate([part.lengths for part in parts.values()])
    varied = bool((lengths != lengths[0]).any())
    spec = data_spec(fit, varied)
    size = len(lengths) * int(lengths.max()) * fit.features * 4
    if varied or size > _MOST_STACKED:
        return BucketDataset(spec, fit, parts, batch_size, description, buckets, bucket_batches)
    stacked = {}
    for split, part in parts.items():
        arrays = part.read(np.arange(len(part.lengths)))
        stacked[split] = np.stack(arrays.inputs), np.stack(arrays.targets or [])
    made = ArrayDataset(spec, stacked, batch_size, description)
    made.fit = fit
    return made


_MOST_STACKED = 2**30  # bytes of sequences of one length that are kept as one array


class BucketDataset:
    """A `Dataset` of sequences that differ in length.

    The order of the sequences is that of `pipeline.batch_indices`, each in every epoch once. With
    `bucket_batches` above 1 so many batches at a time are put in order of their buckets, so that
    short sequences meet short ones: the batches of a stretch then hold other sequences together,
    and come in an order that is drawn for all members alike, which pads several seeds to about the
    same lengths.

    Attributes:
        spec: see `Dataset`.
        fit: what was fitted on the training sequences, for the work directory.
        num_train: see `Dataset`.
        lengths: of the buckets, rising. Those of training hold about equally many sequences; the
            longest of evaluation may have one more.
    """

    def __init__(
        self,
        spec: DataSpec,
        fit: Fit,
        parts: dict[str, Part],
        batch_size: int,
        description: str,
        buckets: int = 4,
        bucket_batches: int = 1,
    ) -> None:
        """Keeps references to the sequences.

        Args:
            spec: sizes and scaling.
            fit: see the attribute.
            parts: of "train", "valid" and "test".
            batch_size: of the global training batch.
            description: for the start-up log; the sizes of the splits are added.
            buckets: different lengths of training batches, at most.
            bucket_batches: batches whose sequences are put in order of their length together; 1 =
                none.

        Raises:
            UserError: `batch_size` is not positive.
        """
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size} must be at least 1")
        self.spec, self.fit = spec, fit
        self.num_train = len(parts["train"].lengths)
        self._parts, self._batch_size, self._description = parts, batch_size, description
        self._together = bucket_batches
        train = np.sort(parts["train"].lengths)
        places = np.ceil(np.arange(1, buckets + 1) * len(train) / buckets).astype(int) - 1
        longest = max(int(part.lengths.max()) for part in parts.values())
        self.lengths = np.unique([*train[places], longest])
        self._order = functools.lru_cache(maxsize=64)(self._sorted_order)
        self._known = functools.lru_cache(maxsize=4096)(self._longest)

    def bucket(self, seed: int, step: int) -> int:
        """Returns the steps that a training batch is padded to, a pure function."""
        return self._known(seed, step)

    def _longest(self, seed: int, step: int) -> int:
        index = self._index(seed, step)
        return self._padded(self._parts["train"].lengths[index])

    def _padded(self, lengths: np.ndarray) -> int:
        return int(self.lengths[np.searchsorted(self.lengths, lengths.max())])

    def _index(self, seed: int, step: int) -> np.ndarray:
        """The sequences of a training batch, see `pipeline.batch_indices`."""
        positions = step * self._batch_size + np.arange(self._batch_size)
        epochs, offsets = np.divmod(positions, self.num_train)
        index = np.empty(self._batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = self._order(seed, int(epoch))[offsets[here]]
        return index

    def _sorted_order(self, seed: int, epoch: int) -> np.ndarray:
        """The order of an epoch, `(num_train,)`; examples of a batch are of like length."""
        order = epoch_order(self.num_train, seed, epoch)
        if self._together == 1:
            return order
        order, size = order.copy(), self._batch_size
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(0, spawn_key=(epoch, 1))))
        buckets = np.searchsorted(self.lengths, self._parts["train"].lengths)
        # Batches may cross the border of two epochs: these first and last ones stay as they are.
        first = -epoch * self.num_train % size
        last = first + max(0, self.num_train - first) // size * size
        for start in range(first, last, size * self._together):
            part = order[start : min(start + size * self._together, last)]
            part = part[np.argsort(buckets[part], kind="stable")].reshape(-1, size)
            part = part[rng.permutation(len(part))].ravel()
            order[start : start + len(part)] = part
        return order

    def train_batch(self, seed: int, step: int, rows: slice) -> Batch:
        """Returns `rows` of the global training batch `step`, padded to the bucket of all of it."""
        index = self._index(seed, step)[rows]
        return self._batch(self._parts["train"], index, self.bucket(seed, step))

    def eval_batches(
        self, split: str, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields every sequence of a split once, in stored order; see `ArrayDataset.eval_batches`.

        Raises:
            UserError: unknown split, or a batch size below 1.
        """
        part = self._part(split)
        if batch_size < 1:
            raise UserError(f"evaluation batch size {batch_size} must be at least 1")
        return self._batches(part, batch_size, rows)

    def _batches(self, part: Part, batch_size: int, rows: slice) -> Iterator[Batch]:
        count = len(part.lengths)
        for start in range(0, count, batch_size):
            whole = np.arange(start, min(start + batch_size, count))
            wanted = np.arange(start, start + batch_size)[rows]
            steps = self._padded(part.lengths[whole])
            yield self._batch(part, wanted[wanted < count], steps, len(wanted))

    def _batch(self, part: Part, index: np.ndarray, steps: int, size: int = 0) -> Batch:
        """Pads sequences in time, and the batch to `size` by sequences of one step, of mask 0."""
        count, size = len(index), max(size, len(index))
        arrays = part.read(index)
        targets: Any = arrays.targets
        kind = np.int32 if self.fit.classes else np.float32
        width = () if self.fit.classes else (len(self.fit.target_names),)
        shape = (steps, *width) if self.fit.per_step else width
        batch = {
            "inputs": np.zeros((size, steps, self.fit.features), np.float32),
            "targets": np.zeros((size, *shape), kind),
            "lengths": np.ones(size, np.int32),
            "mask": np.zeros(size, np.float32),
        }
        for row, (values, target) in enumerate(zip(arrays.inputs, targets, strict=True)):
            batch["inputs"][row, : len(values)] = values
            if self.fit.per_step:
                batch["targets"][row, : len(values)] = target
            else:
                batch["targets"][row] = target
            batch["lengths"][row] = len(values)
        batch["mask"][:count] = 1
        return batch

    def eval_size(self, split: str) -> int:
        """Returns the number of sequences of a split."""
        return len(self._part(split).lengths)

    def describe(self) -> str:
        """Returns the name, the lengths and the sizes of the splits, in one line."""
        sizes = " / ".join(f"{self.eval_size(s)}" for s in SPLITS)
        lengths = [part.lengths for part in self._parts.values()]
        shortest, longest = min(map(np.min, lengths)), max(map(np.max, lengths))
        return (
            f"{self._description}: {shortest} to {longest} steps of {self.spec.features}, train /"
            f" valid / test {sizes}"
        )

    def _part(self, split: str) -> Part:
        if split not in self._parts:
            raise unknown("split", split, SPLITS)
        return self._parts[split]
