"""Curves of runs over steps and over time, and what their settings and scores differ by."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lrd_jax.config import record
from lrd_jax.config.members import SWEPT, named
from lrd_jax.config.published import published
from lrd_jax.config.values import flatten
from lrd_jax.errors import UserError
from lrd_jax.metrics import Metric
from lrd_jax.probe.output import panel_figure
from lrd_jax.reporting.comparison import with_interval
from lrd_jax.reporting.figures import REFERENCE, style
from lrd_jax.reporting.plots import (
    CHANCE,
    axis_label,
    by_value,
    curve_of,
    declared_of,
    read_run,
)
from lrd_jax.reporting.seeds import draw_line, seeds_note
from lrd_jax.reporting.statistics import CONFIDENCE, difference, over_seeds


def _folder_name(folder: str) -> str:
    """What a run is called where nobody names it."""
    return Path(folder).resolve().name


def _config(folder: str) -> tuple[dict[str, Any], str]:
    """The values of a run's config, and why there are none."""
    try:
        return flatten(record.load_workdir(folder)), ""
    except UserError as error:
        return {}, f"{folder}: {error}"


def read(folders: Sequence[str], labels: Sequence[str] = ()) -> dict[str, Any]:
    """Reads runs, each value of a sweep as a run of its own.

    Args:
      folders: work directories, of any version of the project and finished or not.
      labels: what the legend calls them, one for each; none: by their folders.

    Returns:
      `metric`: name of the one that chose the best steps; `runs`: of each its label, folder,
      values of the config, curves, seeds, scores, published number, notes, and `evaluated`, how
      much of a split where that is not all; `differing`: the keys of the config in which they
      differ; `compared`: the split of the scores.

    Raises:
      UserError: no run, one without metrics, or not a label for each.
    """
    if not folders:
        raise UserError("name at least one run: probe curves RUN [RUN ...]")
    if labels and len(labels) != len(folders):
        raise UserError(
            f"{len(labels)} --label for {len(folders)} runs: give one for each, in their order"
        )
    runs = []
    for folder, label in zip(folders, labels or map(_folder_name, folders), strict=True):
        run, (values, trouble) = read_run(folder), _config(folder)
        for swept, records in by_value(run.records):
            members = _members(run.result, swept)
            runs.append(
                {
                    "folder": os.fspath(folder),
                    "label": ", ".join(filter(None, (label, named(swept)))),
                    "config": values | {SWEPT[name]: value for name, value in swept.items()},
                    "published": published(folder),
                    "notes": [trouble] * bool(trouble) + _notes(run.result, records, members),
                    "evaluated": run.result.get("evaluated", {}),
                    "_records": records,
                    "_result": run.result,
                    # Of what never came to a finite validation nothing counts, as in result.json.
                    "_lost": {m["seed"] for m in members if not m.get("best", {}).get("step", 1)},
                }
            )
    metrics = declared_of(read_run(folders[0]))
    metric = next(iter(metrics.values()), Metric("loss"))
    finished = all(run["_result"] for run in runs)
    compared = "test" if finished else "valid"
    for run in runs:
        found = _scores(run["_records"], metric, compared)
        lost = run.pop("_lost")
        run["scores"] = {seed: None if seed in lost else score for seed, score in found.items()}
        each = [{metric.name: score} for score in run["scores"].values()]
        run["statistics"] = over_seeds(each, [metric]) if each else {}
        run["curves"] = _curves(run["_records"], metric)
        run["baseline"] = (run["_result"].get("baselines") or {}).get(metric.name)
        del run["_records"], run["_result"]
    for run in runs[1:]:
        first = runs[0]["scores"]
        run["difference"] = difference(
            [*first.values()],
            [*run["scores"].values()],
            seeds_first=[*first],
            seeds_second=[*run["scores"]],
            metric=metric,
        )
    ignored = ("devices.", "data.data_dir", "train.inspect", "train.log", "train.checkpoint")
    keys = sorted({key for run in runs for key in run["config"] if not key.startswith(ignored)})
    known = [run["config"] for run in runs if run["config"]]
    differing = [key for key in keys if len({repr(values.get(key)) for values in known}) > 1]
    return {"metric": metric, "compared": compared, "differing": differing, "runs": runs}


