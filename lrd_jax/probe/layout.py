"""Where the nodes of a graph stand, and how its edges run: layered drawing.

Sugiyama et al. (1981), "Methods for Visual Understanding of Hierarchical System Structures": layers
by longest path, bends of long edges as nodes of their own, an order within each layer that has few
crossings (by the mean place of neighbours), then places near those of the neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from lrd_jax.probe.graph import Node

_ROUNDS = 12
_BEND_GAP, _GAP = 0.55, 1.0  # least distance of two places in a layer


class Layout(NamedTuple):
    """A drawing in units of a node.

    Attributes:
      place: node -> (layer, place in the layer), the latter from 0.
      edges: (from, to, bends in between as places).
      size: number of layers, and of places.
    """

    place: dict[Node, tuple[float, float]]
    edges: list[tuple[Node, Node, list[tuple[float, float]]]]
    size: tuple[float, float]


def arrange(nodes: Sequence[Node]) -> Layout:
    """Arranges nodes, each of which stands after what it reads.

    An input stands right before the first node that reads it, an output in the last layer.
    """
    depth: dict[Node, int] = {}
    for node in nodes:
        depth[node] = max((depth[source] + 1 for source in node.inputs), default=0)
    last = max(depth.values())
    for node in nodes:
        if node.kind == "output":
            depth[node] = last
        elif node.kind == "input":
            read = [depth[other] for other in nodes if node in other.inputs]
            depth[node] = max(min(read, default=0) - 1, 0)
    rows: list[list[Node]] = [[] for _ in range(last + 1)]
    for node in nodes:
        rows[depth[node]].append(node)
    chains: list[list[Node]] = []
    for node in nodes:
        for source in dict.fromkeys(node.inputs):
            bends = [Node("", "bend") for _ in range(depth[source] + 1, depth[node])]
            for step, bend in enumerate(bends, depth[source] + 1):
                rows[step].append(bend)
            chains.append([source, *bends, node])
    before: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    after: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    for chain in chains:
        for one, other in itertools.pairwise(chain):
            before[other].append(one)
            after[one].append(other)

    at = {node: float(index) for row in rows for index, node in enumerate(row)}

    def wanted(node: Node, near: dict[Node, list[Node]]) -> float:
        places = [at[other] for other in near[node]]
        return sum(places) / len(places) if places else at[node]

    for near, order in ((before, rows), (after, rows[::-1])) * _ROUNDS:
        for row in order:
            row.sort(key=lambda node, near=near: wanted(node, near))
            at.update((node, float(index)) for index, node in enumerate(row))
    both = {node: [*before[node], *after[node]] for node in at}
    for near, order in ((before, rows), (after, rows[::-1]), (both, rows)) * _ROUNDS:
        for row in order:
            _space(row, [wanted(node, near) for node in row], at)
    least = min(at.values())
    place = {node: (float(step), at[node] - least) for step, row in enumerate(rows) for node in row}
    edges = [(chain[0], chain[-1], [place[bend] for bend in chain[1:-1]]) for chain in chains]
    return Layout(place, edges, (len(rows), max(at.values()) - least + 1))


def _space(row: list[Node], wanted: list[float], at: dict[Node, float]) -> None:
    """Puts a layer as near to the wanted places as its order and the gaps allow."""
    places: list[float] = []
    for index, node in enumerate(row):
        place = wanted[index]
        if index:
            bend = "bend" in (node.kind, row[index - 1].kind)
            place = max(place, places[-1] + (_BEND_GAP if bend else _GAP))
        places.append(place)
    shift = sum(p - w for p, w in zip(places, wanted, strict=True)) / len(row)
    at.update((node, place - shift) for node, place in zip(row, places, strict=True))
