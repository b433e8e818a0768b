"""From arrays in memory to batches: the order of examples, padding, and working ahead."""

import collections
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from lrd_jax.data.spec import Batch, Dataset, DataSpec, Resident
from lrd_jax.errors import UserError, unknown

SPLITS = ("train", "valid", "test")

T = TypeVar("T")
Item = TypeVar("Item")


@functools.lru_cache(maxsize=64)  # a few epochs of each of several seeds: 15 MB for 60 000 examples
def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the examples in one epoch, a pure function of the arguments.

    Args:
        num_examples: size of the training set.
        seed: of the run, not negative.
        epoch: from 0.

    Returns:
        int32 array (num_examples,), a permutation; shared, hence read-only.
    """
    stream = np.random.SeedSequence(seed, spawn_key=(epoch,))
    order = np.random.Generator(np.random.Philox(stream)).permutation(num_examples)
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order


def batch_indices(
    num_examples: int, batch_size: int, seed: int, step: int, rows: slice = slice(None)
) -> np.ndarray:
    """Returns which examples make up a training batch.

    Batch `step` covers the positions `step*batch_size .. (step+1)*batch_size - 1` of the endless
    sequence of epochs, each shuffled anew; a batch may cross the border of two epochs, so that no
    example is dropped. Any step can be asked for, in any order, at about the same cost.

    Args:
        num_examples: size of the training set.
        batch_size: of the global batch.
        seed: of the run, not negative.
        step: number of the batch, from 0.
        rows: the part of the batch that is wanted.

    Returns:
        int32 array (number of rows,) of example numbers.
    """
    positions = step * batch_size + np.arange(batch_size)[rows]
    epochs, offsets = np.divmod(positions, num_examples)
    indices = np.empty(len(positions), np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = epoch_order(num_examples, seed, int(epoch))[offsets[here]]
    return indices


class ArrayDataset:
    """A `Dataset` over arrays in memory."""

    def __init__(
        self,
        spec: DataSpec,
        splits: dict[str, tuple[Any, np.ndarray]],
        batch_size: int,
        description: str,
    ):
        """Keeps references to the arrays.

        Args:
            spec: sizes and scaling.
            splits: inputs (examples, time, features), or a dict of arrays (examples, ...), and
                targets (examples, ...) of "train", "valid" and "test".
            batch_size: of the global training batch.
            description: for the start-up log; the sizes of the splits are added.

        Raises:
            UserError: `batch_size` is not positive.
        """
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size} must be at least 1")
        self.spec = spec
        self.fit: Any = None  # of sequences: what was fitted on those of training
        self.num_train = len(splits["train"][1])
        self._splits = splits
        self._batch_size = batch_size
        self._description = description

    def train_batch(self, seed: int, step: int, rows: slice) -> Batch:
        """Returns `rows` of the global training batch `step`; see `batch_indices`."""
        return _take(self._splits["train"], self._train_index(seed, step, rows))

    def resident(self) -> Resident | None:
        """Returns the training examples; None where a subclass makes its batches otherwise."""
        if type(self).train_batch is not ArrayDataset.train_batch:
            return None
        return Resident(self._splits["train"], self._train_index, _take)

    def _train_index(self, seed: int, step: int, rows: slice) -> np.ndarray:
        return batch_indices(self.num_train, self._batch_size, seed, step, rows)

    def eval_batches(
        self, split: str, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields every example of a split once, in stored order, in batches of equal size.

        The last batch is filled up with zeros, where `mask` is 0; dropping it instead would leave
        up to `batch_size - 1` examples out of the score.

        Args:
            split: "train", "valid" or "test".
            batch_size: of the global batch.
            rows: the part of each batch that is wanted.

        Raises:
            UserError: unknown split, or a batch size below 1.
        """
        inputs, targets = self._split(split)
        if batch_size < 1:
            raise UserError(f"evaluation batch size {batch_size} must be at least 1")
        return self._batches(inputs, targets, batch_size, range(batch_size)[rows])

    @staticmethod
    def _batches(inputs: Any, targets: np.ndarray, batch_size: int, rows: range) -> Iterator[Batch]:
        """Yields `rows` of each batch of a split; the last is padded with zeros, and mask 0."""
        count = len(targets)
        for start in range(rows.start, count + rows.start, batch_size):
            mask = np.arange(start, start + len(rows)) < count
            part, padding = slice(start, start + len(rows)), int((~mask).sum())

            def padded(array: np.ndarray, part: slice = part, padding: int = padding) -> np.ndarray:
                return pad_rows(array[part], padding)

            yield {
                "inputs": map_arrays(padded, inputs),
                "targets": padded(targets),
                "mask": mask.astype(np.float32),
            }

    def eval_size(self, split: str) -> int:
        """Returns the number of examples of a split."""
        return len(self._split(split)[1])

    def describe(self) -> str:
        """Returns the name, the shape of a sequence and the sizes of the splits, in one line."""
        sizes = " / ".join(f"{self.eval_size(s)}" for s in SPLITS)
        return (
            f"{self._description}: {self.spec.length} steps of {self.spec.features}, "
            f"{self.spec.classes} classes, train / valid / test {sizes}"
        )

    def _split(self, split: str) -> tuple[Any, np.ndarray]:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self._splits[split]


