"""Several seeds in one figure: the mean as a line, its 95 % interval as a band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrd_jax.metrics import Metric
from lrd_jax.reporting import figures
from lrd_jax.reporting.statistics import CONFIDENCE, band

DOTS = "small dots: each of two seeds"


def count_text(seeds: int) -> str:
    """E.g. "1 seed", "5 seeds"."""
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def seeds_note(counts: Sequence[int]) -> str:
    """What the legend says of all lines: of how many seeds they are, and what the band is."""
    if max(counts) == 1:
        return "one seed"
    each = f" of {count_text(counts[0])}" if len(set(counts)) == 1 else ""
    note = [f"line: mean{each}"]
    if max(counts) > 2:
        note.append(f"band: {interval_over(counts)}")
    if 2 in counts:
        note.append(DOTS)
    return "; ".join(note)


def interval_over(counts: Sequence[int]) -> str:
    """What a band or bar is, e.g. "95 % interval over 5 seeds"."""
    several = sorted({count for count in counts if count > 2})
    seeds = f"{several[0]} seeds" if len(several) == 1 else f"{several[0]} to {several[-1]} seeds"
    return f"{CONFIDENCE:.0%} interval over {seeds}".replace("%", " %")


def draw_line(
    panel: Any,
    index: int,
    x: Any,
    values: np.ndarray,
    label: str,
    metric: Metric,
    *,
    markers: bool,
) -> None:
    """Draws the mean over seeds, and its 95 % interval as a band; of two seeds both as dots.

    Args:
      panel: where.
      index: number of the line.
      x: `(points,)`.
      values: `(points, seeds)`, as recorded; a point with a NaN is a gap.
      label: for the legend.
      metric: whose values they are; says their unit and where they end.
      markers: draw the points.
    """
    look = figures.look(index, markers=markers)
    panel.plot(x, metric.factor * values.mean(1), label=figures.plain(label), **look)
    if (ends := band(values, metric.range)) is not None:
        low, high = (metric.factor * end for end in ends)
        panel.fill_between(x, low, high, color=look["color"], alpha=0.18, lw=0)
    elif values.shape[1] == 2:
        size = 5 if len(values) <= 50 else 2.5
        panel.plot(x, metric.factor * values, ".", color=look["color"], ms=size, alpha=0.5, mew=0)
