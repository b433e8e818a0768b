"""Figures: learning curves of one or several runs, scores over the delay, decoded pictures."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrd_jax.config.members import SWEPT, named
from lrd_jax.errors import UserError
from lrd_jax.metrics import Metric, declared
from lrd_jax.reporting.writers import read_metrics

# Okabe & Ito's palette: told apart with every common colour blindness, and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")  # once the colours are used up
_SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def plot_curves(
    runs: Mapping[str, str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    curves: Sequence[tuple[str, str]] = (("valid", ""), ("train", "loss")),
    title: str = "",
) -> pathlib.Path:
    """Draws metrics over optimizer steps, a panel a metric and a line a run.

    A run of several seeds is drawn as the mean over its seeds, with a band of one standard
    deviation to either side; a sweep as such a line for each of its values. Steps at which the
    value is not finite are gaps.

    Args:
      runs: work directory (or `metrics.jsonl`) by the label that the legend shows.
      path: the picture; its suffix picks the format, e.g. .png, .svg, .pdf.
      curves: a (split, metric) for each panel; split is train, valid or test. An empty metric is
        the one that chose the best step of the first run.
      title: above the figure; none where empty.

    Returns:
      `path`.

    Raises:
      UserError: No run given, a run without metrics or without any of a panel's, or no matplotlib.
    """
    if not runs:
        raise UserError("no run to plot: give at least one work directory")
    metrics = _declared(next(iter(runs.values())))
    main = next(iter(metrics), "accuracy")
    records, folders = {}, {}
    for name, folder in runs.items():
        for swept, lines in _by_value(_read(folder)):
            label = " ".join(filter(None, (name, named(swept))))
            records[label], folders[label] = lines, folder
    figure = _figure(4.8 * len(curves))
    panels = np.atleast_1d(figure.subplots(1, len(curves), sharex=True))
    for panel, (split, key) in zip(panels, curves, strict=True):
        key = key or main
        metric = metrics.get(key, Metric(key))
        for index, label in enumerate(records):
            steps, mean, spread = _curve(records[label], split, key)
            if not len(steps):
                raise UserError(
                    f"run {label!r} ({folders[label]}) has no {split} {key}: choose another metric"
                )
            mean, spread = metric.factor * mean, metric.factor * spread
            colour = _COLOURS[index % len(_COLOURS)]
            dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
            # A single evaluation would be an invisible line.
            marker = "o" if len(steps) == 1 else None
            panel.plot(steps, mean, dash, marker=marker, color=colour, lw=1.4, label=label)
            if spread.any():
                panel.fill_between(
                    steps, mean - spread, mean + spread, color=colour, alpha=0.18, lw=0
                )
        panel.set_xlabel("optimizer steps")
        panel.set_ylabel(f"{_SPLITS.get(split, split)} {_axis_label(metric)}")
        _style(panel)
        panel.margins(x=0.01)
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 5), useMathText=True)
    handles, labels = panels[0].get_legend_handles_labels()
    inches = 0.6 + 0.08 * max(map(len, labels))  # of the longest entry, about
    columns = max(1, min(len(labels), 4, int(4.8 * len(curves) / inches)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    if title:
        figure.suptitle(title)
    return _save(figure, path)


def plot_transfer(result: Mapping[str, Any], path: str | os.PathLike[str]) -> pathlib.Path:
    """Draws what chose the best step, accuracy say, over the delays of an evaluation.

    Args:
      result: the content of `eval/transfer.json`.
      path: the picture; its suffix picks the format.

    Returns:
      `path`.

    Raises:
      UserError: No matplotlib, or the picture cannot be written.
    """
    rows = sorted(result["delays"], key=lambda row: row["delay"])
    delays = [row["delay"] for row in rows]
    figure = _figure(4.8)
    panel = figure.subplots()
    metric = next(iter(declared(result, rows[0]["seeds"][0][result["split"]]).values()))
    for index in range(len(rows[0]["seeds"])):
        entries = [row["seeds"][index] for row in rows]
        values = [entry[result["split"]][metric.name] for entry in entries]
        shown = [np.nan if value is None else metric.factor * value for value in values]
        label = named(entries[0].get("sweep", {}) | {"seed": entries[0]["seed"]})
        panel.plot(delays, shown, "o-", color=_COLOURS[index % len(_COLOURS)], lw=1.4, label=label)
    if metric.name in rows[0]["baselines"]:
        chance = metric.factor * rows[0]["baselines"][metric.name]
        panel.axhline(chance, color="0.5", ls=":", lw=1, label="chance")
    panel.set_xscale("log")
    panel.set_xticks(delays, [str(delay) for delay in delays])
    panel.minorticks_off()
    panel.set_xlabel("delay (steps)")
    panel.set_ylabel(f"{_SPLITS.get(result['split'])} {_axis_label(metric)}")
    low, high = (metric.factor * end for end in metric.range)
    if math.isfinite(low) and math.isfinite(high):
        panel.set_ylim(low, high + 0.02 * (high - low))
    _style(panel)
    panel.legend(frameon=False)
    return _save(figure, path)


def plot_sweep(record: Mapping[str, Any], path: str | os.PathLike[str]) -> pathlib.Path:
    """Draws the score of every trial over each key that varied, a panel a key.

    Args:
      record: the content of `sweep.json`: metric, metrics, vary and trials are read.
      path: the picture; its suffix picks the format.

    Returns:
      `path`.

    Raises:
      UserError: No matplotlib, or the picture cannot be written.
    """
    name = record["metric"].removeprefix("-")  # of a sweep by an earlier version
    metric = declared(record, [name])[name]
    whole = [trial for trial in record["trials"] if trial["score"] is not None]
    failed = [trial for trial in record["trials"] if trial["score"] is None]
    keys = list(record["vary"])
    figure = _figure(3.6 * len(keys) + 1.2)
    panels = np.atleast_1d(figure.subplots(1, len(keys), sharey=True))
    for panel, key in zip(panels, keys, strict=True):
        place, ticks = _axis(record["vary"][key])
        scores = [metric.factor * trial["score"] for trial in whole]
        panel.plot([place(t["values"][key]) for t in whole], scores, "o", color=_COLOURS[0])
        for trial in failed:  # at the foot, having no score
            x = place(trial["values"][key])
            panel.plot(
                x,
                0.02,
                "x",
                color=_COLOURS[1],
                transform=panel.get_xaxis_transform(),
                label="failed",
            )
        if ticks:
            panel.set_xticks(range(len(ticks)), ticks)
            panel.margins(x=0.15)
        elif record["vary"][key]["scale"] == "log":
            panel.set_xscale("log")
        panel.set_xlabel(key)
        _style(panel)
    panels[0].set_ylabel(f"best validation {_axis_label(metric)}")
    if failed:
        panels[0].legend(*[part[:1] for part in panels[0].get_legend_handles_labels()])
    return _save(figure, path)


def _axis_label(metric: Metric) -> str:
    return metric.label + (f" ({metric.unit})" if metric.unit else "")


def _declared(folder: str | os.PathLike[str]) -> dict[str, Metric]:
    """The metrics of a run, those that choose first; a run under way has not declared them yet."""
    names = dict.fromkeys(key for record in _read(folder) for key in record)
    path = pathlib.Path(folder)
    path = (path if path.is_dir() else path.parent) / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {}
    return declared(result, names)


def _axis(varied: Mapping[str, Any]) -> tuple[Callable[[Any], float], Sequence[str]]:
    """Returns where a value stands on its axis, and the labels of an axis of choices."""
    choices = varied.get("values", ())
    return choices.index if choices else float, choices


def plot_pictures(
    columns: Mapping[str, np.ndarray], path: str | os.PathLike[str], *, title: str = ""
) -> pathlib.Path:
    """Draws pictures in rows, each of an example, under the headings of the columns.

    Args:
      columns: heading -> (examples, height, width, 1 or 3) in 0 .. 1; NaN is drawn as a light blue.
      path: the picture; its suffix picks the format.
      title: above the figure.

    Returns:
      `path`.

    Raises:
      UserError: No matplotlib, or the picture cannot be written.
    """
    count, height, width, _ = next(iter(columns.values())).shape
    cell = 1.3 if width < 4 * height else 2.6  # inches; a strip is drawn wider, and stretched
    figure = _figure(cell * len(columns), 0.8 + count * min(cell, 1.3))
    panels = figure.subplots(count, len(columns), squeeze=False)
    for column, (heading, pictures) in enumerate(columns.items()):
        panels[0, column].set_title(heading, fontsize=8)
        for row, picture in enumerate(pictures):
            colours = np.broadcast_to(np.clip(picture, 0, 1), (height, width, 3))
            missing = np.isnan(picture).any(-1, keepdims=True)
            panel = panels[row, column]
            shown = np.where(missing, (0.8, 0.88, 0.97), colours)
            panel.imshow(shown, interpolation="nearest", aspect="auto" if cell > 2 else "equal")
            panel.set_xticks([])
            panel.set_yticks([])
    if title:
        figure.suptitle(title, fontsize=8)
    return _save(figure, path)


def _figure(width: float, height: float = 3.6) -> Any:
    """Returns an empty figure of that size in inches."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no global state, no display
    except ImportError as error:
        raise UserError(
            "plots need matplotlib, which is not installed: pip install lrd-jax[bench]"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _style(panel: Any) -> None:
    panel.grid(color="0.9", lw=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: str | os.PathLike[str]) -> pathlib.Path:
    try:
        figure.savefig(path, dpi=160)
    except (OSError, ValueError) as error:  # ValueError: a format matplotlib does not know
        raise UserError(f"cannot write the plot {path}: {error}") from error
    return pathlib.Path(path)


def _read(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    file = pathlib.Path(folder)
    if file.is_dir():
        file = file / "metrics.jsonl"
    try:
        return read_metrics(file)
    except OSError as error:
        raise UserError(
            f"no metrics in {folder}: {error.strerror}; give the work directory of a run"
        ) from error


def _by_value(records: Sequence[dict[str, Any]]) -> Iterator[tuple[dict, list[dict[str, Any]]]]:
    """Yields the swept values with their records; {} with all of them without a sweep."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for record in records:
        swept = tuple((name, record[name]) for name in SWEPT if name in record)
        groups.setdefault(swept, []).append(record)
    for swept, lines in groups.items() or [((), [])]:
        yield dict(swept), lines


def _curve(
    records: Sequence[Mapping[str, Any]], split: str, key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns steps, mean over seeds and standard deviation over seeds, each (steps,)."""
    chosen = [r for r in records if r["split"] == split and key in r]
    # Where there are seeds, a record without one is their summary and would count twice.
    if any("seed" in r for r in chosen):
        chosen = [r for r in chosen if "seed" in r]
    values: dict[int, list[float]] = {}
    for r in chosen:
        values.setdefault(r["step"], []).append(np.nan if r[key] is None else r[key])
    steps = sorted(values)
    mean = np.array([np.mean(values[step]) for step in steps])
    spread = np.array(
        [np.std(values[step], ddof=1) if len(values[step]) > 1 else 0.0 for step in steps]
    )
    return np.array(steps), mean, spread
