"""Figures: learning curves of one or several runs, scores over the delay, decoded pictures."""

from __future__ import annotations

import itertools
import math
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrd_jax.config.members import SWEPT, named
from lrd_jax.errors import UserError
from lrd_jax.metrics import Metric, declared
from lrd_jax.reporting import figures
from lrd_jax.reporting.results import read_result
from lrd_jax.reporting.seeds import DOTS, count_text, draw_line, interval_over, seeds_note
from lrd_jax.reporting.statistics import over_seeds
from lrd_jax.reporting.writers import read_metrics

_SPLITS = {"train": "training", "valid": "validation", "test": "test"}
_POINTS = {"ls": "", "marker": "o", "ms": 4, "color": figures.COLOURS[0]}  # of trials
CHANCE = "without memory"  # what a model scores that remembers nothing


class Run(NamedTuple):
    """What is drawn of a run.

    Attributes:
      records: lines of its `metrics.jsonl`.
      result: content of its `result.json`; {} while it is under way.
    """

    records: Sequence[dict[str, Any]]
    result: Mapping[str, Any]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Reads a work directory (or its `metrics.jsonl`).

    Raises:
      UserError: there are no metrics, or its result is damaged.
    """
    path = pathlib.Path(folder)
    file = path / "metrics.jsonl" if path.is_dir() else path
    try:
        records = read_metrics(file)
    except OSError as error:
        raise UserError(
            f"no metrics in {folder}: {error.strerror}; give the work directory of a run"
        ) from error
    path = file.parent / "result.json"  # which a run that goes on does not have yet
    return Run(records, read_result(path) if path.exists() else {})


def plot_curves(
    runs: Mapping[str, str | os.PathLike[str] | Run],
    path: str | os.PathLike[str],
    *,
    curves: Sequence[tuple[str, str]] = (("valid", ""), ("train", "loss")),
    title: str = "",
) -> pathlib.Path:
    """Draws metrics over optimizer steps, a panel a metric and a line a run.

    A run of several seeds is drawn as the mean over its seeds, with the 95 % interval as a band
    (Student's t; of two seeds their dots and no band), and the legend says how many; a sweep as
    such a line for each of its values. Steps at which the value is not finite are gaps. What a
    model without memory scores is a grey line, where that is known.

    Args:
      runs: work directory (or `metrics.jsonl`, or a `Run`) by the label that the legend shows.
      path: the picture; its suffix picks the format, e.g. .png, .svg, .pdf.
      curves: a (split, metric) for each panel; split is train, valid or test. An empty metric is
        the one that chose the best step of the first run.
      title: above the figure; none where empty.

    Returns:
      `path`.

    Raises:
      UserError: No run given, a run without metrics or without any of a panel's.
    """
    if not runs:
        raise UserError("no run to plot: give at least one work directory")
    given = {n: run if isinstance(run, Run) else read_run(run) for n, run in runs.items()}
    metrics = declared_of(next(iter(given.values())))
    main = next(iter(metrics), "accuracy")
    lines = {}
    for name, run in given.items():
        for swept, records in by_value(run.records):
            lines[" ".join(filter(None, (name, named(swept))))] = records
    figure = figures.new_figure(columns=len(curves))
    panels = np.atleast_1d(figure.subplots(1, len(curves), sharex=True))
    counts = {label: _seeds(records) for label, records in lines.items()}
    same, drawn = len(set(counts.values())) == 1, []
    for panel, (split, key) in zip(panels, curves, strict=True):
        key = key or main
        metric = metrics.get(key, Metric(key))
        for index, (label, records) in enumerate(lines.items()):
            steps, values = curve_of(records, split, key)
            if not len(steps):
                raise UserError(f"run {label!r} has no {split} {key}: choose another metric")
            text = label if same else f"{label} ({count_text(counts[label])})"
            draw_line(panel, index, steps, values, text, metric, markers=len(steps) == 1)
            drawn.append(values.shape[1])  # fewer where a file keeps a part of the lines
        known = [run.result.get("baselines", {}) for run in given.values()]
        for chance in sorted({baselines[key] for baselines in known if key in baselines}):
            panel.axhline(metric.factor * chance, label=CHANCE, **figures.REFERENCE)
        panel.set_xlabel("optimizer steps")
        panel.set_ylabel(f"{_SPLITS.get(split, split)} {axis_label(metric)}")
        panel.margins(x=0.01)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 5), useMathText=True)
        figures.style(panel)
    figures.legend(figure, note=seeds_note(drawn))
    figures.title(figure, title)
    return figures.save(figure, path)


def plot_transfer(
    results: Mapping[str, Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    trained: int = 0,
    title: str = "",
) -> pathlib.Path:
    """Draws what chose the best step, accuracy say, over the delays or lengths of evaluations.

    Several seeds are drawn as in `plot_curves`, and each value of a sweep as a line.

    Args:
      results: the content of `eval/transfer.json`, by the label that the legend shows; all of one
        task, at the same delays or lengths.
      path: the picture; its suffix picks the format.
      trained: the delay or length of training, marked where it is given.
      title: above the figure; none where empty.

    Returns:
      `path`.

    Raises:
      UserError: The picture cannot be written.
    """
    result = next(iter(results.values()))
    key = result.get("varies", "delay")  # earlier versions had delays alone
    rows = sorted(result[f"{key}s"], key=lambda row: row[key])
    varied, split = np.array([row[key] for row in rows]), result["split"]
    figure = figures.new_figure()
    panel = figure.subplots()
    metric = next(iter(declared(result, rows[0]["seeds"][0][split]).values()))
    counts: list[int] = []
    for name, one in results.items():
        for label, scores in _scores_over(one, key, metric):
            shown = ", ".join(filter(None, (name, label))) or "this run"
            draw_line(panel, len(counts), varied, scores, shown, metric, markers=True)
            counts.append(scores.shape[1])
    if metric.name in rows[0]["baselines"]:
        chance = [metric.factor * row["baselines"][metric.name] for row in rows]
        panel.plot(varied, chance, label=CHANCE, **figures.REFERENCE)
    if trained:
        panel.axvline(trained, color=figures.GREY, lw=0.7, label=f"{key} of training")
    panel.set_xscale("log")
    panel.set_xticks(varied, [str(value) for value in varied])
    panel.minorticks_off()
    panel.set_xlabel(f"{key} (steps)")
    panel.set_ylabel(f"{_SPLITS.get(split, split)} {axis_label(metric)}")
    low, high = (metric.factor * end for end in metric.range)
    if math.isfinite(low) and math.isfinite(high):
        panel.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    figures.style(panel)
    figures.legend(figure, note=seeds_note(counts))
    figures.title(figure, title)
    return figures.save(figure, path)


def _scores_over(
    result: Mapping[str, Any], key: str, metric: Metric
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the values of a sweep (one, "", without) with scores `(values of key, seeds)`."""
    rows = sorted(result[f"{key}s"], key=lambda row: row[key])
    groups: dict[str, list[int]] = {}
    for index, entry in enumerate(rows[0]["seeds"]):
        groups.setdefault(named(entry.get("sweep", {})), []).append(index)
    for label, places in groups.items():
        scores = [[row["seeds"][i][result["split"]][metric.name] for i in places] for row in rows]
        yield label, np.array([list(map(_number, row)) for row in scores])


def plot_sweep(record: Mapping[str, Any], path: str | os.PathLike[str]) -> pathlib.Path:
    """Draws the score of every trial over each key that varied, a panel a key.

    A trial of three seeds or more has a bar, the 95 % interval of its mean; one of two has a small
    dot for each.

    Args:
      record: the content of `sweep.json`: metric, metrics, vary and trials are read.
      path: the picture; its suffix picks the format.

    Returns:
      `path`.

    Raises:
      UserError: The picture cannot be written.
    """
    name = record["metric"].removeprefix("-")  # of a sweep by an earlier version
    metric = declared(record, [name])[name]
    whole = [trial for trial in record["trials"] if trial["score"] is not None]
    failed = [trial for trial in record["trials"] if trial["score"] is None]
    keys = list(record["vary"])
    figure = figures.new_figure(columns=max(1.0, 0.8 * len(keys)))
    panels = np.atleast_1d(figure.subplots(1, len(keys), sharey=True))
    for panel, key in zip(panels, keys, strict=True):
        place, ticks = _axis(record["vary"][key])
        values = [trial["values"][key] for trial in whole]
        for index, (value, trial) in enumerate(zip(values, whole, strict=True)):
            x = place(value)
            if (
                ticks
            ):  # trials of one choice stand side by side, or their bars would hide each other
                x += 0.3 * ((values[:index].count(value) + 0.5) / values.count(value) - 0.5)
            _draw_trial(panel, x, trial, metric)
        for trial in failed:  # at the foot, having no score
            x = place(trial["values"][key])
            panel.plot(
                x,
                0.02,
                "x",
                color=figures.COLOURS[1],
                transform=panel.get_xaxis_transform(),
                label="failed",
            )
        if ticks:
            panel.set_xticks(range(len(ticks)), ticks)
            panel.margins(x=0.15)
        elif record["vary"][key]["scale"] == "log":
            panel.set_xscale("log")
        panel.set_xlabel(key)
        figures.style(panel)
    panels[0].set_ylabel(f"best validation {axis_label(metric)}")
    counts = [len(_seed_scores(trial, metric)) for trial in whole]
    note = [f"bar: {interval_over(counts)}"] if max(counts, default=0) > 2 else []
    figures.legend(figure, note="; ".join(note + [DOTS] * (2 in counts)))
    return figures.save(figure, path)


def _draw_trial(panel: Any, x: float, trial: Mapping[str, Any], metric: Metric) -> None:
    """A dot for a trial's score, and what its seeds say of it."""
    scores = _seed_scores(trial, metric)
    found = over_seeds([{metric.name: score} for score in scores or [None]], [metric])[metric.name]
    y = metric.factor * trial["score"]
    if "interval" in found:
        low, high = (metric.factor * end for end in found["interval"])
        panel.vlines(x, low, high, color=_POINTS["color"], lw=1, alpha=0.6)
    elif "values" in found:
        values = [metric.factor * score for score in found["values"]]
        panel.plot([x, x], values, ".", color=_POINTS["color"], ms=4, alpha=0.6)
    panel.plot(x, y, label="trial", **_POINTS)


def _seed_scores(trial: Mapping[str, Any], metric: Metric) -> list[float]:
    """The best validation value of each seed that has one; [] in an earlier version's record."""
    values = (run["best"]["valid"].get(metric.name) for run in trial.get("seeds", ()))
    return [value for value in values if value is not None]


def plot_pictures(
    columns: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    note: str = "",
) -> pathlib.Path:
    """Draws pictures in rows, each of an example, under the headings of the columns.

    Args:
      columns: heading -> (examples, height, width, 1 or 3) in 0 .. 1; NaN is drawn as a light blue.
      path: the picture; its suffix picks the format.
      title: above the figure.
      note: below it: what the colours mean.

    Returns:
      `path`.

    Raises:
      UserError: The picture cannot be written.
    """
    count, height, width, _ = next(iter(columns.values())).shape
    strips = width >= 4 * height  # drawn wider, and stretched
    cell = 2.2 if strips else 1.15  # inches
    wide, tall = cell * len(columns), 0.9 + count * min(cell, 1.15)
    figure = figures.new_figure(columns=wide / figures.COLUMN, height=tall)
    panels = figure.subplots(count, len(columns), squeeze=False)
    for column, (heading, pictures) in enumerate(columns.items()):
        panels[0, column].set_title(heading, fontsize=8)
        for row, picture in enumerate(pictures):
            colours = np.broadcast_to(np.clip(picture, 0, 1), (height, width, 3))
            missing = np.isnan(picture).any(-1, keepdims=True)
            panel = panels[row, column]
            shown = np.where(missing, figures.OUTSIDE, colours)
            panel.imshow(shown, interpolation="nearest", aspect="auto" if strips else "equal")
            panel.set_xticks([])
            panel.set_yticks([])
    figures.title(figure, title)
    if note:
        figure.supxlabel(note, fontsize=7)
    return figures.save(figure, path)


def axis_label(metric: Metric) -> str:
    """What an axis of a metric is called, with the unit."""
    return metric.label + (f" ({metric.unit})" if metric.unit else "")


def declared_of(run: Run) -> dict[str, Metric]:
    """The metrics of a run, those that choose first; a run under way has not declared them yet."""
    return declared(run.result, dict.fromkeys(key for record in run.records for key in record))


def _axis(varied: Mapping[str, Any]) -> tuple[Callable[[Any], float], Sequence[str]]:
    """Returns where a value stands on its axis, and the labels of an axis of choices."""
    choices = varied.get("values", ())
    return choices.index if choices else float, choices


def by_value(records: Sequence[dict[str, Any]]) -> Iterator[tuple[dict, list[dict[str, Any]]]]:
    """Yields the swept values with their records; {} with all of them without a sweep."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        swept = tuple((name, record[name]) for name in SWEPT if name in record)
        groups.setdefault(swept, []).append(record)
    for swept, lines in groups.items() or [((), [])]:
        yield dict(swept), lines


def _seeds(records: Sequence[Mapping[str, Any]]) -> int:
    """How many seeds trained side by side."""
    return len({record["seed"] for record in records if "seed" in record}) or 1


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def curve_of(
    records: Sequence[Mapping[str, Any]], split: str, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps `(steps,)` and values `(steps, seeds)`.

    A training value is the mean since the line before. One over a shorter interval than usual, at
    the end of a run say, is noisier than the others and left out.
    """
    chosen = [r for r in records if r["split"] == split and key in r]
    # Where there are seeds, a record without one is their summary and would count twice.
    if any("seed" in r for r in chosen):
        chosen = [r for r in chosen if "seed" in r]
    values: dict[int, list[float]] = {}
    for r in chosen:
        values.setdefault(r["step"], []).append(_number(r[key]))
    steps = sorted(values)
    if split == "train" and steps:
        intervals = [after - before for before, after in itertools.pairwise(steps)]
        usual = max(Counter(intervals).items(), key=lambda item: item[::-1], default=(0, 0))[0]
        steps = steps[:1] + [
            step for step, i in zip(steps[1:], intervals, strict=True) if i >= usual
        ]
    seeds = max((len(values[step]) for step in steps), default=0)
    # A seed that has no line at a step is a gap there.
    table = [values[step] + [np.nan] * (seeds - len(values[step])) for step in steps]
    return np.array(steps), np.array(table)
