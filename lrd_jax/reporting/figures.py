"""The look of every figure: size, type, colours, markers, files.

Figures are made for print: a column is 3.3 inches wide and text has 8 points, so that a picture
goes into a paper as it is. Colours are told apart with every common colour blindness; lines differ
in dashes and markers as well, so that they do without colour.

    figure = new_figure(columns=2)
    panel = figure.subplots()
    panel.plot(steps, values, **look(0), label=plain("`--` (tied)"))
    panel.set_xlabel("optimizer steps")
    style(panel)
    legend(figure, note="mean of 3 seeds")
    save(figure, "curve.pdf")
"""

from __future__ import annotations

import math
import os
import pathlib
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure  # without pyplot: no global state, no display

from lrd_jax.errors import UserError

COLUMN = 3.3  # inches: the width of one column of a paper of two
HEIGHT = 2.1  # inches: of a panel with its labels, without a legend
# Okabe & Ito (2008), "Color Universal Design"; their yellow is left out: too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
GREY = "0.4"
# A line that is no result: chance, a bound; above all others, or a curve at it would hide it.
REFERENCE = {"color": GREY, "ls": (0, (1, 2)), "lw": 1.2, "zorder": 3}
OUTSIDE = (0.8, 0.88, 0.97)  # of a pixel that has no value
_POINTS, _SMALL_POINTS = 8, 7  # sizes of text


def new_figure(*, columns: float = 1, height: float = HEIGHT) -> Figure:
    """Returns an empty figure.

    Args:
      columns: its width, in columns of a paper.
      height: in inches; `legend` adds its own.
    """
    return Figure(figsize=(COLUMN * columns, height), layout="constrained")


def look(index: int, *, markers: bool = False) -> dict[str, Any]:
    """How the line with this number looks, keywords of `plot`.

    Args:
      index: of the line; colours, markers and dashes repeat after 7, 7 and 4 of them.
      markers: draw the points: hollow, so that a line under them stays in sight.
    """
    line = {"color": COLOURS[index % len(COLOURS)], "ls": DASHES[index % len(DASHES)], "lw": 1.2}
    if not markers:
        return line
    # Later ones are smaller: of equal lines all can be seen.
    size = 6.5 - 0.8 * (index % 5)
    return line | {"marker": MARKERS[index % len(MARKERS)], "mfc": "none", "ms": size, "mew": 1.1}


def plain(label: str) -> str:
    """A label as text: without the backticks of Markdown; a dollar sign begins no formula.

    >>> plain("`--` (tied)")
    '-- (tied)'
    """
    return re.sub(r"(?<!\\)\$", r"\\$", label.replace("`", ""))


def style(panel: Any) -> None:
    """Gives a panel its look; call it when all is drawn and named."""
    panel.grid(color="0.9", lw=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=_SMALL_POINTS)
    for text in (panel.title, panel.xaxis.label, panel.yaxis.label):
        text.set_fontsize(_POINTS)
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_offset_text().set_fontsize(_SMALL_POINTS)


def legend(figure: Figure, *, note: str = "") -> None:
    """Names the lines of all panels below them, each name once.

    Args:
      figure: its panels are drawn.
      note: what the names have in common, e.g. how many seeds a line is the mean of.
    """
    entries: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    inches = 0.55 + 0.055 * max(map(len, entries))  # of the longest entry, about
    columns = max(1, min(len(entries), 4, int(figure.get_figwidth() / inches)))
    rows = math.ceil(len(entries) / columns) + bool(note)
    figure.set_figheight(figure.get_figheight() + 0.16 * rows)  # the panels keep their height
    shown = figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=_SMALL_POINTS,
        title=note or None,
        title_fontsize=_SMALL_POINTS,
        handlelength=2.6,
    )
    shown.get_title().set_color(GREY)


def title(figure: Figure, text: str) -> None:
    """Puts a line above the whole figure; nothing where it is empty."""
    if text:
        figure.suptitle(plain(text), fontsize=_POINTS)


def save(figure: Figure, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes a figure.

    Args:
      figure: what to write.
      path: the suffix picks the format: .png, .svg, .pdf.

    Returns:
      `path`.

    Raises:
      UserError: it cannot be written.
    """
    # Text stays text, in fonts that journals accept; nothing tells when it was made.
    text: Any = {
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "lrd",
    }
    try:
        with matplotlib.rc_context(text):
            figure.savefig(path, dpi=200)
    except (OSError, ValueError) as error:  # ValueError: a format matplotlib does not know
        raise UserError(f"cannot write the plot {path}: {error}") from error
    return pathlib.Path(path)
