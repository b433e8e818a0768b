"""Two phases in one run: what each moves, which rate it learns at, and what counts as the best."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrd_jax.config.horizon import Horizon, make_horizon
from lrd_jax.errors import UserError
from lrd_jax.metrics import stored
from lrd_jax.training import program as program_module
from lrd_jax.training.optimizer import make_optimizer, make_schedule
from lrd_jax.training.step import train_step
from tests.training.harness import (
    assert_identical,
    largest_difference,
    make_config,
    make_program,
    run,
)

# 7 steps an epoch: 7 of pre-training and 13 joint ones.
AUX = {
    "aux__kind": "both",
    "aux__segment_length": 6,
    "aux__decoder_layers": 1,
    "aux__head_hidden": (4, 4),
    "aux__pretrain_epochs": 1.0,
    "model__cell": "lstm",
    "model__head_hidden": (5, 5),
    "model__head_dropconnect": 0.3,
    "truncate__steps": 5,
}
RANDOM = {
    "detach__p_block": 0.5,
    "aux__scope": "example",
    "aux__n_anchors": 2,
    "aux__gap": -1,
    "aux__decoder_feed": "scheduled",
}


@pytest.fixture(scope="module")
def trained():
    """A program whose head decays, with the state after 0, 6, 7 and 8 steps."""
    config = make_config(**AUX, optim__name="adamw", optim__weight_decay=0.1)
    traces = []

    def counted(*args, **kwargs):
        traces.append(1)
        return train_step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program_module, "train_step", counted)
        program = make_program(config)
        states, state = {}, program.init()
        for steps in range(10):
            states[steps] = jax.device_get(state)
            state = run(program, 1, state)
    assert len(traces) == 1  # neither a moved anchor nor the border of the phases compiles anew
    return program, states


def test_pre_training_leaves_the_head_alone(trained):
    _, states = trained
    assert_identical(states[0].params["head"], states[7].params["head"])
    assert largest_difference(states[7].params["head"], states[8].params["head"]) > 1e-3
    for name in ("recurrence", "decoder_reconstruct", "decoder_predict"):
        assert largest_difference(states[0].params[name], states[6].params[name]) > 1e-3
        assert largest_difference(states[7].params[name], states[8].params[name]) > 1e-4


def test_the_head_starts_with_a_fresh_optimizer(trained):
    # Adam's first update is the rate in the direction of the gradient's sign, plus the decay.
    _, states = trained
    before, after = (states[n].params["head"] for n in (7, 8))
    for path, leaf in jax.tree_util.tree_leaves_with_path(before):
        new = after[path[0].key][path[1].key]
        decayed = leaf * (1 - 1e-2 * (0.1 if path[-1].key == "kernel" else 0))
        moved = np.abs(new - decayed)
        live = moved > 1e-6  # a weight that DropConnect or the ReLU cut off has no gradient
        np.testing.assert_allclose(moved[live], 1e-2, rtol=1e-2)
        assert live.any()


def test_the_metrics_of_both_losses_are_logged(trained):
    program, states = trained
    assert {"loss", "accuracy", "aux_loss", "reconstruct_loss", "predict_loss"} < set(
        states[3].sums
    )
    for name in ("loss", "aux_loss"):
        total, count = states[7].sums[name]
        assert np.isfinite(total).all() and count == 7 * 5  # five of eight rows are real
    found = program.evaluate(program.init().params, "valid")
    again = program.evaluate(program.init().params, "valid")
    assert found["aux_loss"] > 0 and found["aux_loss"] == again["aux_loss"]


def test_validations_of_pre_training_are_provisional(trained):
    program, states = trained
    state = jax.tree.map(jnp.asarray, states[6])
    names = [metric.name for metric in stored(program.objective.metrics)]

    def validated(state, step, accuracy):
        valid = {name: jnp.ones(1) * 0.5 for name in names} | {"accuracy": jnp.ones(1) * accuracy}
        return program.update_best(state.replace(step=jnp.int32(step)), valid)

    for step, accuracy, best in ((3, 0.9, 3), (6, 0.1, 6), (7, 0.05, 7), (8, 0.01, 8), (9, 0.0, 8)):
        state = validated(state, step, accuracy)
        assert state.best.step == best


def test_a_run_without_auxiliary_loss_has_no_pre_training():
    # AUX-14
    program = make_program(make_config(aux__pretrain_epochs=50.0))
    assert program.horizon == Horizon(20, 7, 0)


def test_the_rate_of_each_phase():
    optim = make_config(
        optim__learning_rate=0.8,
        optim__schedule="step",
        optim__decay_every_epochs=2,
        optim__pretrain_decay=0.5,
    ).optim
    horizon = Horizon(100, 10, pretrain_steps=30)
    schedule = make_schedule(optim, horizon)
    rates = [float(schedule(step)) for step in (0, 15, 29, 30, 49, 50, 69, 70)]
    np.testing.assert_allclose(
        rates, [0.8, 0.8 * 0.5**0.5, 0.8 * 0.5 ** (29 / 30), 0.8, 0.8, 0.4, 0.4, 0.2], rtol=1e-5
    )
    optim.schedule, optim.warmup_steps = "cosine", 10
    schedule = make_schedule(optim, horizon)
    rates = [float(schedule(step)) for step in (0, 5, 10, 30, 35, 40, 70, 100)]
    expected = [0, 0.4, 0.8, 0, 0.4, 0.8, 0.4, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-6)
    optim.pretrain_decay = 0.0
    with pytest.raises(UserError, match=r"optim\.pretrain_decay=0.0 is a factor"):
        make_schedule(optim, horizon)


def test_the_head_keeps_the_rate_of_the_joint_phase():
    optim = make_config(optim__name="sgd", optim__schedule="cosine", optim__clip_norm=0.0).optim
    horizon = Horizon(10, 10, pretrain_steps=4)
    tx, joint = make_optimizer(optim, horizon), make_schedule(optim, horizon.joint)
    params = {"head": {"bias": jnp.ones(2)}, "recurrence": {"bias": jnp.ones(2)}}
    state = tx.init(params)
    for step in range(8):
        updates, state = tx.update(params, state, params)
        rate = joint(step - 4) if step >= 4 else 0
        np.testing.assert_allclose(updates["head"]["bias"], -rate, rtol=1e-6)
        if step >= 4:
            np.testing.assert_allclose(updates["recurrence"]["bias"], -rate, rtol=1e-6)
    assert optax.tree.norm(updates) > 0


def test_phases_of_a_horizon():
    train = make_config(train__num_steps=0, train__num_epochs=3.0).train
    horizon = make_horizon(train, 52, 8, pretrain_epochs=1.5)
    assert horizon == (21, 7, 11) and horizon.joint == (10, 7, 0)
    steps = [0, 10, 11, 16, 20]
    np.testing.assert_array_equal([horizon.is_joint(s) for s in steps], [0, 0, 1, 1, 1])
    progress = [float(horizon.phase_progress(s)) for s in steps]
    np.testing.assert_allclose(progress, [0, 10 / 11, 0, 0.5, 0.9], rtol=1e-6)
    with pytest.raises(UserError, match="covers all 21 steps of the run"):
        make_horizon(train, 52, 8, pretrain_epochs=50.0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [AUX | RANDOM, AUX], ids=["random", "plain"])
def test_devices_and_seeds_agree(options):
    together = run(make_program(make_config(**options, num_seeds=2), 4), 12)
    alone = run(make_program(make_config(**options, seed=1), 1), 12)
    second = jax.tree.map(lambda x: x[1:], jax.device_get(together.params))
    assert largest_difference(second, alone.params) <= 1e-5
    for name in ("loss", "aux_loss"):
        np.testing.assert_allclose(together.sums[name][0][1:], alone.sums[name][0], rtol=1e-4)
