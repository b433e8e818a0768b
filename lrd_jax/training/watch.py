"""Looks after a run under way: members that stop, and devices that lag behind."""

from __future__ import annotations

import time

import jax
import numpy as np

from lrd_jax.config.members import Member
from lrd_jax.errors import RunError
from lrd_jax.runtime import processes
from lrd_jax.training.recorder import Recorder
from lrd_jax.training.state import TrainState

_AHEAD_S = 1.0  # how far the loop may run ahead of the devices


class Pace:
    """Keeps the loop about a second ahead of the devices, however long a step takes.

    Calling a step only queues it. Dozens fit into the queue, and who wants to stop at a signal
    would first have to wait for all of them. For the same reason a call of many steps takes a
    second at most.
    """

    def __init__(self, steps_per_call: int = 1) -> None:
        self._longest = steps_per_call
        self._since, self._stride, self._queued = time.monotonic(), 1, 0

    def steps_per_call(self) -> int:
        """How many steps a call had better take from here on, the same in every process.

        All of them must come here at the same point of the program.
        """
        if self._longest == 1:
            return 1
        return processes.from_first(lambda: min(self._longest, self._stride))

    def wait(self, output: jax.Array, steps: int = 1) -> None:
        """Waits, after some of the calls, for the one of `steps` that makes this output."""
        self._queued += steps
        if self._queued < self._stride:
            return
        jax.block_until_ready(output)
        now = time.monotonic()
        step_s = max((now - self._since) / self._queued, 1e-6)
        self._stride = max(1, min(2 * self._stride, int(_AHEAD_S / step_s)))
        self._since, self._queued = now, 0


class Watch:
    """Looks after members whose loss or gradient stops being finite, or whose patience ends.

    Attributes:
      over: whether none is left that trains, and patience has ended at least one.
    """

    def __init__(self, members: list[Member], state: TrainState, recorder: Recorder) -> None:
        """Takes note of those that were frozen before: they have been reported."""
        self._members, self._recorder = members, recorder
        self._take_note(*_frozen(state))

    def check(self, state: TrainState) -> None:
        """Reports each newly frozen member in a line; ends the run when all others are NaN too."""
        steps, stopped = _frozen(state)
        if (steps >= 0).all():
            where = (
                f"at step {steps[0]}"
                if len(steps) == 1
                else "in every seed, at steps " + ", ".join(str(step) for step in steps)
            )
            raise RunError(
                f"loss or gradient became NaN or infinite {where}; the last good checkpoint is"
                " kept. Lower optim.learning_rate or optim.clip_norm, and choose another --workdir"
            )
        for index in np.flatnonzero((steps >= 0) & ~self._known):
            self._recorder.say(
                f"lrd_jax: warning: loss or gradient of {self._members[index]} became NaN or"
                f" infinite at step {steps[index]}; it stays as it was before, the others go on"
            )
        for index in np.flatnonzero((stopped >= 0) & ~self._known_stopped):
            best = jax.device_get(state.best.step)[index]
            self._recorder.say(
                f"{self._members[index]} stops at step {stopped[index]}: no evaluation was better"
                f" than that of step {best} (train.patience)"
            )
        self._take_note(steps, stopped)

    def _take_note(self, steps: np.ndarray, stopped: np.ndarray) -> None:
        self._known, self._known_stopped = steps >= 0, stopped >= 0
        frozen = self._known | self._known_stopped
        self.over = bool(frozen.all() and self._known_stopped.any())


def _frozen(state: TrainState) -> tuple[np.ndarray, np.ndarray]:
    """The steps at which members became NaN, and at which they stopped; -1 if not."""
    steps, stopped = jax.device_get((state.first_nonfinite_step, state.stopped))
    return steps, stopped if len(stopped) else np.full_like(steps, -1)
