"""Language models: the loss, tied embeddings, dropout, and the state from window to window."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from configs.base import get_config
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.text import TextDataset
from lrd_jax.data.vocabulary import Vocabulary
from lrd_jax.errors import UserError
from lrd_jax.evaluation.scorer import Scorer
from lrd_jax.objectives import make_objective
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.streams import StepContext
from lrd_jax.training.state import join_best, split_best
from tests.training import harness
from tests.training.harness import run

SYMBOLS = tuple("abcdefgh\n")
LENGTH, STREAMS = 5, 8


def make_config(**overrides):
    config = get_config()
    config.update_from_flattened_dict(
        {
            "data.name": "text",
            "data.batch_size": STREAMS,
            "data.length": LENGTH,
            "model.hidden_size": 6,
            "model.num_layers": 2,
            "optim.learning_rate": 1e-2,
            "train.num_steps": 20,
        }
        | {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return config


def make_data(length=LENGTH, streams=STREAMS):
    """91 tokens in 8 streams: of 11 or 12 tokens, in three windows, the last one of 1 or 2."""
    rng = np.random.default_rng(0)
    sizes = {"train": 91, "valid": 37, "test": 11}
    splits = {name: rng.integers(0, 9, size, np.int32) for name, size in sizes.items()}
    return TextDataset(Vocabulary("char", SYMBOLS), splits, length, streams, "letters")


def make_case(**overrides):
    objective = make_objective(make_config(**overrides), make_data().spec, Horizon(20, 3))
    return objective, objective.init(jax.random.key(0))


def make_program(num_devices=4, **overrides):
    config = make_config(**overrides)
    data = make_data(config.data.length, config.data.batch_size)
    return harness.make_program(config, num_devices, data)


def batch_of(data, step=0):
    return jax.tree.map(jnp.asarray, data.train_batch(0, step, slice(None)))


def reference_loss(objective, params, carry, batch):
    """The loss by its definition, all logits at once; the state is not differentiated."""
    features, readout, carry = objective.model.apply(
        {"params": params}, batch["inputs"], carry, batch["start"]
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
        readout.logits(features), batch["targets"]
    )
    return (losses * batch["mask"]).sum() / batch["mask"].sum(), carry


# ---- The model ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, {"embedding": (9, 6), "output_kernel": (9, 6), "output_bias": (9,)}),
        (
            {"model__embedding_size": 4},
            {"embedding": (9, 4), "output_kernel": (9, 6), "output_bias": (9,)},
        ),
        ({"model__tie_embeddings": True}, {"embedding": (9, 6)}),
        (
            {"model__tie_embeddings": True, "model__embedding_size": 4},
            {"embedding": (9, 4), "projection/kernel": (6, 4), "projection/bias": (4,)},
        ),
    ],
)
def test_parameters(options, shapes):
    _, params = make_case(**options)
    flat = traverse_util.flatten_dict(params, sep="/")
    outside = {name: leaf.shape for name, leaf in flat.items() if "recurrence" not in name}
    assert outside == shapes


def test_a_tied_embedding_is_one_parameter_moved_once():
    """One SGD step moves it by the rate times the sum of both uses' gradients (UR-8)."""
    objective, params = make_case(model__tie_embeddings=True)
    batch, carry = batch_of(make_data()), objective.initial_carry(STREAMS)

    def loss(table, output):
        as_input = params | {"embedding": table}
        features, readout, _ = objective.model.apply(
            {"params": as_input}, batch["inputs"], carry, batch["start"]
        )
        logits = readout._replace(kernel=output).logits(features)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return (losses * batch["mask"]).sum()

    table = params["embedding"]
    parts = jax.grad(loss, argnums=(0, 1))(table, table)
    assert all(np.abs(part).max() > 1e-3 for part in parts)
    whole = jax.grad(lambda p: objective.loss({"params": p}, carry, batch, None)[0])(params)
    np.testing.assert_allclose(whole["embedding"], sum(parts), rtol=1e-4, atol=1e-5)


SLOW_CELLS = ("rnn", "gated_lstm", "urlstm", "gated_gru", "onlstm", "s5")


