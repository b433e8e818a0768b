"""What every probe writes: a picture, the same as vectors, and its numbers."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lrd_jax.errors import UserError
from lrd_jax.reporting import provenance
from lrd_jax.reporting.figures import HEIGHT, legend, new_figure, save, title
from lrd_jax.reporting.results import strict

_LETTERS, _ENTRY_LETTERS = 18, 13  # of a note, and of a name beside its line, in an inch


def panel_figure(count: int, *, narrow: bool, per_row: int = 3) -> tuple[Figure, list[Any]]:
    """An empty figure with panels: side by side, or one below the other in a narrow one.

    Args:
      count: panels.
      narrow: for one column of a paper.
      per_row: at most so many side by side on a page.
    """
    across = 1 if narrow else min(count, per_row)
    down = -(-count // across)
    figure = new_figure(columns=1 if narrow else 2.1, height=down * HEIGHT)
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *body)
    )


def finish(figure: Figure, *, heading: str = "", note: str = "") -> None:
    """Gives a drawn figure its title and its legend, names and a note broken to its width."""
    title(figure, heading)
    for panel in figure.axes:
        for drawn in panel.get_lines():
            if not (label := str(drawn.get_label())).startswith("_"):
                broken = textwrap.wrap(label, int(figure.get_figwidth() * _ENTRY_LETTERS))
                drawn.set_label("\n".join(broken))
    entries = {text for panel in figure.axes for text in panel.get_legend_handles_labels()[1]}
    extra = sum(text.count("\n") for text in entries)
    figure.set_figheight(figure.get_figheight() + 0.14 * extra)
    lines = textwrap.wrap(note, int(figure.get_figwidth() * _LETTERS))
    figure.set_figheight(figure.get_figheight() + 0.14 * max(len(lines) - 1, 0))
    legend(figure, note="\n".join(lines))


def write(
    stem: Path,
    figure: Figure | None,
    record: Mapping[str, Any],
    *,
    command: str,
    heading: str = "",
    note: str = "",
    kinds: Sequence[str] = ("png", "pdf"),
) -> list[Path]:
    """Writes `<stem>.png`, `<stem>.pdf` and `<stem>.json`, and prints where.

    Args:
      stem: path without a suffix; its folder is made if missing.
      figure: None where there is nothing to draw.
      record: the numbers; versions and commit are added.
      command: that made them.
      heading: above the figure.
      note: above the legend.
      kinds: of pictures, their suffixes.

    Raises:
      UserError: they cannot be written.
    """
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {stem.parent}: {error.strerror}") from error
    paths = []
    if figure is not None:
        finish(figure, heading=heading, note=note)
        paths = [save(figure, stem.with_name(f"{stem.name}.{kind}")) for kind in kinds]
    whole = {
        "command": command,
        **record,
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    path = stem.with_name(f"{stem.name}.json")
    try:
        text = json.dumps(_short(strict(whole)), allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print("wrote", *[*paths, path])
    return [*paths, path]


def _short(values: Any) -> Any:
    """The same with eight digits a number, more than a float32 has."""
    if isinstance(values, Mapping):
        return {key: _short(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_short(value) for value in values]
    return float(f"{values:.8g}") if isinstance(values, float) else values
