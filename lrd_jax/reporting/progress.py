"""How far a run is: one moving line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TextIO

import tqdm

from lrd_jax.metrics import Metric

_MOST_LINES = 200  # of plain output in one run, so that a log file stays readable
_LINE_SECONDS = 2.0  # shortest time between two of them
_STAGE_SECONDS = 10.0  # the same while evaluating
_DRAW_SECONDS = 0.1  # shortest time between two pictures of an evaluation's progress
_SHORTEST_BAR = 8  # columns; a shorter one says nothing
# Of names, on a terminal.
_SHORT = {"valid": "val", "accuracy": "acc", "baseline": "base", "perplexity": "ppl"}


class Progress:
    """Shows latest metrics, step, speed and remaining time; a context manager.

    On a terminal this is one moving line, the loss first, of which the less important parts are
    dropped until it fits; a bar fills what is left. Into a file or a pipe it prints a line with the
    time (UTC) now and then: at most 200 in a run, and at most one every two seconds, apart from
    that for the last step. While something else than training goes on, it says what and how far.
    A value of an earlier step than the others says of which.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        stream: TextIO | None = None,
        metrics: Iterable[Metric] = (),
        *,
        training: Callable[[], float] = lambda: time.monotonic(),
        running: Callable[[], float] = lambda: time.monotonic(),
    ):
        """Starts the display; until the first update it says that the program is compiled.

        Args:
          total_steps: the step at which the run is complete; 0: nothing is trained.
          start_step: the step it continues from.
          stream: where to show it; the standard error unless given.
          metrics: say how their values are shown, by the last words of a value's name.
          training: a clock that goes on while the run trains; the speed is by it.
          running: one that goes on while it trains or evaluates; the remaining time is by it.
        """
        self._total = total_steps
        self._start = self._step = start_step
        self._stream = sys.stderr if stream is None else stream
        self._metrics = {metric.name: metric for metric in metrics}
        self._values: dict[str, float] = {}
        self._given: dict[str, int] = {}  # at which step each was
        self._runs = 0
        self._training, self._running = training, running
        self._started_at = running()
        self._rate = 0.0  # steps a second, of the last interval
        self._updated = start_step, training()
        self._printed = start_step, training(), time.monotonic()  # of the last plain line
        self._drawn_at = 0.0
        self._stage = ("compiling", 0.0)
        self._bar = None
        if self._stream.isatty():
            # The delay: nothing is drawn before there is a text.
            self._bar = tqdm.tqdm(total=1, file=self._stream, nrows=24, delay=1e-9)
            self._draw()

    def update(self, step: int, runs: int = 0, **values: float) -> None:
        """Moves to `step`; call it only when metrics are on the host anyway.

        Args:
          step: optimizer steps taken.
          runs: how many runs side by side the values are the mean of; 0: of one, and no mean.
          **values: what to show beside it, e.g. `loss=0.31, valid_accuracy=0.92`. A value stays
            until it is given again, so a validation metric remains in sight between evaluations,
            with its step.
        """
        self._step, self._values, self._stage = step, self._values | values, ("", 0.0)
        self._given |= dict.fromkeys(values, step)
        self._runs = runs
        now = self._training()
        before, at = self._updated
        if step > before:
            self._rate, self._updated = (step - before) / max(now - at, 1e-9), (step, now)
        if self._bar is not None:
            self._draw()
            return
        printed, _, printed_at = self._printed
        spaced = time.monotonic() - printed_at >= _LINE_SECONDS
        spaced &= (step - printed) * _MOST_LINES >= self._total
        if step > printed and (spaced or step >= self._total):
            self._print_line()

    def stage(self, name: str, fraction: float = 0.0) -> None:
        """Shows what goes on between two steps; an empty name: training goes on.

        Args:
          name: for example "validating".
          fraction: how far it is, 0 to 1.
        """
        begins, self._stage = name != self._stage[0], (name, min(fraction, 1.0))
        now = time.monotonic()
        if self._bar is not None:
            if begins or now - self._drawn_at >= _DRAW_SECONDS:
                self._draw()
        elif name and now - self._printed[2] >= _STAGE_SECONDS and not begins:
            step = f"step {self._step}/{self._total}, " if self._total else ""
            self._print(f"{step}{name} {fraction:.0%}")
            self._printed = (*self._printed[:2], now)

    def write(self, text: str) -> None:
        """Prints a message without breaking the line that moves."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the display, the line standing where it is; a second call does nothing."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # ---- On a terminal --------------------------------------------------------------------------

    def _draw(self) -> None:
        """Draws the bar, or its text alone where the terminal is narrow."""
        assert self._bar is not None
        columns = self._columns()
        text = fit(self._parts(), columns - 1)
        name, fraction = self._stage
        bar = columns - len(text) - 4 >= _SHORTEST_BAR
        self._bar.ncols, self._bar.bar_format = columns, "{desc} |{bar}|" if bar else "{desc}"
        self._bar.n = fraction if name else self._step / max(self._total, 1)
        self._bar.set_description_str(text)  # draws
        self._drawn_at = time.monotonic()

    def _parts(self) -> list[Part]:
        """What the line says, in order."""
        name, fraction = self._stage
        shown = f"{name} {fraction:.0%}" if fraction else name
        known = [n for n in self._values if "loss" in n.split("_")]
        names = [*known, *(n for n in self._values if n not in known)]
        parts = [Part(self._named(n, short=True), self._rank(n)) for n in names]
        parts += [Part(shown, 1)] if name else []
        if not self._total:
            return parts
        if name in ("", "compiling"):  # one percentage at a time
            parts.append(Part(f"{self._step / max(self._total, 1):.0%}", 4))
        parts += [Part(self._mean_of(), 4)] if self._runs else []
        parts.append(Part(f"{self._step}/{self._total}", 6))
        if self._rate:
            parts.append(Part(f"{self._rate:.3g} steps/s", 7))
            parts.append(Part(f"ETA {self._left()}", 1))
        return parts

    def _rank(self, name: str) -> int:
        if name == "loss":
            return 0
        if name.startswith("baseline_"):
            return 8
        percent = self._metric(name).unit == "%"
        if name.startswith("valid_"):
            return 3 if percent else 5
        return 2 if percent else 5

    def _columns(self) -> int:
        """Width of the terminal; 80 where it does not know its own."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:  # no file behind it
            return 80

    # ---- Plain lines ----------------------------------------------------------------------------

    def _print_line(self) -> None:
        """Prints where training is, in a line: step, values, speed in steps/s, time left."""
        printed, at, _ = self._printed
        now = self._training()
        parts = [
            f"step {self._step}/{self._total} ({self._step / self._total:.0%})",
            *map(self._named, self._values),
            *([self._mean_of()] if self._runs else []),
            f"{(self._step - printed) / max(now - at, 1e-9):.4g} steps/s",
            f"{self._left()} left",
        ]
        self._print(", ".join(parts))
        self._printed = self._step, now, time.monotonic()

    def _print(self, text: str) -> None:
        print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} {text}", file=self._stream)
        self._stream.flush()

    # ---- Both -----------------------------------------------------------------------------------

    def _left(self) -> datetime.timedelta:
        """Time until the last step, at the speed of this session with its evaluations."""
        seconds = (self._running() - self._started_at) / max(self._step - self._start, 1)
        return datetime.timedelta(seconds=round((self._total - self._step) * seconds))

    def _mean_of(self) -> str:
        return f"mean of {self._runs}"

    def _metric(self, name: str) -> Metric:
        for prefix in ("valid_", "baseline_"):
            name = name.removeprefix(prefix)
        return self._metrics.get(name, Metric(name))

    def _named(self, name: str, short: bool = False) -> str:
        """A value with its name, e.g. "valid accuracy 92.35 %", or "val acc 92.35 % at 200"."""
        words = [_SHORT.get(word, word) if short else word for word in name.split("_")]
        metric = self._metric(name)
        # Four figures, not its digits: a loss may fall below them while one watches.
        text = f"{self._values[name] * metric.factor:.4g}"
        shown = " ".join([*words, metric.with_unit(text) if metric.unit == "%" else text])
        given = self._given[name]
        if given == self._step or name.startswith("baseline_"):
            return shown
        return f"{shown} at {given}" if short else f"{shown} (step {given})"


@contextlib.contextmanager
def evaluating(name: str, stream: TextIO | None = None) -> Iterator[Callable[[float], None]]:
    """Shows how far an evaluation is that no training is around.

    Args:
      name: for example "testing".
      stream: as for `Progress`.

    Yields:
      A function to call with the fraction that is done.
    """
    with Progress(0, stream=stream) as progress:
        yield functools.partial(progress.stage, name)


class Part(NamedTuple):
    """A part of a line: 0 is the last to be dropped."""

    text: str
    rank: int


def fit(parts: list[Part], columns: int) -> str:
    """Joins parts in their order, without those of the highest rank until they fit.

    >>> fit([Part("loss 0.5", 0), Part("valid loss 0.6", 5), Part("ETA 0:00:10", 1)], 25)
    'loss 0.5, ETA 0:00:10'
    """
    parts = list(parts)
    while len(text := ", ".join(part.text for part in parts)) > columns and len(parts) > 1:
        # Of equal ranks the last one goes first.
        parts.pop(max(range(len(parts)), key=lambda index: (parts[index].rank, index)))
    return text[:columns]
