"""Records of a training run: metrics on disk, the progress bar, and how fast it goes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.config.horizon import Horizon
from lrd_jax.config.members import Member, labels
from lrd_jax.evaluation.scorer import Metrics
from lrd_jax.metrics import Metric
from lrd_jax.reporting.progress import Progress
from lrd_jax.reporting.writers import Writers
from lrd_jax.runtime import processes


class Recorder:
    """Takes metrics as they come, and writes and shows them; a context manager.

    Of several processes the first one alone writes and shows; in the others the same calls do
    nothing.
    """

    def __init__(
        self,
        workdir: Path,
        config: Any,
        *,
        members: Sequence[Member],
        horizon: Horizon,
        start: int,
        end: int,
        evaluated: bool,
        shown: Sequence[str],
        metrics: Sequence[Metric],
        baselines: Mapping[str, float],
        earlier_s: float,
    ) -> None:
        """Opens the files and the display.

        Args:
          workdir: an existing folder.
          config: the run's config.
          members: the runs side by side.
          horizon: length of the run.
          start: the step that it continues from.
          end: the step at which it ends.
          evaluated: whether the validation of `start` is on disk already.
          shown: training metrics for the display.
          metrics: the objective's, whose units and digits the display takes.
          baselines: what stands beside those of them that have one.
          earlier_s: seconds that the run has taken so far.

        Raises:
          RunError: the disk is full or failed.
        """
        self._labels, self._epoch = labels(members), horizon.steps_per_epoch
        self._shown = shown
        self._baseline = {f"baseline_{n}": baselines[n] for n in shown if n in baselines}
        self._writers = self._progress = None
        if processes.is_first():
            self._writers = Writers(workdir, config, resume_step=start, evaluated=evaluated)
            self._progress = Progress(end, start, metrics=metrics)
        self._started = time.monotonic() - earlier_s
        # Of the last training line; time that is not spent on training moves it on.
        self._line_at, self._line_step = time.monotonic(), start

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:
            if self._writers and self._progress:
                stack.callback(self._writers.close)
                stack.callback(self._progress.close)

    @property
    def wall_time_s(self) -> float:
        """Seconds that the run has taken, also before it was resumed."""
        return time.monotonic() - self._started

    def train(self, step: int, values: Metrics) -> None:
        """Records the means since the last call, with the rate."""
        now = time.monotonic()
        rate = (step - self._line_step) / max(now - self._line_at, 1e-9)
        self._line_at, self._line_step = now, step
        self._write(step, "train", values, steps_per_s=rate)
        self._show(step, {n: values[n] for n in self._shown}, self._baseline)

    def valid(self, step: int, values: Metrics) -> None:
        """Records a validation."""
        self._write(step, "valid", values)
        self._show(step, {f"valid_{name}": value for name, value in values.items()})

    def test(self, step: int, values: Metrics) -> None:
        """Records the score of the best parameters on the test split."""
        self._write(step, "test", values)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in this block does not count in the rate of training."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._line_at += time.monotonic() - began

    def say(self, text: str) -> None:
        """Prints a line beside the progress."""
        if self._progress:
            self._progress.write(text)

    def flush(self) -> int:
        """Waits until all that was recorded is on disk; returns the size of `metrics.jsonl`."""
        return self._writers.flush() if self._writers else 0

    def _write(self, step: int, split: str, values: Metrics, **timing: float) -> None:
        if self._writers:
            for index, label in enumerate(self._labels):
                each = {name: float(value[index]) for name, value in values.items()}
                self._writers.write(step, step / self._epoch, split, each | timing, label)

    def _show(self, step: int, values: Metrics, beside: Mapping[str, float] | None = None) -> None:
        if self._progress:
            means = {name: _alive(value) for name, value in values.items()}
            self._progress.update(step, **means, **(beside or {}))


def _alive(values: np.ndarray) -> float:
    """One number for the display: the mean over the seeds that are alive."""
    alive = values[np.isfinite(values)]
    return float(alive.mean()) if len(alive) else math.nan
