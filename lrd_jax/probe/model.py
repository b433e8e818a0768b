"""The model drawn: one time step of its cell as a graph, and its layers in a table."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from lrd_jax.evaluation.inspection import main_recurrence
from lrd_jax.probe.graph import Node, trace
from lrd_jax.probe.layout import arrange
from lrd_jax.probe.output import aligned
from lrd_jax.probe.subjects import Subject
from lrd_jax.reporting.figures import COLUMN

_FACES = {
    "input": "#d6e6f5",
    "output": "#cfeadd",
    "product": "#fbe3cf",
    "gate": "#fdf3c4",
    "arithmetic": "#ffffff",
}


def cell_of(subject: Subject) -> tuple[Any, int]:
    """The cell of the main recurrence and the width of what its first layer reads.

    Raises:
      UserError: the model has no `Recurrence`.
    """
    objective, batch = subject.objective(), subject.batch("valid", 1)
    found: list[Any] = []

    def run() -> None:
        carry = objective.initial_carry(1)
        call = {"params": subject.params[0]}
        found.append(main_recurrence(lambda: objective.loss(call, carry, batch, None)))

    jax.eval_shape(run)
    return found[0].module.cell.clone(parent=None), found[0].x.shape[-1]


def table(params: Any) -> list[dict[str, Any]]:
    """Every parameter with its shape and size, in the order of the modules."""
    return [
        {
            "name": "/".join(str(entry.key) for entry in path),
            "shape": list(leaf.shape),
            "size": math.prod(leaf.shape),
        }
        for path, leaf in jax.tree.leaves_with_path(params)
    ]


def text_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same for a terminal, with the sum."""
    cells = [[row["name"], "x".join(map(str, row["shape"])), f"{row['size']:,}"] for row in rows]
    cells.append(["sum", "", f"{sum(row['size'] for row in rows):,}"])
    return aligned(["parameter", "shape", "size"], cells)


def numbers(subject: Subject) -> dict[str, Any]:
    """What the file beside the figure says: the table, and the graph as a list of nodes."""
    cell, features = cell_of(subject)
    nodes = trace(cell, features)
    place = {id(node): index for index, node in enumerate(nodes)}
    graph = [
        {"label": n.label, "kind": n.kind, "inputs": [place[id(s)] for s in n.inputs]}
        for n in nodes
    ]
    cell_name = type(cell).__name__
    return subject.about() | {
        "cell": cell_name,
        "features": features,
        "blocks": cell.blocks(),
        "parameters": table(subject.params[0]),
        "graph": graph,
    }


def draw(record: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Draws the graph of `numbers`: from left to right on a page, downwards in a column."""
    nodes: list[Node] = []
    for entry in record["graph"]:
        nodes.append(Node(entry["label"], entry["kind"], [nodes[i] for i in entry["inputs"]]))
    return draw_graph(nodes, narrow=narrow)


def draw_graph(nodes: Sequence[Node], *, narrow: bool = False) -> Figure:
    """Draws the nodes of `graph.trace`, see `draw`."""
    layout = arrange(nodes)
    depth, breadth = layout.size
    if narrow:
        size = max(COLUMN, breadth * 0.75), depth * 0.36 + 0.3
    else:
        size = max(2.1 * COLUMN, depth * 0.62), breadth * 0.42 + 0.5
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    panel.axis("off")

    def place(at: tuple[float, float]) -> tuple[float, float]:
        return (at[1], -at[0]) if narrow else (at[0], -at[1])

    texts = {}
    for node in nodes:
        texts[node] = panel.text(
            *place(layout.place[node]),
            node.label,
            ha="center",
            va="center",
            fontsize=7,
            bbox={
                "boxstyle": "circle,pad=0.18" if len(node.label) == 1 else "round,pad=0.25",
                "fc": _FACES[node.kind],
                "ec": "0.35",
                "lw": 0.7,
            },
            zorder=3,
        )
    if narrow:
        panel.set(xlim=(-0.6, breadth - 0.4), ylim=(-depth + 0.5, 0.5))
    else:
        panel.set(xlim=(-0.5, depth - 0.5), ylim=(-breadth + 0.5, 0.5))
    FigureCanvasAgg(figure).draw()  # only now are the boxes' sizes known
    inverse = panel.transData.inverted()

    def ends(node: Node) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where edges come in and go out, in the units of the panel."""
        box = texts[node].get_bbox_patch().get_window_extent().transformed(inverse)
        x, y = place(layout.place[node])
        return ((x, box.y1), (x, box.y0)) if narrow else ((box.x0, y), (box.x1, y))

    for source, node, bends in layout.edges:
        (start, goal) = ends(source)[1], ends(node)[0]
        points = [start, *map(place, bends), goal]
        path, codes = [start], [Path.MOVETO]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            path += [(x0, y), (x1, y), (x1, y1)] if narrow else [(x, y0), (x, y1), (x1, y1)]
            codes += [Path.CURVE4] * 3
        arrow = FancyArrowPatch(
            path=Path(path, codes),
            arrowstyle="-|>,head_length=3,head_width=1.6",
            color="0.35",
            lw=0.8,
            zorder=2,
        )
        panel.add_patch(arrow)
    return figure
