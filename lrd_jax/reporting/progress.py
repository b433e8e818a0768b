"""How far a run is: a bar on a terminal, plain lines anywhere else."""

import datetime
import os
import sys
import time
from collections.abc import Iterable
from typing import TextIO

import tqdm

from lrd_jax.metrics import Metric

_MOST_LINES = 200  # of plain output in one run, so that a log file stays readable
_LINE_SECONDS = 2.0  # shortest time between two of them


class Progress:
    """Shows step, speed, latest metrics and remaining time; a context manager.

    On a terminal this is one moving bar. Into a file or a pipe it prints a line now and then: at
    most 200 in a run, and at most one every two seconds, apart from that for the last step.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        stream: TextIO | None = None,
        metrics: Iterable[Metric] = (),
    ):
        """Starts the display.

        Args:
          total_steps: the step at which the run is complete.
          start_step: the step it continues from.
          stream: where to show it; the standard error unless given.
          metrics: say how their values are shown, by the last words of a value's name.
        """
        self._total = total_steps
        self._step = start_step
        self._stream = sys.stderr if stream is None else stream
        self._metrics = {metric.name: metric for metric in metrics}
        self._values: dict[str, float] = {}
        self._printed_step = start_step
        self._printed_at = time.monotonic()
        self._bar = None
        if self._stream.isatty():
            sized = _has_size(self._stream)
            self._bar = tqdm.tqdm(
                total=total_steps,
                initial=start_step,
                file=self._stream,
                unit="step",
                dynamic_ncols=sized,
                ncols=None if sized else 80,
                nrows=None if sized else 24,
                miniters=1,  # updates arrive once a logging interval: draw each
            )

    def update(self, step: int, **values: float) -> None:
        """Moves to `step`; call it only when metrics are on the host anyway.

        Args:
          step: optimizer steps taken.
          **values: what to show beside it, e.g. `loss=0.31, valid_accuracy=0.92`. A value stays
            until it is given again, so a validation metric remains in sight between evaluations.
        """
        advanced, self._step = step - self._step, step
        self._values |= values
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._shown()), refresh=False)
            self._bar.update(advanced)
            return
        progressed = step - self._printed_step
        waited = time.monotonic() - self._printed_at
        spaced = progressed * _MOST_LINES >= self._total and waited >= _LINE_SECONDS
        if progressed > 0 and (spaced or step >= self._total):
            self._print_line(progressed / max(waited, 1e-9))

    def write(self, text: str) -> None:
        """Prints a message without breaking the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the display, the bar standing where it is; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _shown(self) -> list[str]:
        return [f"{n.replace('_', ' ')} {self._brief(n, v)}" for n, v in self._values.items()]

    def _brief(self, name: str, value: float) -> str:
        for prefix in ("valid_", "baseline_"):
            name = name.removeprefix(prefix)
        metric = self._metrics.get(name, Metric(name))
        # Four figures, not its digits: a loss may fall below them while one watches.
        text = f"{value * metric.factor:.4g}"
        return metric.with_unit(text) if metric.unit == "%" else text

    def _print_line(self, steps_per_s: float) -> None:
        left = datetime.timedelta(seconds=round((self._total - self._step) / steps_per_s))
        parts = [
            f"step {self._step}/{self._total} ({self._step / self._total:.0%})",
            *self._shown(),
            f"{steps_per_s:.4g} steps/s",
            f"{left} left",
        ]
        print(", ".join(parts), file=self._stream, flush=True)
        self._printed_step, self._printed_at = self._step, time.monotonic()


def _has_size(stream: TextIO) -> bool:
    """Tells whether a terminal knows its size; into one of 0 columns tqdm would draw nothing."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:  # no file behind it
        return True