def _notes(
    result: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    members: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What has to be known of a run: that it is not finished, or that seeds stopped."""
    notes = []
    if not result:
        last = max((r["step"] for r in records), default=0)
        notes.append(f"not finished: its last line is of step {last}")
    for run in members:
        if "first_nonfinite_step" in run:
            step = run["first_nonfinite_step"]
            notes.append(f"seed {run['seed']} stopped with NaN at step {step}")
    return notes


def _members(result: Mapping[str, Any], swept: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a result holds of the seeds that were trained at these swept values."""
    every = (run for run in result.get("seeds") or () if isinstance(run, dict))
    return [run for run in every if run.get("sweep", {}) == swept]


def _scores(
    records: Sequence[Mapping[str, Any]], metric: Metric, split: str
) -> dict[int, float | None]:
    """The score of each seed: on test data, or the best on validation data."""
    found: dict[int, list[float]] = {}
    for line in records:
        if line["split"] == split and metric.name in line:
            value = line[metric.name]
            values = found.setdefault(line.get("seed", 0), [])
            if value is not None and math.isfinite(value):
                values.append(value)
    return {seed: max(v, key=metric.better) if v else None for seed, v in found.items()}


def _curves(records: Sequence[Mapping[str, Any]], metric: Metric) -> dict[str, Any]:
    """Curves by panel: steps, minutes of training, values `(points, seeds)`."""
    clock = _clock(records)
    found = {}
    for split, name in (("valid", metric.name), ("train", "loss")):
        steps, values = curve_of(records, split, name)
        if len(steps):
            minutes = np.interp(steps, *clock) / 60
            found[f"{split} {name}"] = {
                "steps": steps.tolist(),
                "minutes": minutes.tolist(),
                "values": values.tolist(),
            }
    return found


def _clock(records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of training at steps: from the speed at each log line, evaluations left out."""
    speeds = {r["step"]: r["steps_per_s"] for r in records if r.get("steps_per_s")}
    steps = np.array([0, *sorted(speeds)])
    each = [(b - a) / speeds[b] for a, b in itertools.pairwise(steps)]
    return steps, np.cumsum([0.0, *each])


def draw(record: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Draws the curves of `read`: a row a metric, over steps and over minutes of training.

    Raises:
      UserError: no run has been logged yet.
    """
    metric, runs = record["metric"], record["runs"]
    keys = list(dict.fromkeys(key for run in runs for key in run["curves"]))
    if not keys:
        raise UserError("these runs have logged nothing yet: there is nothing to draw")
    figure, panels = panel_figure(2 * len(keys), narrow=narrow, per_row=2)
    for index, panel in enumerate(panels):
        key, over = keys[index // 2], ("steps", "minutes")[index % 2]
        split, name = key.split(" ", 1)
        shown = metric if name == metric.name else Metric(name)
        for number, run in enumerate(runs):
            if curve := run["curves"].get(key):
                values, few = np.array(curve["values"], float), len(curve["values"]) == 1
                draw_line(panel, number, curve[over], values, run["label"], shown, markers=few)
        if name == metric.name and split == "valid":
            for value, text in references(runs, metric.name).items():
                dashes = {} if text == CHANCE else {"ls": (0, (6, 2))}
                panel.axhline(metric.factor * value, label=text, **REFERENCE | dashes)
        panel.set_xlabel({"steps": "optimizer steps", "minutes": "minutes of training"}[over])
        panel.set_ylabel(f"{'validation' if split == 'valid' else 'training'} {axis_label(shown)}")
        panel.margins(x=0.01)
        style(panel)
    return figure


def note(record: Mapping[str, Any]) -> str:
    """What the legend says of all lines, and how much of a split was evaluated if not all."""
    words = {"valid": "validation", "train": "training", "test": "test"}
    cut = {
        f"first {part['examples']} of {part['of']} {words[split]} examples"
        for run in record["runs"]
        for split, part in run["evaluated"].items()
    }
    return "; ".join(
        [seeds_note([max(len(run["scores"]), 1) for run in record["runs"]]), *sorted(cut)]
    )


def references(runs: Sequence[Mapping[str, Any]], metric: str) -> dict[float, str]:
    """What models without memory score, and published numbers: value -> what it is."""
    found = {run["baseline"]: CHANCE for run in runs if run["baseline"] is not None}
    for printed in (run["published"] for run in runs):
        if metric in printed:
            found[printed[metric]] = f"published: {printed.get('source', '')}".rstrip(": ")
    return found


def rows(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table: heading and a row a run, with what differs, the score and its difference.

    Where a run has three seeds or more, the heading says that brackets are 95 % intervals.
    """
    metric, differing = record["metric"], record["differing"]
    score = f"{record['compared']} {metric.label}" + (f" ({metric.unit})" * bool(metric.unit))
    names = [key.removeprefix("model.") for key in differing]
    several = max(len(run["scores"]) for run in record["runs"]) > 2
    brackets = f" [{CONFIDENCE:.0%}]".replace("%", " %") if several else ""
    header = ["run", *names, score + brackets, "seeds", "difference to the first" + brackets]
    header.append("published")
    body = []
    for run in record["runs"]:
        found = run["statistics"].get(metric.name, {})
        body.append(
            [
                run["label"],
                *(str(run["config"].get(key, "?")) for key in differing),
                with_interval(found, metric),
                str(found.get("seeds", 0)),
                with_interval(run["difference"], metric, sign="+") if "difference" in run else "",
                metric.number(run["published"][metric.name])
                if metric.name in run["published"]
                else "",
            ]
        )
    keep = [i for i in range(len(header)) if any(row[i] for row in body)]
    return [header[i] for i in keep], [[row[i] for i in keep] for row in body]


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the file beside the figure says."""
    runs = [
        {
            **{key: value for key, value in run.items() if key != "config"},
            "settings": {key: run["config"].get(key) for key in record["differing"]},
            "scores": {str(seed): score for seed, score in run["scores"].items()},
        }
        for run in record["runs"]
    ]
    metric = record["metric"].name
    return {"metric": metric, "compared": record["compared"], "runs": runs}
