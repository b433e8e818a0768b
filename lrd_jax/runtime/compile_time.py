"""How long JAX compiles: tracing, lowering and XLA, as JAX itself reports it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax

_EVENTS = "/jax/core/compile/"  # of tracing, of lowering, and of XLA or the cache in its place


def since_now() -> Callable[[], float]:
    """Starts to count; the function returned gives the seconds that JAX has compiled since.

    What runs in several threads at a time counts once.
    """
    spans = _listening()
    before = spans.total
    return lambda: spans.total - before


@functools.cache
def _listening() -> _Spans:
    spans = _Spans()
    jax.monitoring.register_event_duration_secs_listener(spans.add)
    return spans


class _Spans:
    """Adds up spans of time that are reported at their end, those within another one once.

    Attributes:
      total: seconds.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._known: list[tuple[float, float]] = []  # disjoint, in order

    def add(self, event: str, duration_secs: float, **_: Any) -> None:
        """A listener of `jax.monitoring`."""
        if not event.startswith(_EVENTS):
            return
        end = time.monotonic()
        start = end - duration_secs
        # Tracing a function traces those that it calls, and these report first.
        while self._known and self._known[-1][1] > start:
            before, after = self._known.pop()
            self.total -= after - before
            start = min(start, before)
        self._known.append((start, end))
        self.total += end - start
