"""Records of a training run: metrics on disk, the progress bar, and how fast it goes."""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lrd_jax.config.horizon import Horizon
from lrd_jax.config.members import Member, labels
from lrd_jax.evaluation.scorer import Metrics
from lrd_jax.metrics import Metric, ReportedMetric, plain
from lrd_jax.reporting.progress import Progress
from lrd_jax.reporting.writers import Writers
from lrd_jax.runtime import processes

NO_SECONDS: Mapping[str, float] = MappingProxyType(
    {"train_s": 0.0, "eval_s": 0.0, "compile_s": 0.0}
)


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
        earlier: Mapping[str, float] = NO_SECONDS,
        compiled: Callable[[], float] = lambda: 0.0,
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
          earlier: what `seconds` was when it was saved.
          compiled: seconds that JAX has compiled in this session.

        Raises:
          RunError: the disk is full or failed.
        """
        self._labels, self._epoch = labels(members), horizon.steps_per_epoch
        self._groups = _seeds_of(members)
        self._shown = shown
        self._unseen = {m.name for m in metrics if isinstance(m, ReportedMetric)}
        self._baseline = {f"baseline_{n}": baselines[n] for n in shown if n in baselines}
        self._stopwatch = _Stopwatch(earlier, compiled)
        self._writers = self._progress = None
        if processes.is_first():
            self._writers = Writers(workdir, config, resume_step=start, evaluated=evaluated)
            self._progress = Progress(
                end,
                start,
                metrics=metrics,
                training=lambda: self.seconds["train_s"],
                running=lambda: self.seconds["train_s"] + self.seconds["eval_s"],
            )
        self._started = time.monotonic() - earlier_s
        self._line_step, self._line_train_s = start, self.seconds["train_s"]
        self._told_compiling = False

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

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of training (`train_s`), evaluation and compiling, also before it was resumed."""
        return self._stopwatch.read()

    def train(self, step: int, values: Metrics) -> None:
        """Records the means since the last call, with the rate."""
        seconds = self.seconds
        spent = seconds["train_s"] - self._line_train_s
        rate = (step - self._line_step) / max(spent, 1e-9)
        self._line_step, self._line_train_s = step, seconds["train_s"]
        if not self._told_compiling:
            self._told_compiling = True
            self.say(f"compiled in {self._stopwatch.compiled():.1f} s")
        self._write(step, "train", values, steps_per_s=rate)
        self._show(step, {n: values[n] for n in self._shown}, self._baseline)

    def valid(self, step: int, values: Metrics, raw: Metrics | None = None) -> None:
        """Records a validation.

        Args:
          step: number of updates.
          values: by metric, `(members,)`.
          raw: the same of parameters that are not averaged, recorded as `raw_<name>`.
        """
        beside = {f"raw_{name}": value for name, value in (raw or {}).items()}
        self._write(step, "valid", {**values, **beside})
        seen = {f"valid_{n}": value for n, value in values.items() if n not in self._unseen}
        self._show(step, seen)

    def test(self, step: int, values: Metrics) -> None:
        """Records the score of the best parameters on the test split."""
        self._write(step, "test", values)

    @contextlib.contextmanager
    def evaluating(self, split: str) -> Iterator[Callable[[float], None]]:
        """What happens in this block is evaluation, and no training.

        Args:
          split: valid or test.

        Yields:
          A function to call with the fraction that is done.
        """
        name = {"valid": "validating", "test": "testing"}[split]
        self._stopwatch.switch("eval_s")
        self._stage(name)
        try:
            yield functools.partial(self._stage, name)
        finally:
            self._stage("")
            self._stopwatch.switch("train_s")

    def say(self, text: str) -> None:
        """Prints a line beside the progress."""
        if self._progress:
            self._progress.write(text)

    def flush(self) -> int:
        """Waits until all that was recorded is on disk; returns the size of `metrics.jsonl`."""
        return self._writers.flush() if self._writers else 0

    def _write(self, step: int, split: str, values: Metrics, **timing: Any) -> None:
        """Writes a line for each member, and one for the mean of each swept value."""
        if self._writers:
            timing = {"time": _now()} | timing | self.seconds
            for index, label in enumerate(self._labels):
                each = {name: plain(value[index]) for name, value in values.items()}
                self._writers.write(step, step / self._epoch, split, each | timing, label)
            for swept, places in self._groups:
                means = {name: _alive(value[places]) for name, value in values.items()}
                counts = [int(np.isfinite(value[places]).sum()) for value in values.values()]
                self._writers.write_mean(step, split, means | {"seeds": max(counts)}, swept)

    def _stage(self, name: str, fraction: float = 0.0) -> None:
        if self._progress:
            self._progress.stage(name, fraction)

    def _show(self, step: int, values: Metrics, beside: Mapping[str, float] | None = None) -> None:
        if self._progress:
            means = {name: _alive(value) for name, value in values.items()}
            counts = [int(np.isfinite(value).sum()) for value in values.values()]
            several = len(self._labels) > 1
            self._progress.update(step, max(counts) if several else 0, **means, **(beside or {}))


def _seeds_of(members: Sequence[Member]) -> list[tuple[Mapping[str, float], list[int]]]:
    """Swept values with the places of their seeds, where these are several."""
    groups: dict[tuple, list[int]] = {}
    for place, member in enumerate(members):
        groups.setdefault(tuple(member.swept.items()), []).append(place)
    return [(dict(swept), places) for swept, places in groups.items() if len(places) > 1]


def _alive(values: np.ndarray) -> float:
    """One number for the display: the mean over the seeds that are alive."""
    alive = values[np.isfinite(values)]
    return float(alive.mean()) if len(alive) else math.nan


def _now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Stopwatch:
    """Where the time goes: each second is training's or evaluation's, or compiling's in either."""

    def __init__(self, earlier: Mapping[str, float], compiled: Callable[[], float]) -> None:
        self._seconds = {**NO_SECONDS, **earlier}
        self._phase, self.compiled = "train_s", compiled
        # What was compiled before this, the first state say, belongs to neither phase.
        self._at, self._compiled_before = time.monotonic(), compiled()
        self._seconds["compile_s"] += self._compiled_before

    def switch(self, phase: str) -> None:
        """From now on the time is another phase's, `train_s` or `eval_s`."""
        now, compiled = time.monotonic(), self.compiled()
        compiling = compiled - self._compiled_before
        self._seconds["compile_s"] += compiling
        self._seconds[self._phase] += max(now - self._at - compiling, 0.0)
        self._phase, self._at, self._compiled_before = phase, now, compiled

    def read(self) -> dict[str, float]:
        """Seconds of each so far."""
        self.switch(self._phase)
        return dict(self._seconds)