@pytest.mark.parametrize(
    "cell",
    [
        "lstm",
        "gated_legs",
        "gru",
        *(pytest.param(cell, marks=pytest.mark.slow) for cell in SLOW_CELLS),
    ],
)
def test_every_cell_carries_its_state(cell):
    """Two windows in a row are one window of twice the length."""
    objective, params = make_case(model__cell=cell)
    short, long = make_data(LENGTH), make_data(2 * LENGTH)
    carry, total = objective.initial_carry(STREAMS), 0.0
    compiled = jax.jit(lambda carry, batch: objective.loss({"params": params}, carry, batch, None))
    for step in range(2):
        loss, (sums, carry) = compiled(carry, batch_of(short, step))
        total += loss
        assert sums["loss"][1] == STREAMS * LENGTH
    whole, (_, final) = compiled(objective.initial_carry(STREAMS), batch_of(long))
    assert float(total) == pytest.approx(float(whole), rel=1e-5)
    for one, other in zip(jax.tree.leaves(carry), jax.tree.leaves(final), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_parameters_may_be_of_numpy_where_tokens_are_traced():
    """As in a program that is exported, which has them as constants."""
    objective, params = make_case()
    params, batch = jax.tree.map(np.asarray, params), batch_of(make_data())
    exported = jax.jit(lambda batch: objective.loss({"params": params}, carry, batch, None)[0])
    carry = objective.initial_carry(STREAMS)
    assert np.isfinite(exported(batch))


def test_a_stream_that_starts_takes_the_initial_state():
    objective, params = make_case(model__learn_initial=True)
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)  # an initial state that is not zero
    batch = batch_of(make_data())
    junk = jax.tree.map(lambda c: c + 7, objective.initial_carry(STREAMS))
    zero = objective.initial_carry(STREAMS)
    fresh = [objective.loss({"params": params}, carry, batch, None)[0] for carry in (junk, zero)]
    assert fresh[0] == fresh[1]
    on = batch | {"start": jnp.zeros(STREAMS, bool)}
    assert objective.loss({"params": params}, zero, on, None)[0] != fresh[0]


