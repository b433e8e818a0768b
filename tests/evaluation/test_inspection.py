"""Gates are those of the equations; snapshots of them are cut when a run resumes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config.horizon import Horizon
from lrd_jax.evaluation import inspection
from lrd_jax.objectives import make_objective
from tests.training.harness import SPEC, RandomData, make_config

BATCH = next(iter(RandomData().eval_batches("valid", 4)))


def gates(**changes):
    objective = make_objective(make_config(**changes), SPEC, Horizon(1, 1))
    params = objective.init(jax.random.key(0))
    return inspection.gate_values(objective, params, BATCH), objective, params


def test_effective_gate_is_the_refined_one_of_the_equation():
    found, _, _ = gates(model__cell="urlstm")
    f, r, g = (np.asarray(found["layer_0"][kind]) for kind in ("forget", "refine", "effective"))
    assert g.shape == (SPEC.length, 4, 6)
    np.testing.assert_allclose(g, r * (1 - (1 - f) ** 2) + (1 - r) * f**2, rtol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gated_gru"])
def test_without_refinement_it_is_the_main_gate(cell):
    found, _, _ = gates(model__cell=cell, model__gates="U-", model__num_layers=2)
    assert list(found) == ["layer_0", "layer_1"]
    for layer in found.values():
        np.testing.assert_allclose(layer["effective"], layer["forget"], rtol=1e-5)


def test_the_gate_is_that_of_a_step_by_itself():
    """At the third step: sigmoid of the pre-activation, from the states of a plain loop."""
    found, objective, params = gates(model__cell="lstm")
    cell = objective.model.recurrence.cell
    own = {"params": params["recurrence"]["layer_0"]}
    x = jnp.asarray(BATCH["inputs"], jnp.float32)
    state = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
    for t in range(3):
        state, h = cell.apply(own, state, x[:, t])[0], state.h
    z = cell.apply(own, x[:, 2], method="project") + cell.apply(own, h, method="recur")
    np.testing.assert_allclose(found["layer_0"]["forget"][2], nn_sigmoid(z[:, :6]), rtol=1e-5)


def test_layers_in_blocks_read_what_the_block_gives_them():
    """The third layer: LayerNorm of the sum of both below, as the network's own call has it."""
    found, objective, params = gates(
        model__cell="lstm", model__num_layers=3, model__block="prenorm"
    )
    own, x = params["recurrence"], jnp.asarray(BATCH["inputs"], jnp.float32)
    out = objective.model.recurrence.apply({"params": own}, x)
    y = out.layers[0].h + out.layers[1].h  # (time, batch, d)
    normal = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)
    cell, h = objective.model.recurrence.cell, out.layers[2].h
    before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
    z = cell.apply({"params": own["layer_2"]}, normal, method="project")
    z += cell.apply({"params": own["layer_2"]}, before, method="recur")
    np.testing.assert_allclose(found["layer_2"]["forget"], nn_sigmoid(z[..., :6]), rtol=1e-4)


def nn_sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def test_a_cell_without_gate_keeps_nothing():
    found, _, _ = gates(model__cell="rnn")
    assert (np.asarray(found["layer_0"]["effective"]) == 0).all()
    assert inspection.time_scale(0.0) == 1 and inspection.time_scale(0.9) == pytest.approx(10)


def test_snapshots_hold_a_line_a_member_and_are_cut_at_the_checkpoint(tmp_path):
    _, objective, params = gates(model__cell="urlstm")
    both = jax.tree.map(lambda p: np.stack([p, 2 * p]), jax.device_get(params))
    seeds = [{"seed": 0}, {"seed": 1}]
    for resumed, steps in ((0, (0, 10, 20)), (10, (20,))):
        snapshots = inspection.Snapshots(tmp_path, objective, RandomData(), seeds, resumed)
        for step in steps:
            snapshots.write(step, both)
    text = (tmp_path / "gates.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(li["step"], li["seed"]) for li in lines] == [
        (s, m) for s in (0, 10, 20) for m in (0, 1)
    ]
    assert len(lines[0]["layers"]["layer_0"]["effective"]) == 6
    assert lines[0]["layers"] != lines[1]["layers"] and lines[0]["layers"] == lines[2]["layers"]
