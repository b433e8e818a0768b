"""What stands on the page: settings, scores, curves, figures, and how each run can be made again.

A run may be of another version of the project, unfinished, or damaged by NaN: what cannot be shown
is said in a line, and all else is.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lrd_jax.config.source import again
from lrd_jax.errors import UserError, one_line
from lrd_jax.probe import curves, gradients, memory, model, output, subjects, timescales
from lrd_jax.report import plotted
from lrd_jax.reporting import page, surprise
from lrd_jax.reporting.page import Content, Html, tag


def build(folders: Sequence[str], *, figures: bool = True, say: Callable[[str], None]) -> Html:
    """Returns the page.

    Args:
      folders: work directories.
      figures: also the figures that need the model and the data.
      say: told, in lines, what is left out and why.

    Raises:
      UserError: no run in one of the folders.
    """
    for folder in folders:
        if not Path(folder, "config.json").exists():
            raise UserError(f"no run in {str(folder)!r} (no config.json): give work directories")
    body: list[Content] = []
    try:
        script = plotted.script()
    except UserError as error:
        say(str(error))
        body.append(_note(str(error)))
        script = ""
    for task, read in _by_task(folders, say).items():
        body += [tag("h2", f"Scores: {task}"), page.table(*curves.rows(read)), _explained(read)]
        body.append(tag("h2", f"Curves: {task}"))
        if script:
            body.append(plotted.curves(read))
        else:
            body.append(_figure(functools.partial(_drawn, read), "Curves over steps and time."))
    if figures:
        body += _looked_into(folders, say)
    body.append(tag("h2", "The runs"))
    for folder in folders:
        body += _about(Path(folder))
    names = ", ".join(Path(folder).resolve().name for folder in folders)
    return page.page(f"Report: {names}", *body, script=script)


def _by_task(folders: Sequence[str], say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The runs that have logged anything, see `curves.read`, by the name of their data."""
    tasks: dict[str, list[str]] = {}
    for folder in folders:
        try:
            if curves.read([folder])["runs"][0]["curves"]:
                config = _json(Path(folder, "config.json")).get("config")
                data = config.get("data") if isinstance(config, dict) else None
                name = data.get("name") if isinstance(data, dict) else None
                tasks.setdefault(str(name or "unknown data"), []).append(folder)
            else:
                say(f"{folder}: nothing was logged yet")
        except UserError as error:
            say(f"{folder}: {error}")
    return {task: curves.read(whole) for task, whole in tasks.items()}


def _explained(read: Mapping[str, Any]) -> Html:
    """What the brackets of the table mean, and where published numbers are from."""
    metric = read["metric"].name
    sources = [
        f"{run['label']}: {run['published'].get('source', 'no source named')}"
        for run in read["runs"]
        if metric in run["published"]
    ]
    parts = ["Brackets: 95 % interval over seeds; of differences paired by seed where they share"]
    parts[0] += " any."
    if read["compared"] == "valid":
        parts.append("Not all runs are finished: the best score on validation data is shown.")
    if sources:
        parts.append(f"Published: {'; '.join(sources)}.")
    return tag("p", " ".join(parts), class_="soft")


def _drawn(read: Mapping[str, Any], narrow: bool) -> Figure:
    figure = curves.draw(read, narrow=narrow)
    output.finish(figure, note=curves.note(read))
    return figure


def _note(text: str) -> Html:
    return tag("p", text, class_="soft")


def _figure(draw: Callable[[bool], Figure], caption: str) -> Html:
    """An embedded figure, with another shape for narrow screens."""
    wide, narrow = (_png(draw(flag)) for flag in (False, True))
    return page.picture(wide, caption, caption=caption, narrow=narrow)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


# ---- Figures of the models ----------------------------------------------------------------------


def _looked_into(folders: Sequence[str], say: Callable[[str], None]) -> list[Content]:
    """Gradients, time scales, memory and the drawn steps of the runs that can be loaded."""
    loaded, body = [], []
    for folder in folders:
        try:
            loaded.append(subjects.trained(folder, label=Path(folder).resolve().name))
        except Exception as error:  # of another version, without data: the page goes on without
            line = f"{folder}: no figures of the model: {_reason(error)}"
            say(line)
            body.append(_note(line))
    if not loaded:
        return body
    loaded = subjects.told_apart(loaded)
    for subject in loaded:
        body += [_note(f"{subject.label}: {note}") for note in subject.notes]
    for heading, add in (
        ("Gradient flow", _gradients),
        ("Time scales", _timescales),
        ("Memory", _memory),
        ("One time step", _models),
    ):
        try:
            body += [tag("h2", heading), *add(loaded)]
        except Exception as error:  # of any cell or task: the page goes on without
            line = f"{heading.lower()}: {_reason(error)}"
            say(line)
            body.append(_note(line))
    return body