@pytest.mark.parametrize(
    "rate",
    [
        "dropout",
        *(pytest.param(r, marks=pytest.mark.slow) for r in ("embedding_dropout", "output_dropout")),
    ],
)
def test_dropout_is_of_training_alone_and_keyed_by_the_stream(rate):
    objective, params = make_case(**{f"model__{rate}": 0.5})
    batch, carry = batch_of(make_data()), objective.initial_carry(STREAMS)

    compiled = jax.jit(
        lambda carry, batch, step: objective.loss({"params": params}, carry, batch, step)[0]
    )

    def loss(draws, rows=slice(None)):
        part = jax.tree.map(lambda leaf: leaf[rows], batch)
        return float(compiled(objective.initial_carry(len(part["mask"])), part, draws))

    plain = float(make_case()[0].loss({"params": params}, carry, batch, None)[0])
    assert loss(None) == pytest.approx(plain, rel=1e-6)
    draws = StepContext(jax.random.key(1))
    assert loss(draws) != loss(None) and loss(draws) == loss(draws)
    assert loss(draws) != loss(StepContext(jax.random.key(2)))
    halves = loss(draws, slice(0, 4)) + loss(draws._replace(first=4), slice(4, 8))
    assert halves == pytest.approx(loss(draws), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model__bidirectional": True}, "would read the tokens that are to be guessed"),
        ({"model__embedding_size": -1}, "model.embedding_size=-1"),
        ({"model__embedding_dropout": 1.0}, "model.embedding_dropout=1.0 is a rate"),
        ({"model__output_dropout": -0.1}, "model.output_dropout=-0.1 is a rate"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        make_case(**options)


# ---- Training and evaluation --------------------------------------------------------------------


@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_training_is_what_its_definition_says(num_devices):
    """Two epochs of SGD by hand: per token means, a state that is carried, stopped and reset."""
    options = {"optim__name": "sgd", "optim__learning_rate": 1.0, "optim__clip_norm": 0.0}
    program = make_program(num_devices, **options)
    assert program.horizon.steps_per_epoch == 3
    objective, data = program.objective, program.dataset
    params = jax.tree.map(lambda leaf: leaf[0], jax.device_get(program.init().params))
    gradient = jax.jit(jax.value_and_grad(lambda *a: reference_loss(objective, *a), has_aux=True))
    carry, total, count = objective.initial_carry(STREAMS), 0.0, 0.0
    for step in range(6):
        batch = batch_of(data, step)
        assert bool(batch["start"].any()) == (step in (0, 3))
        (loss, carry), grads = gradient(params, carry, batch)
        params = jax.tree.map(lambda p, g: p - g, params, grads)
        total, count = total + loss * batch["mask"].sum(), count + batch["mask"].sum()
    assert count == 2 * 91  # the last windows of an epoch are not full
    state = jax.device_get(run(program, 6))
    for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one[0], other, rtol=1e-4, atol=1e-5)
    for one, other in zip(jax.tree.leaves(state.carry), jax.tree.leaves(carry), strict=True):
        np.testing.assert_allclose(one[0], other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.sums["loss"][0], total, rtol=1e-5)
    assert state.sums["loss"][1] == count


NOISY = {
    "model__dropout": 0.3,
    "model__embedding_dropout": 0.3,
    "model__output_dropout": 0.3,
    "detach__p_block": 0.5,
    "truncate__steps": 3,
    "model__tie_embeddings": True,
    "model__embedding_size": 4,
}


@pytest.mark.slow
def test_results_do_not_depend_on_the_devices():
    states = [jax.device_get(run(make_program(number, **NOISY), 8)) for number in (1, 4)]
    for other in states[1:]:
        for part in ("params", "carry"):
            pairs = zip(
                jax.tree.leaves(getattr(states[0], part)),
                jax.tree.leaves(getattr(other, part)),
                strict=True,
            )
            assert max(np.abs(a - b).max() for a, b in pairs) < 1e-5


@pytest.mark.slow
def test_a_seed_among_others_equals_its_single_run():
    together = jax.device_get(run(make_program(num_seeds=2, **NOISY), 5))
    alone = jax.device_get(run(make_program(seed=1, **NOISY), 5))
    for part in ("params", "carry"):
        for one, other in zip(
            jax.tree.leaves(getattr(together, part)),
            jax.tree.leaves(getattr(alone, part)),
            strict=True,
        ):
            np.testing.assert_allclose(one[1], other[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_state_goes_on_on_another_number_of_devices(tmp_path):
    """In the middle of an epoch, where the carry counts."""
    program = make_program(4, **NOISY)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(4, split_best(run(program, 4)), {})
    checkpoints.wait()
    again = make_program(2, **NOISY)
    restored = join_best(checkpoints.restore_latest(split_best(again.template()))[0])
    checkpoints.close()
    assert any(np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(restored.carry))
    found, whole = jax.device_get((run(again, 3, restored), run(program, 7)))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_evaluation_counts_every_token_whatever_the_batch():
    program = make_program(1)
    objective = program.objective
    whole_loss = jax.jit(
        lambda p, batch: objective.loss({"params": p}, objective.initial_carry(1), batch, None)[0]
    )
    params = program.init().params
    tokens = program.dataset._splits["valid"]
    for size in (1, 3, 50):
        score = Scorer(objective, program.dataset, program.mesh, num_members=1, batch_size=size)
        found = score(params, "valid")
        assert set(found) == {"loss", "bits_per_char"}
        assert found["bits_per_char"] == pytest.approx(found["loss"] / np.log(2))
        # By hand: each stream is one sequence, from the state at its start.
        total, streams = 0.0, min(size, 37)
        for row in range(streams):
            place = np.arange(row * 37 // streams, (row + 1) * 37 // streams)
            batch = {
                "inputs": jnp.asarray(tokens[place - 1])[None],
                "targets": jnp.asarray(tokens[place])[None],
                "mask": jnp.ones((1, len(place))),
                "start": jnp.ones(1, bool),
            }
            total += whole_loss(jax.tree.map(lambda leaf: leaf[0], params), batch)
        assert found["loss"][0] == pytest.approx(float(total) / 37, rel=1e-5)


# ---- Metrics and labels ---------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "name"), [("char", "bits_per_char"), ("word", "perplexity")])
def test_what_is_measured_beside_the_loss(unit, name):
    spec = dataclasses.replace(make_data().spec, vocabulary=Vocabulary(unit, SYMBOLS))
    objective = make_objective(make_config(), spec, Horizon(20, 3))
    assert [metric.name for metric in objective.metrics] == ["loss", name]
    assert objective.metrics[0].unit == "nats"


def test_tokens_without_a_label_do_not_score():
    objective, params = make_case()
    batch = batch_of(make_data())
    holes = batch["mask"].at[2, 1:].set(0)
    unscored = jnp.where(holes > 0, batch["targets"], -1)
    results = [
        jax.value_and_grad(
            lambda p, b=b: objective.loss({"params": p}, objective.initial_carry(STREAMS), b, None),
            has_aux=True,
        )(params)
        for b in (dict(batch, mask=holes), dict(batch, targets=unscored))
    ]
    ((one, (sums, _)), _), _ = results
    assert sums["loss"][1] == holes.sum() < batch["mask"].sum() and one > 0
    jax.tree.map(np.testing.assert_array_equal, *results)
