"""Data sets of tasks that are made of a few random draws, see `lrd_jax.data.task`."""

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from lrd_jax.data.pipeline import SPLITS, map_arrays, pad_rows
from lrd_jax.data.spec import Batch
from lrd_jax.data.task import Records, Task, stream
from lrd_jax.errors import UserError, unknown


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
        self.borders = task.borders
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
        task = self._task.at(step)
        return self._batch(_rows(task.draw(rng, self._batch_size), rows))

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
        return map_arrays(lambda array: pad_rows(array, padding), batch)

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
            raise unknown("split", split, SPLITS)
        if _STORED[split] not in self._splits:
            raise UserError(
                f"{self._task} draws fresh training examples at every step: there is no training "
                "split to evaluate, use valid or test"
            )
        return self._splits[_STORED[split]]


def make_task_dataset(
    task: Task, name: str, data_dir: str, batch_size: int, steps_per_epoch: int
) -> SyntheticDataset:
    """Builds the data set of a task, storing its fixed examples on disk the first time.

    Args:
        task: makes the sequences.
        name: of its data set.
        data_dir: the folder of all prepared data sets; `~` is expanded.
        batch_size: of the global training batch.
        steps_per_epoch: training batches that are called one epoch.

    Raises:
        UserError: a value out of range, or what is stored is not what the task draws.
    """
    splits, folder = _fixed_examples(f"{name}/{task.variant}", data_dir)
    _check_stored(task, splits, folder)
    return SyntheticDataset(task, splits, batch_size, steps_per_epoch)


@functools.lru_cache(maxsize=1)  # evaluation at several delays reads the same symbols
def _fixed_examples(name: str, data_dir: str) -> tuple[dict[str, Records], str]:
    from lrd_jax.data.prepare import prepared, read_records  # half a second to import

    with prepared(name, data_dir) as builder:
        try:
            splits = {split: read_records(builder, split) for split in builder.info.splits}
        except UserError as error:
            if _has_features(builder):
                raise
            raise _edited(builder.data_dir, name) from error
        return splits, str(builder.data_dir)


def _has_features(builder: Any) -> bool:
    """Whether what is stored has the names, shapes and types that the task draws now."""
    from tensorflow_datasets.core.features import FeatureConnector

    stored = FeatureConnector.from_config(str(builder.data_dir))
    return repr(stored) == repr(builder.info.features)


_ODD = 0.01  # of the examples: may differ in the last digit on another processor


def _check_stored(task: Task, splits: dict[str, Records], folder: str) -> None:
    """Draws the test examples anew, and refuses stored ones that are others.

    So it shows that the file of a task was edited since, and that `Task.variant` leaves out an
    option which changes the draws: two tasks then share a folder.
    """
    stored = {split: _count(records) for split, records in splits.items()}
    same = stored == {split: size for split, size in task.splits.items()}
    if same:
        drawn, kept = task.draw(stream("test"), stored["test"]), splits["test"]
        same = drawn.keys() == kept.keys() and all(
            _nearly_equal(np.asarray(drawn[name]), kept[name]) for name in kept
        )
    if not same:
        raise _edited(folder, task)


def _edited(folder: object, task: object) -> UserError:
    return UserError(
        f"the examples stored in {folder} are not those that {task} draws: its file was edited"
        " since, or its `variant` leaves out an option that changes the draws; name the option"
        " there, or delete the folder"
    )


def _nearly_equal(drawn: np.ndarray, kept: np.ndarray) -> bool:
    if drawn.shape != kept.shape or drawn.dtype != kept.dtype:
        return False
    if drawn.dtype.kind == "f":  # TFDS stores no more of a real number
        drawn, kept = drawn.astype(np.float32), kept.astype(np.float32)
    differs = (drawn != kept) & ~((drawn != drawn) & (kept != kept))  # NaN is NaN
    differs = differs.reshape(len(kept), -1).any(1)
    return bool(differs.mean() <= _ODD)


def digest(task: Task) -> str:
    """Returns what tells a task's examples from those of another, in hexadecimal digits.

    Of a few examples, as the network reads them. Real numbers count to about three decimal places,
    so that the last digit, which differs between processors, does not.
    """
    found = hashlib.sha256()

    def add(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            bits = (array.astype(np.float32) + np.float32(0)).view(np.uint32)  # no -0
            array = (bits.astype(np.uint64) + 0x800) >> 12
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
        return array

    inputs, targets = task.expand(task.draw(stream("test"), 4))
    map_arrays(lambda array: add(np.asarray(array)), {"inputs": inputs, "targets": targets})
    return found.hexdigest()[:16]


_STORED = {"train": "train", "valid": "validation", "test": "test"}  # names as TFDS has them


def _count(records: Records) -> int:
    return len(next(iter(records.values())))


def _rows(records: Records, index: slice | np.ndarray) -> Records:
    return {name: array[index] for name, array in records.items()}