def _reason(error: Exception) -> str:
    return one_line(str(error) or type(error).__name__)[:300]


def _gradients(loaded: Sequence[subjects.Subject]) -> list[Content]:
    """The figure of the gradients."""
    entries = [gradients.numbers(s, gradients.flow(s, examples=16)) for s in loaded]
    whole = gradients.NOTE + subjects.first_examples(loaded, "valid", 16)

    def draw(narrow: bool) -> Figure:
        figure = gradients.draw(entries, narrow=narrow)
        output.finish(figure, note=whole)
        return figure

    return [_figure(draw, "Norms of the gradient over time, of the top layer.")]


def _timescales(loaded: Sequence[subjects.Subject]) -> list[Content]:
    """The figure of the gates."""
    entries = [timescales.measure(s, examples=16) for s in loaded]
    whole = timescales.NOTE + subjects.first_examples(loaded, "valid", 16)

    def draw(narrow: bool) -> Figure:
        figure = timescales.draw(entries, narrow=narrow)
        output.finish(figure, note=whole)
        return figure

    return [_figure(draw, "What the gates keep, before and after training.")]


def _memory(loaded: Sequence[subjects.Subject]) -> list[Content]:
    """What is remembered: a figure for each kind of task; of text its coloured tokens."""
    found: list[Content] = []
    for kind in dict.fromkeys(s.spec.kind for s in loaded):
        same = [s for s in loaded if s.spec.kind == kind]
        entries = [memory.measure(s, examples=400 if kind == "language" else 200) for s in same]
        whole = memory.note(entries) + subjects.first_examples(same, "test", 200)
        if kind == "language":
            found += [surprise.coloured(entry) for entry in entries]
            continue

        def draw(narrow: bool, entries: Any = entries, whole: str = whole) -> Figure:
            figure = memory.draw(entries, narrow=narrow)
            assert figure is not None
            output.finish(figure, note=whole)
            return figure

        found.append(_figure(draw, "What is remembered, on test data."))
    return found


def _models(loaded: Sequence[subjects.Subject]) -> list[Content]:
    """A drawing of each different cell, and the parameters of each model."""
    found: list[Content] = []
    seen = set()
    for subject in loaded:
        numbers = model.numbers(subject)
        if (numbers["cell"], str(numbers["graph"])) in seen:
            continue
        seen.add((numbers["cell"], str(numbers["graph"])))

        def draw(narrow: bool, numbers: Any = numbers) -> Figure:
            return model.draw(numbers, narrow=narrow)

        found.append(_figure(draw, f"{numbers['cell']}, traced from the cell itself."))
        rows = [
            (row["name"], " x ".join(map(str, row["shape"])), f"{row['size']:,}")
            for row in numbers["parameters"]
        ]
        found.append(
            page.folded(
                f"Parameters of {subject.label}", page.table(("parameter", "shape", "size"), rows)
            )
        )
    return found


# ---- Each run -----------------------------------------------------------------------------------


def _about(folder: Path) -> list[Content]:
    """Where it was made, by what, and the command that makes it again."""
    content, result = _json(folder / "config.json"), _json(folder / "result.json")
    versions = result.get("versions") or content.get("versions") or {}
    facts: dict[str, Content] = {
        "folder": str(folder),
        "device": str(result.get("device", "not finished: not known")),
        "commit": str(result.get("commit") or content.get("commit") or "unknown"),
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()) or "unknown",
    }
    if "wall_time_s" in result:
        facts["wall time"] = f"{float(result['wall_time_s']):.0f} s"
    if "steps" in result:
        facts["steps"] = f"{result['steps']} of {result.get('num_steps', '?')}"
    facts["made again by"] = page.code(again(folder))
    whole = json.dumps(content.get("config", content), indent=2)
    return [
        tag("h3", folder.resolve().name),
        page.facts(facts),
        page.folded("Config", page.code(whole)),
    ]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