def resident(dataset: Dataset) -> Resident | None:
    """Returns what of a data set may stay on the devices, None where it is made anew or read."""
    offered = getattr(dataset, "resident", None)
    return offered() if offered is not None else None


def borders(dataset: Dataset) -> tuple[int, ...]:
    """Returns the training steps at which batches of another shape begin; the last are largest."""
    return getattr(dataset, "borders", ())


def stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks the batches of several members, (batch, time, ...), with zeros up to the longest."""
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    longest = max(array.shape[1] for array in arrays)

    def padded(array: np.ndarray) -> np.ndarray:
        rest = [(0, 0)] * (array.ndim - 2)
        return np.pad(array, [(0, 0), (0, longest - array.shape[1]), *rest])

    return np.stack([padded(array) for array in arrays])


def shapes_change(dataset: Dataset, seeds: Iterable[int], end: int) -> Callable[[int], int] | None:
    """Returns what tells the first step after a given one at which batches have another shape.

    Args:
        dataset: a source of batches, with `bucket(seed, step)`, the steps of a batch, where they
            differ from batch to batch.
        seeds: of the members, whose batches are padded to the longest.
        end: the last step of the run.

    Returns:
        A function of a step, `end` where no change follows; None where all are alike, but for
        `borders`.
    """
    bucket = getattr(dataset, "bucket", None)
    if bucket is None:
        return None
    each, found = sorted(set(seeds)), range(0)  # found: from a step to the change after it

    def steps(number: int) -> int:
        return max(bucket(seed, number) for seed in each)

    def after(step: int) -> int:
        nonlocal found
        if step not in found:
            here = steps(step)
            later = (number for number in range(step + 1, end) if steps(number) != here)
            found = range(step, next(later, end))
        return found.stop

    return after


def _take(examples: tuple[Any, Any], index: Any) -> Batch:
    """Returns the batch of these examples, see `Resident.take`."""
    inputs, targets = examples
    return {
        "inputs": map_arrays(lambda array: array[index], inputs),
        "targets": targets[index],
        "mask": np.ones(index.shape, np.float32),
    }


def map_arrays(function: Callable[[np.ndarray], np.ndarray], tree: Any) -> Any:
    """Applies a function to an array, or to every array in nested dicts (several inputs)."""
    if isinstance(tree, dict):
        return {name: map_arrays(function, part) for name, part in tree.items()}
    return function(tree)


def pad_rows(array: np.ndarray, padding: int) -> np.ndarray:
    """Appends rows of zeros."""
    if not padding:
        return array
    return np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))


def prefetch(
    make_batch: Callable[[Item], T], items: Iterable[Item], depth: int = 2
) -> Generator[tuple[Item, T], None, None]:
    """Makes batches in a background thread, ahead of the one that uses them.

    An exception of `make_batch` is raised by the iteration that would have yielded its batch. The
    thread ends when the iteration ends, and also when the generator is closed before; wrap it in
    `contextlib.closing` where the loop may be left early.

    Args:
        make_batch: called with each item in order, always in the same thread.
        items: what the batches are made of, such as numbers of steps.
        depth: how many batches are made ahead, at least 1.

    Yields:
        `(item, make_batch(item))` for every item, in order.
    """
    if depth < 1:
        raise ValueError(f"depth={depth} must be at least 1")
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as worker:
        pending: collections.deque[tuple[Item, Future[T]]] = collections.deque()
        left = iter(items)
        try:
            while True:
                for item in itertools.islice(left, 1 + depth - len(pending)):
                    pending.append((item, worker.submit(make_batch, item)))
                if not pending:
                    return
                item, made = pending.popleft()
                yield item, made.result()
        finally:
            worker.shutdown(wait=True, cancel_futures=True)
