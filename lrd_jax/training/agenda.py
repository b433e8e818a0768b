"""What happens at which step of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

When = Callable[[int], int]  # step -> the first one after it at which something is due


def every(steps: int) -> When:
    """Due at each multiple of a number of steps."""
    return lambda step: (step // steps + 1) * steps


class Agenda(NamedTuple):
    """Entries (when, what), in the order in which they happen at a step; all happen at the end.

    Between two due steps nothing but training happens, and `next_after` knows in advance how many
    steps that is.

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
