"""Adding: of many numbers two are marked, and their sum is to be given after the last.

The task goes back to Hochreiter and Schmidhuber (1997), "Long Short-Term Memory".
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lrd_jax.data.spec import DataSpec
from lrd_jax.data.task import Records, Task
from lrd_jax.errors import UserError


def draw_terms(rng: np.random.Generator, count: int, length: int) -> Records:
    """Draws the terms of the adding task.

    Args:
        rng: source of the draws.
        count: examples.
        length: steps of a sequence.

    Returns:
        `values` (count, length) float32, uniform over [0, 1), and `markers` (count, 2) int32: one
        position uniform over the first half, floor(length / 2) steps, one over the rest.
    """
    half = length // 2
    first, second = rng.integers(0, half, count), rng.integers(half, length, count)
    return {
        "values": rng.random((count, length), np.float32),
        "markers": np.stack([first, second], axis=1).astype(np.int32),
    }


@dataclasses.dataclass(frozen=True)
class Adding(Task):
    """Adding: the sum of the two marked numbers.

    A step is (value, marker), the value uniform over [0, 1). One marker stands in each half of the
    sequence, as in the code around Gu et al. (2020) and of coRNN (Rusch and Mishra 2021,
    arXiv:2010.00951), so the two never coincide.

    Attributes:
        length: steps, at least 2.

    Raises:
        UserError: a shorter one.
    """

    length: int

    STORED: ClassVar[str] = "Values and markers of the adding task, one variant for each length."
    NUM_FIXED: ClassVar[int] = 1_000
    """Validation examples, and as many test examples: 8 MB at 2 000 steps."""
    BASELINE: ClassVar[float] = 1 / 6
    """Mean squared error of always saying 1: the variance of a sum of two uniform numbers."""

    def __post_init__(self):
        if self.length < 2:
            raise UserError(f"data.length={self.length}: the adding task needs at least 2 steps")

    @property
    def variant(self) -> str:
        """The length."""
        return str(self.length)

    @classmethod
    def of_variant(cls, variant: str) -> "Adding":
        """See `Task.of_variant`."""
        if not variant.isdecimal():
            raise UserError(
                f"data.length={variant or 0}: the adding task needs at least 2 steps, in decimal"
            )
        return cls(int(variant))

    @property
    def splits(self) -> Mapping[str, int]:
        """Fixed examples by split."""
        return {"validation": self.NUM_FIXED, "test": self.NUM_FIXED}

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
