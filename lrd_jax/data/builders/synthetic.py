"""The builder of tasks: it stores what their fixed examples are made of."""

import functools
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from lrd_jax.data.builders.base import Builder, NamedVariants
from lrd_jax.data.task import Records, Task, stream


class TaskBuilder(NamedVariants, Builder):
    """Writes what a task draws for each split of a variant."""

    TASK: ClassVar[type[Task]]

    @classmethod
    def check_variant(cls, name: str) -> None:
        """Raises UserError unless the task has such a variant."""
        cls.TASK.of_variant(name)

    @property
    def _task(self) -> Task:
        assert self.builder_config is not None
        return self.TASK.of_variant(self.builder_config.name)

    def _info(self) -> tfds.core.DatasetInfo:
        """See TFDS: the arrays that the task draws."""
        features = {
            name: tfds.features.Tensor(shape=array.shape[1:], dtype=array.dtype)
            for name, array in self._task.draw(stream("test"), 1).items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.TASK.STORED,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        sizes = self._task.splits
        return {split: self._generate_examples(split, size) for split, size in sizes.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, Records]]:
        records = self._task.draw(stream(split), count)
        for number in range(count):
            yield number, {name: array[number] for name, array in records.items()}


@functools.cache
def make_builder(name: str, task: type[Task]) -> type[TaskBuilder]:
    """Returns the builder of a task's data set, `lrd_<name>` on disk.

    Args:
        name: of the data set.
        task: its class.
    """
    # TFDS looks for the file of a builder's class, which need not be in a module.
    module = task.__module__ if task.__module__ in sys.modules else __name__
    attributes = {"TASK": task, "name": f"lrd_{name}", "__module__": module}
    return type(f"Lrd_{name}", (TaskBuilder,), attributes, skip_registration=True)
