"""Segments of a sequence that a decoder rebuilds or predicts, and the anchors it starts from."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.errors import UserError
from lrd_jax.streams import StepContext


@dataclasses.dataclass(frozen=True)
class Segments:
    """Which anchors are legal in a sequence x[0 .. T-1], and which segment belongs to each.

    With L = `size` and G = `gap`, the segment of anchor a starts at a - G - L (`reconstruct`, so
    that with G = 0 it ends right before the anchor) or at a + G (`predict`). The decoder starts
    from the state after x[a], reads the segment but for its last step, and says after each step
    what the next one is.

    Attributes:
      kind: `reconstruct` or `predict`.
      length: T, steps.
      size: L, steps.
      gap: G, steps; -1: drawn from the values that are legal for the anchor.

    Raises:
      UserError: no anchor is legal.
    """

    kind: str
    length: int
    size: int
    gap: int = 0

    def __post_init__(self) -> None:
        if self.size < 2 or self.gap < -1 or self.last < self.first:
            raise UserError(
                f"aux.segment_length={self.size} with aux.gap={self.gap} leaves no legal anchor to"
                f" {self.kind} in a sequence of {self.length} steps: use at least 2 steps, a gap"
                " from 0 (-1 = random), and no more steps than fit together"
            )

    @staticmethod
    def longest(length: int, gap: int) -> int:
        """The longest segment that fits into a sequence, at least the 2 steps that it must have."""
        return max(2, length - 1 - max(gap, 0))

    @property
    def first(self) -> int:
        """The first legal anchor."""
        return self.size + max(self.gap, 0) if self.kind == "reconstruct" else 0

    @property
    def last(self) -> int:
        """The last legal anchor."""
        predicts = self.kind == "predict"
        return self.length - self.size - max(self.gap, 0) if predicts else self.length - 1

    def _largest_gap(self, anchor: Any) -> Any:
        return anchor - self.size if self.kind == "reconstruct" else self.last - anchor

    def _start(self, anchor: Any, gap: Any) -> Any:
        return anchor - gap - self.size if self.kind == "reconstruct" else anchor + gap

    def draw(self, step: StepContext, count: int, scope: str, batch: int) -> tuple[Array, Array]:
        """Draws anchors, uniformly.

        Args:
          step: the training step.
          count: anchors.
          scope: `batch`: the mini-batch shares them; `example`: each example has its own.
          batch: examples on this device.

        Returns:
          Anchors and starts of their segments, each `(count,)` or `(count, batch)`.
        """

        def one(key: Array) -> tuple[Array, Array]:
            of_anchor, of_gap = jax.random.split(key)
            anchor = jax.random.randint(of_anchor, (count,), self.first, self.last + 1)
            gap: Any = self.gap
            if gap == -1:
                gap = jax.random.randint(of_gap, (count,), 0, self._largest_gap(anchor) + 1)
            return anchor, self._start(anchor, gap)

        stream = f"anchors_{self.kind}"
        if scope == "batch":
            return one(step.shared(stream))
        anchors, starts = jax.vmap(one)(step.per_example(stream, batch))
        return anchors.T, starts.T

    def spread(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Anchors at even distances and the starts of their segments, `(count,)`, for evaluation.

        A random gap takes its middle value.
        """
        anchor = self.first + (2 * np.arange(count) + 1) * (self.last - self.first + 1) // (
            2 * count
        )
        gap = self._largest_gap(anchor) // 2 if self.gap == -1 else self.gap
        return anchor, self._start(anchor, gap)
