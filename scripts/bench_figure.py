"""The figure of `bench_recurrence.py`, and the numbers that it shows."""

from __future__ import annotations

import math
import pathlib
import statistics
from typing import Any

from matplotlib import ticker

from lrd_jax.reporting import figures


def shape_of(record: dict[str, Any]) -> tuple[int, int, int]:
    """Steps, batch, units."""
    return record["steps"], record["batch"], record["units"]


def medians(records: list[dict[str, Any]], shape: tuple[int, int, int]) -> dict[str, float]:
    """Contender -> median seconds of a training step at `shape`, of those that worked."""
    return {
        r["contender"]: r["median_train_s"]
        for r in records
        if shape_of(r) == shape and "median_train_s" in r
    }


def yardstick(times: dict[str, float], contender: str) -> tuple[float, float]:
    """Times of PyTorch's module (LSTM, or GRU for a GRU) and of its fastest loop over the cell."""
    cell = contender.partition("@")[0].rpartition("-")[2]
    module = times.get("torch-gru" if cell == "gru" else "torch-lstm", math.nan)
    loops = [s for c, s in times.items() if c.startswith("torch_") and c.endswith(f"-{cell}")]
    return module, min(loops, default=math.nan)


# Whose a contender is: colour and marker in the figure.
FAMILIES = {
    "lrd_jax": (figures.COLOURS[0], "o"),
    "PyTorch": (figures.COLOURS[1], "s"),
    "other": (figures.GREY, "D"),
}


def plot(records: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws a panel a shape with each contender's ratio to PyTorch's module, the fastest on top.

    Where some batch and units were measured at more than one T: a panel for each of these with the
    time per step over T, flat where time is linear in T.
    """
    worked = [r for r in records if "median_train_s" in r]
    lines: dict[tuple[int, int], dict[str, list[tuple[int, float]]]] = {}
    for r in worked:
        point = (r["steps"], 1e6 * r["median_train_s"] / r["steps"])
        of_size = lines.setdefault((r["batch"], r["units"]), {})
        of_size.setdefault(r["contender"], []).append(point)
    if any(len(points) > 1 for of_size in lines.values() for points in of_size.values()):
        figure = _plot_times(lines)
    else:
        figure = _plot_ratios(worked)
    figures.save(figure, path)


def _plot_ratios(records: list[dict[str, Any]]) -> figures.Figure:
    """Times of all contenders over that of PyTorch's or Flax's best, a panel a shape."""
    shapes = list(dict.fromkeys(map(shape_of, records)))
    ratios: dict[str, list[float]] = {}
    for name in dict.fromkeys(r["contender"] for r in records):
        times = [medians(records, shape) for shape in shapes]
        ratios[name] = [t.get(name, math.nan) / yardstick(t, name)[0] for t in times]
    names = sorted(ratios, key=lambda name: statistics.fmean(ratios[name]), reverse=True)
    figure = figures.new_figure(columns=2, height=0.9 + 0.16 * len(names))
    panels = figure.subplots(1, len(shapes), sharey=True, sharex=True, squeeze=False)[0]
    for k, (panel, shape) in enumerate(zip(panels, shapes, strict=True)):
        for family, (colour, marker) in FAMILIES.items():
            rows = [i for i, name in enumerate(names) if _family(name) == family]
            values = [ratios[names[i]][k] for i in rows]
            panel.plot(values, rows, ls="", marker=marker, ms=4, color=colour, label=family)
        panel.axvline(1, **figures.REFERENCE)
        panel.set(xscale="log", title=" × ".join(map(str, shape)))
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.set_yticks(range(len(names)), names)
        figures.style(panel)
    label = "time of a training step / that of torch.nn.LSTM (of a GRU: torch.nn.GRU)"
    panels[len(panels) // 2].set_xlabel(label)
    figures.style(panels[len(panels) // 2])
    figures.legend(figure, note="panels: time steps × batch × units; left of the line is faster")
    return figure


def _plot_times(lines: dict[tuple[int, int], dict[str, list[tuple[int, float]]]]) -> figures.Figure:
    """Times over the length of the sequences, a panel for each batch and number of units."""
    across = min(3, len(lines))
    down = math.ceil(len(lines) / across)
    figure = figures.new_figure(columns=2, height=1.7 * down + 0.2)
    panels = figure.subplots(down, across, sharex=True, squeeze=False)
    for panel in panels.flat[len(lines) :]:
        panel.remove()
    names = list(dict.fromkeys(name for of_size in lines.values() for name in of_size))
    for panel, ((batch, units), of_size) in zip(panels.flat, sorted(lines.items()), strict=False):
        for name, points in of_size.items():
            look = figures.look(names.index(name), markers=True)
            panel.plot(*zip(*sorted(points), strict=True), label=name, **look)
        steps = sorted({t for points in of_size.values() for t, _ in points})
        panel.set(xscale="log", title=f"batch {batch}, {units} units")
        panel.set_ylim(0, 1.1 * max(time for points in of_size.values() for _, time in points))
        panel.set_xticks(steps, [str(t) for t in steps])
        panel.minorticks_off()
        figures.style(panel)
    for panel in panels[-1]:
        panel.set_xlabel("time steps T", size=8)
    figure.supylabel("time of a training step / T (µs)", size=8)
    figures.legend(figure, note="flat: time is linear in T")
    return figure


def _family(name: str) -> str:
    known = {"ours": "lrd_jax", "torch": "PyTorch"}
    return known.get(name.replace("_", "-").partition("-")[0], "other")
