"""Objectives of the copying and the adding task: shapes, masks, h-detach, seeds and devices."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import get_config
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.adding import Adding
from lrd_jax.data.copying import Copying
from lrd_jax.data.synthetic import SyntheticDataset
from lrd_jax.data.task import stream
from lrd_jax.objectives import make_objective
from lrd_jax.streams import StepContext
from tests.training.harness import make_program, run

TASKS = {
    "hdetach": Copying("hdetach", 4),
    "gu": Copying("gu", 4),
    "marker": Copying("marker", 4, "scalar"),
    "adding": Adding(24),
}


def make_config(**overrides):
    config = get_config()
    config.update_from_flattened_dict(
        {
            "data.batch_size": 8,
            "model.cell": "urlstm",
            "model.hidden_size": 6,
            "model.head_hidden": (),
            "detach.p_block": 0.5,
            "optim.learning_rate": 1e-2,
            "train.num_steps": 20,
        }
        | overrides
    )
    return config


def make_data(task, count=8):
    splits = {split: task.draw(stream(split), 13) for split in ("validation", "test")}
    return SyntheticDataset(task, splits, count, 10)


def make_batch(task, count=8):
    batch = make_data(task, count).train_batch(0, 0, slice(None))
    return jax.tree.map(jnp.asarray, batch)


def make_case(task, **overrides):
    """An objective with parameters, and a batch."""
    objective = make_objective(make_config(**overrides), task.spec, Horizon(20, 10))
    return objective, objective.init(jax.random.key(0)), make_batch(task)


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("hdetach", "gu")), "adding"]
)
def test_the_loss_is_that_of_its_definition(name):
    task = TASKS[name]
    objective, params, batch = make_case(task)
    outputs = np.asarray(objective.outputs({"params": params}, batch, None), np.float64)
    total, (sums, carry) = objective.loss({"params": params}, (), batch, None)
    targets = np.asarray(batch["targets"])
    if name == "adding":
        assert outputs.shape == (8, 1)
        expected = ((outputs[:, 0] - targets) ** 2).sum()
    else:
        assert outputs.shape == (8, task.spec.scored, task.spec.classes)
        shifted = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
        chosen = np.take_along_axis(shifted, targets[..., None].astype(int), -1)[..., 0]
        expected = -np.log(chosen).mean(axis=1).sum()
        right = (outputs.argmax(-1) == targets)[:, -10:].mean()
        assert sums["accuracy"][0] / sums["accuracy"][1] == pytest.approx(right)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert carry == () and sums["loss"][1] == 8
    assert set(sums) == {metric.name for metric in objective.metrics}


@pytest.mark.parametrize("name", ["hdetach", "gu"])
def test_each_step_is_labelled_from_its_own_state(name):
    """Logits of step t depend on inputs up to t, and on the one at t."""
    task = TASKS[name]
    objective, params, batch = make_case(task)
    changed = dict(batch, inputs=batch["inputs"].at[:, -3].set(5))
    one, other = (objective.outputs({"params": params}, b, None) for b in (batch, changed))
    np.testing.assert_array_equal(one[:, :-3], other[:, :-3])
    assert (jnp.abs(one[:, -3:] - other[:, -3:]).max(axis=(0, 2)) > 0).all()


def gradients(objective):
    """A compiled function of parameters, batch and step: metrics and gradients."""

    def loss(params, batch, step):
        total, (sums, _) = objective.loss({"params": params}, (), batch, step)
        return total, sums

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("name", ["hdetach", pytest.param("adding", marks=pytest.mark.slow)])
def test_padding_changes_nothing(name):
    objective, params, batch = make_case(TASKS[name])
    masked = dict(batch, mask=batch["mask"].at[5:].set(0))
    half = jax.tree.map(lambda x: x[:5], batch)
    function = gradients(objective)
    results = [function(params, b, None) for b in (masked, half)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *results)


@pytest.mark.parametrize("name", ["hdetach", pytest.param("adding", marks=pytest.mark.slow)])
def test_h_detach_changes_gradients_alone(name):
    # ORC-11, and ORC-12 in the epochs that `off_last_epochs` switches off.
    objective, params, batch = make_case(TASKS[name], **{"detach.off_last_epochs": 1})
    function, step = gradients(objective), StepContext(jax.random.key(1))
    (loss, _), plain = function(params, batch, None)
    (blocked_loss, _), blocked = function(params, batch, step)
    (_, _), off = function(params, batch, step._replace(number=10))
    assert blocked_loss == pytest.approx(float(loss), rel=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), plain, off)
    kernels = [g["recurrence"]["layer_0"]["recurrent_kernel"] for g in (plain, blocked)]
    assert jnp.abs(kernels[0] - kernels[1]).max() > 1e-4


@pytest.mark.parametrize(("off", "blocked", "told"), [(1, 0.5, 0), (2, 0.5, 1), (2, 0.0, 0)])
def test_blocking_that_is_off_all_the_time_is_told(caplog, monkeypatch, off, blocked, told):
    monkeypatch.setattr(logging.getLogger("lrd_jax"), "propagate", True)
    options = {"detach.off_last_epochs": off, "detach.p_block": blocked}
    make_objective(make_config(**options), TASKS["gu"].spec, Horizon(20, 10))
    assert len(caplog.records) == told


def train(task, num_devices, **overrides):
    program = make_program(make_config(**overrides), num_devices, make_data(task))
    state = run(program, 5)
    return jax.device_get(state.params), program.evaluate(state.params, "test")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hdetach", "adding"])
def test_seeds_and_devices_agree(name):
    task = TASKS[name]
    together, scores = train(task, 4, num_seeds=2)
    alone, score = train(task, 1, seed=1)
    pairs = zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True)
    assert max(abs(a[0] - t[1]).max() for a, t in pairs) < 1e-5
    for metric, value in score.items():
        assert scores[metric][1] == pytest.approx(value[0], rel=1e-5)
