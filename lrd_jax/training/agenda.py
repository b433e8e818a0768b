"""What happens at which step of a run, and where the stretches of nothing but training end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

When = Callable[[int], int]  # step -> the first one after it at which something is due


def every(steps: int) -> When:
    """Due at each multiple of a number of steps."""
    return lambda step: (step // steps + 1) * steps


def once(step: int) -> When:
    """Due at one step."""
    return lambda now: step if now < step else sys.maxsize


class Agenda(NamedTuple):
    """Entries (when, what), in the order in which they happen at a step; all happen at the end.

    Between two due steps nothing but training happens. An entry whose `what` does nothing is a
    border all the same: no call of several steps crosses it (that of pre-training, say, or where
    the batches change their shape).

    Attributes:
      entries: what happens, and when.
      end: the last step.
    """

    entries: list[tuple[When, Callable[[], None]]]
    end: int

    def next_after(self, step: int) -> int:
        """The first step after this one at which anything is due."""
        return min(self.end, *(when(step) for when, _ in self.entries))

    def at(self, step: int) -> list[Callable[[], None]]:
        """What is due at a step."""
        return [what for when, what in self.entries if step == self.end or when(step - 1) == step]

    def left_at(self, step: int) -> list[Callable[[], None]]:
        """What would happen at the end, and is not due at a step at which the run ends earlier."""
        return [what for when, what in self.entries if step != self.end and when(step - 1) != step]

    def stretches(self, start: int, longest: int) -> Iterator[range]:
        """Cuts the steps of a run into stretches that end at whatever is due.

        Args:
          start: updates applied before.
          longest: steps of a stretch at most; it also ends at every multiple of these, so that a
            resumed run has the same stretches.

        Yields:
          The numbers of the batches of each.
        """
        while start < self.end:
            stop = min(self.next_after(start), (start // longest + 1) * longest)
            yield range(start, stop)
            start = stop
