"""Where the time of some steps goes: a profile for TensorBoard or Perfetto, and three lines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from lrd_jax.training.agenda import once


class Profiler:
    """Traces the steps from `train.profile_steps[0]` to `[1]` into `profile/` of a run."""

    def __init__(self, workdir: Path, steps: tuple[int, int], say: Callable[[str], None]) -> None:
        """Keeps the parts.

        Args:
          workdir: of the run.
          steps: updates applied before the trace begins, and when it ends.
          say: shows lines.
        """
        self._folder, self._steps, self._say = workdir / "profile", steps, say
        self._began = 0.0

    def entries(self, step: Callable[[], int], state: Callable[[], Any]) -> list[Any]:
        """What an agenda needs, the end of the trace first.

        Args:
          step: updates applied.
          state: arrays that are ready when the step is done.
        """

        def start() -> None:
            if step() == self._steps[0]:
                jax.block_until_ready(state())
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # it would slow down what is measured
                jax.profiler.start_trace(
                    self._folder, create_perfetto_trace=True, profiler_options=options
                )
                self._began = time.perf_counter()

        def stop() -> None:
            if self._began:
                jax.block_until_ready(state())
                seconds, self._began = time.perf_counter() - self._began, 0.0
                with contextlib.redirect_stdout(None):  # it prints where the trace is
                    jax.profiler.stop_trace()
                self._report(step() - self._steps[0], seconds)

        return [(once(self._steps[1]), stop), (once(self._steps[0]), start)]

    def _report(self, count: int, seconds: float) -> None:
        """Shows the summary of so many steps."""
        newest = max(self._folder.glob("plugins/profile/*/*.xplane.pb"), default=None)
        each = 1000 * seconds / count
        lines = [f"profile of {count} steps in {self._folder}: tensorboard --logdir (with the"]
        lines[0] += " plugin xprof), or open its perfetto_trace.json.gz at ui.perfetto.dev"
        lines.append(f"step time    {each:.2f} ms")
        if newest is not None:
            device = min(1000 * busy_seconds(newest) / count, each)
            share = device / each
            lines.append(f"host wait    {each - device:.2f} ms ({1 - share:.0%}): no device worked")
            lines.append(f"device time  {device:.2f} ms ({share:.0%})")
        self._say("\n".join(lines))


def busy_seconds(trace: Path) -> float:
    """For how long at least one device worked.

    A GPU has planes of its own in a trace; of a CPU it is the threads in which XLA computes.
    """
    data = jax.profiler.ProfileData.from_file(str(trace))
    devices = [plane for plane in data.planes if plane.name.startswith("/device:")]
    lines = [line for plane in devices for line in plane.lines]
    if not lines:
        lines = [
            line for plane in data.planes for line in plane.lines if line.name.startswith("tf_XLA")
        ]
    spans = [(e.start_ns, e.start_ns + e.duration_ns) for line in lines for e in line.events]
    return covered(spans) / 1e9


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
