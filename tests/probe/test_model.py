"""The drawn step is the step: its operations, by name, of any cell."""

import itertools

import flax.linen as nn
import jax.numpy as jnp
import pytest

from lrd_jax.cells import AdditiveCell, GatedGRUCell, HiddenCarry, LSTMCell, URLSTMCell
from lrd_jax.probe.graph import trace
from lrd_jax.probe.layout import arrange
from lrd_jax.probe.model import draw_graph


class Own(AdditiveCell):
    """Of a user: one gate, and an operation that nobody named."""

    carry_type = HiddenCarry

    @nn.nowrap
    def blocks(self):
        return {"k": self.hidden_size, "u": self.hidden_size}

    @nn.nowrap
    def advance(self, carry, z):
        k, u = jnp.split(z, 2, axis=-1)
        return HiddenCarry(nn.sigmoid(k) * carry.h + jnp.cumsum(u, axis=-1))


def texts(cell):
    return [node.label.strip("$") for node in trace(cell, 2)]


def test_nodes_are_named_by_the_equations():
    found = texts(LSTMCell(4))
    gates = [r"f = \sigma(z_{f})", r"i = \sigma(z_{i})", r"u = \tanh(z_{u})", r"o = \sigma(z_{o})"]
    assert sorted(t for t in found if "=" in t) == sorted(gates)
    assert {"x_t", "h_{t-1}", "c_{t-1}", "h_t", "c_t", r"\cdot\, W_x", r"\cdot\, W_h"} <= set(found)
    assert found.count("×") == 3 and found.count("+") == 2 and len(found) == 18


def test_every_path_is_there():
    """c_t reads f, i and u, and not o; h_t reads all."""
    nodes = {node.label: node for node in trace(LSTMCell(4), 2)}

    def sources(node):
        return {node.label}.union(*(sources(other) for other in node.inputs))

    named = {label[1] for label in sources(nodes["$c_t$"]) if "=" in label}
    assert named == {"f", "i", "u"}
    assert {label[1] for label in sources(nodes["$h_t$"]) if "=" in label} == {"f", "i", "u", "o"}


def test_a_refined_gate_and_a_reset_inside_the_product():
    assert r"r = \sigma(z_{r})" in texts(URLSTMCell(4))
    assert r"\cdot\, W_h^{u}" in texts(GatedGRUCell(4))


def test_a_cell_of_a_user_is_drawn():
    found = texts(Own(4))
    assert r"k = \sigma(z_{k})" in found and "cumsum" in found and "z_{u}" in found


@pytest.mark.parametrize("narrow", [False, True])
def test_no_two_nodes_overlap(narrow):
    nodes = trace(URLSTMCell(4), 2)
    places = sorted(arrange(nodes).place.values())
    for (layer, at), (other, after) in itertools.pairwise(places):
        assert layer != other or after - at >= 0.5
    figure = draw_graph(nodes, narrow=narrow)
    boxes = [text.get_bbox_patch().get_window_extent() for text in figure.axes[0].texts]
    width, height = figure.bbox.width, figure.bbox.height
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        for other in boxes[index + 1 :]:
            assert not box.overlaps(other)
