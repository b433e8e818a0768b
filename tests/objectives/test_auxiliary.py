"""Auxiliary losses: anchors, segments, how far gradients reach, decoders, baselines."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import LSTMCarry, make_cell
from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.metrics import ReportedMetric
from lrd_jax.models import Head, build, make_decoder
from lrd_jax.models.embedding import Table
from lrd_jax.objectives import make_objective
from lrd_jax.objectives.segments import Segments
from lrd_jax.streams import StepContext
from lrd_jax.training.optimizer import make_optimizer

T, B, D = 12, 3, 6
PIXELS = DataSpec("classify", T, features=1, classes=4, scale=(1 / 255,), values=256)
NUMBERS = DataSpec("classify", T, features=2, classes=4)
TOKENS = DataSpec("tag", T, 5, 4, one_hot=True, values=5, symbols=True, scored=T, recalled=4)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_config(**overrides):
    config = defaults.get_config()
    config.update_from_flattened_dict(
        {
            "aux.kind": "reconstruct",
            "aux.segment_length": 5,
            "aux.decoder_layers": 1,
            "aux.head_hidden": (4,),
            "model.hidden_size": D,
            "model.head_hidden": (5,),
            "optim.name": "sgd",
            "optim.clip_norm": 0.0,
        }
        | overrides
    )
    return config


def make_case(spec, horizon=None, **overrides):
    """An objective, generic parameters, and a batch."""
    objective = make_objective(make_config(**overrides), spec, horizon or Horizon(20, 10))
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    real = jnp.result_type(float)
    params = jax.tree.map(lambda p: jnp.array(0.6 * rng.standard_normal(p.shape), real), shapes)
    if spec.values:
        channels = 1 if spec.one_hot else spec.features
        inputs = rng.integers(0, spec.values, (B, T, channels), np.uint8)
    else:
        inputs = rng.standard_normal((B, T, spec.features))
    targets = rng.integers(0, 4, (B, spec.scored) if spec.kind == "tag" else B)
    batch = {"inputs": inputs, "targets": targets, "mask": np.ones(B)}
    return objective, params, jax.tree.map(jnp.asarray, batch)


def losses(objective, params, batch, draws=None, step=0):
    """Every metric's mean over the batch."""

    @jax.jit
    def means(params, batch, step):
        context = None if draws is None else draws._replace(number=step)
        sums = objective.loss({"params": params}, (), batch, context)[1][0]
        reported = {m.name for m in objective.metrics if isinstance(m, ReportedMetric)}
        kept = {name: pair for name, pair in sums.items() if name not in reported}
        return {name: total / count for name, (total, count) in kept.items()}

    return means(params, batch, step)


DRAWS = StepContext(jax.random.key(3))


# ---- Anchors and segments ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "legal"),
    [pytest.param("reconstruct", (600, 783), marks=pytest.mark.slow), ("predict", (0, 184))],
)
def test_anchors_change_and_stay_legal(kind, legal):
    # ORC-17
    segments = Segments(kind, 784, 600)
    assert (segments.first, segments.last) == legal
    draw = jax.jit(jax.vmap(lambda key: segments.draw(StepContext(key), 2, "batch", 8)))
    anchors, starts = draw(jax.random.split(jax.random.key(0), 3000))
    assert (anchors.min(), anchors.max()) == legal and len(np.unique(anchors)) > 180
    assert (anchors[:, 0] != anchors[:, 1]).any()
    np.testing.assert_array_equal(starts, anchors - 600 if kind == "reconstruct" else anchors)
    np.testing.assert_allclose(anchors.mean(), np.mean(legal), atol=3)
    one = segments.draw(DRAWS, 2, "batch", 8)[0]
    each = segments.draw(DRAWS, 2, "example", 8)[0]
    assert one.shape == (2,) and each.shape == (2, 8) and len(np.unique(each)) > 8
    assert segments.spread(1)[0] == (sum(legal) + 1) // 2


@pytest.mark.parametrize(("kind", "size"), [("reconstruct", 785), ("predict", 785)])
@pytest.mark.parametrize("gap", [0, 10, -1])
def test_no_legal_anchor_is_an_error(kind, size, gap):
    with pytest.raises(UserError, match="leaves no legal anchor"):
        Segments(kind, 784, size, gap)
    fits = 784 - max(gap, 0) - (kind == "reconstruct")
    assert Segments(kind, 784, fits, gap).first == Segments(kind, 784, fits, gap).last
    with pytest.raises(UserError, match="leaves no legal anchor"):
        Segments(kind, 784, fits + 1, gap)


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
def test_a_random_gap_uses_all_of_the_sequence(kind):
    segments = Segments(kind, 30, 5, -1)
    draw = jax.vmap(lambda key: segments.draw(StepContext(key), 1, "batch", 1))
    anchors, starts = (x[:, 0] for x in draw(jax.random.split(jax.random.key(0), 20_000)))
    gaps = anchors - starts - 5 if kind == "reconstruct" else starts - anchors
    assert gaps.min() == 0 and gaps.max() == 25 - (kind == "reconstruct")
    assert starts.min() == 0 and starts.max() == 25 - (kind == "reconstruct")
    assert segments.spread(3)[1].min() >= 0


@pytest.mark.parametrize("kind", ["reconstruct", "predict"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_decoder_reads_all_but_the_last_and_says_all_but_the_first(kind, reverse):
    # ORC-18
    if reverse and kind == "predict":
        with pytest.raises(UserError, match="is for reconstruction"):
            make_case(NUMBERS, **{"aux.kind": kind, "aux.reverse": reverse})
        return
    objective, params, batch = make_case(NUMBERS, **{"aux.kind": kind, "aux.reverse": reverse})
    seen = {}

    def decode(kind, params, state, segment, step):
        seen.update(state=state, segment=segment)
        return jnp.zeros((len(segment), 4, 2))

    objective._decode = decode
    objective.loss({"params": params}, (), batch, None)
    anchor = 8 if kind == "reconstruct" else 4  # the middle of 5..11 and of 0..7
    start = anchor - 5 if kind == "reconstruct" else anchor
    expected = batch["inputs"][:, start : start + 5]
    np.testing.assert_array_equal(seen["segment"], expected[:, ::-1] if reverse else expected)
    model = objective.task.model
    out = model.apply({"params": objective._main(params)}, batch["inputs"][:, : anchor + 1])[1]
    np.testing.assert_allclose(seen["state"].h, out.final[0].h, rtol=1e-5)
    np.testing.assert_allclose(seen["state"].c, out.final[0].c, rtol=1e-5)


def test_the_first_segment_of_the_paper():
    # ORC-18: a = 600, L = 600, G = 0: inputs x[0..598], targets x[1..599].
    segments = Segments("reconstruct", 784, 600)
    assert segments._start(600, 0) == 0


# ---- How far gradients reach --------------------------------------------------------------------

REACHES = {
    "everything": (0, "same", {}),
    "both": (3, "same", {}),
    "labels further": (3, "5", {}),
    "labels all the way": (3, "0", {"aux.kind": "predict"}),
    "labels nowhere": (0, "stop", {}),
    "decoder all the way": (0, "3", {"aux.kind": "predict"}),
    "examples": (3, "same", {"aux.scope": "example", "aux.kind": "both", "aux.gap": -1}),
    "h-detach, stacked": (
        *(4, "same"),
        {
            "detach.p_block": 0.4,
            "model.num_layers": 2,
            "model.dropout": 0.3,
            "aux.n_anchors": 2,
            "model.learn_initial": True,
        },
    ),
    "gru": (3, "4", {"model.cell": "gru"}),
    "master gates": (3, "same", {"model.cell": "onlstm", "model.chunk_size": 2}),
    "tokens": (3, "same", {}),
    "tokens, decoder all the way": (0, "4", {}),
}
SLOW = ("labels all the way", "decoder all the way", "gru", "master gates", "tokens")
SLOW += ("everything", "labels further", "examples")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in REACHES]
)
def test_gradients_reach_exactly_so_far(x64, monkeypatch, name):
    # ORC-19. `reconstruct` also shows x[j] to the decoder: it gets a constant copy here.
    steps, supervised, overrides = REACHES[name]
    monkeypatch.setattr(build, "make_cell", lambda *a: make_cell(*a).clone(param_dtype=jnp.float64))
    spec = NUMBERS
    if name.startswith("tokens"):
        spec = DataSpec("tag", T, 2, 4, scored=T, recalled=4)
    options = {"truncate.steps": steps, "truncate.supervised": supervised} | overrides
    objective, params, batch = make_case(spec, **options)
    cut_out, constant = objective._cut_out, batch["inputs"]
    objective._cut_out = lambda kind, stored, starts: cut_out(kind, constant, starts)
    drawn = {
        kind: segments.draw(DRAWS, objective.aux.n_anchors, objective.aux.scope, B)[0]
        for kind, segments in objective.segments.items()
    }

    def means(inputs, step):
        found = losses(objective, params, batch | {"inputs": inputs}, DRAWS, step)
        return jnp.stack([found["loss"], found["aux_loss"]])

    values, pull = jax.vjp(jax.jit(lambda x: means(x, 0)), batch["inputs"])
    (of_labels,), (of_decoders,) = (pull(jnp.eye(2)[i]) for i in (0, 1))

    def live(gradient):
        return np.asarray(jnp.abs(gradient).max(-1) > 0)  # (batch, time)

    time = np.arange(T)
    expected = np.zeros((B, T), bool)
    for anchors in drawn.values():
        for anchor in np.broadcast_to(
            np.asarray(anchors).reshape(len(anchors), -1), (len(anchors), B)
        ):
            since = anchor - (steps or T)
            expected |= (time <= anchor[:, None]) & (time > since[:, None])
    np.testing.assert_array_equal(live(of_decoders), expected)

    reach = {"same": steps, "stop": None}.get(supervised, supervised)
    if reach is None:
        assert not live(of_labels).any()
    elif spec.kind == "tag":  # a loss on every step: windows side by side, counted from the end
        assert live(of_labels).all()
    else:
        since = T - (int(reach) or T)
        np.testing.assert_array_equal(live(of_labels), np.broadcast_to(time >= since, (B, T)))

    # Neither value depends on it.
    free = {"truncate.steps": 0, "truncate.supervised": "same"}
    other, _, _ = make_case(spec, **options | free)
    expected = losses(other, params, batch, DRAWS)
    np.testing.assert_allclose(values, [expected["loss"], expected["aux_loss"]], rtol=1e-12)


def test_the_papers_window(x64):
    # ORC-19: K = 300, a = 700: the window that is run again is 401..700; of the labels 484..783.
    spec = DataSpec("classify", 784, 1, 4)
    options = {"truncate.steps": 300, "aux.segment_length": 600}
    objective = make_objective(make_config(**options), spec, Horizon(20, 10))
    seen = []

    def rerun(starts, size):
        seen.append((int(starts[0]), size))
        return types.SimpleNamespace(final=[None])

    objective._states("reconstruct", None, jnp.array([700]), rerun)
    assert seen == [(401, 300)] and objective._labels_window == 300


@pytest.mark.parametrize(
    ("steps", "own"),
    [
        (3, True),
        (3, False),
        *(pytest.param(0, own, marks=pytest.mark.slow) for own in (False, True)),
    ],
)
def test_only_the_first_steps_of_a_decoder_reach_its_start(x64, own, steps):
    # ORC-20
    config = make_config(**{"truncate.steps": steps, "aux.decoder_layers": 2})
    decoder = make_decoder(config, 7, 2, None)
    cell = decoder.recurrence.cell.clone(param_dtype=jnp.float64)
    decoder = decoder.clone(recurrence=decoder.recurrence.clone(cell=cell))
    rng = np.random.default_rng(0)
    state = LSTMCarry(*jnp.array(rng.standard_normal((2, 1, D))))
    values = jnp.array(rng.standard_normal((1, 7, 2)))
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), state, values)
    params = jax.tree.map(lambda p: jnp.array(rng.standard_normal(p.shape)), shapes)
    reads = jnp.arange(7)[None] > 0 if own else None

    @jax.jit
    def outputs(state):
        options = {"own": reads, "to_values": lambda x: x}
        return decoder.apply(params, state, values, **options)[0].sum(-1)

    # From what the decoder says itself no gradient comes: only its state carries it.
    reach = jax.jacobian(outputs)(state)
    live = np.asarray((jnp.abs(reach.c).max((1, 2)) > 0) & (jnp.abs(reach.h).max((1, 2)) > 0))
    np.testing.assert_array_equal(live, np.arange(7) < (steps or 7))


@pytest.mark.parametrize(
    ("steps", "spec", "lengths"),
    [
        # One pass over the sequence and one decoder; with truncation, a window for each loss.
        (0, NUMBERS, [T, 4]),
        (3, NUMBERS, [T, 3, 3, 4]),
        (3, TOKENS, [T, 3, 4]),
    ],
)
def test_the_main_pass_runs_once(monkeypatch, steps, spec, lengths):
    from lrd_jax.recurrence import stack

    objective, params, batch = make_case(spec, **{"truncate.steps": steps})
    run, seen = stack.unroll, []
    monkeypatch.setattr(
        stack,
        "unroll",
        lambda cell, carry, x, *a: (seen.append(len(x)), run(cell, carry, x, *a))[1],
    )
    jax.eval_shape(functools.partial(losses, objective, draws=DRAWS), params, batch)
    assert seen == lengths
    seen.clear()
    jax.eval_shape(functools.partial(losses, objective), params, batch)
    assert seen == [T, 4]  # evaluation needs no windows


# ---- Weighting ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_weight_scales_the_auxiliary_gradient():
    # ORC-21. In pre-training nothing else has a gradient.
    phases = Horizon(20, 10, pretrain_steps=10)
    found = {}
    for weight in (1.0, 2.5):
        objective, params, batch = make_case(NUMBERS, phases, **{"aux.weight": weight})

        def total(params, step, objective=objective, batch=batch):
            return objective.loss({"params": params}, (), batch, DRAWS._replace(number=step))[0]

        gradient = jax.jit(jax.grad(total))
        found[weight] = gradient(params, 0), gradient(params, 10)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: close(2.5 * a, b), found[1.0][0], found[2.5][0])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found[1.0][0]["head"]))
    # The joint gradient is the sum of both.
    labels = jax.tree.map(lambda joint, alone: joint - alone, found[1.0][1], found[1.0][0])
    jax.tree.map(lambda j, a, one: close(j - 2.5 * one, a), found[2.5][1], labels, found[1.0][0])
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(labels["head"]))


@pytest.mark.parametrize("scope", ["batch", pytest.param("example", marks=pytest.mark.slow)])
def test_anchors_at_the_same_place_count_as_one(scope):
    # ORC-21: with L = T - 1 there is one legal anchor.
    found = []
    for count in (1, 3):
        options = {"aux.segment_length": T - 1, "aux.n_anchors": count, "aux.scope": scope}
        objective, params, batch = make_case(NUMBERS, **options)
        found.append(losses(objective, params, batch, DRAWS)["aux_loss"])
        found.append(losses(objective, params, batch)["aux_loss"])
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


def test_several_anchors_are_averaged_and_masked_examples_do_not_count():
    options = {"aux.n_anchors": 2, "aux.kind": "both"}
    objective, params, batch = make_case(NUMBERS, **options)
    found = losses(objective, params, batch)
    single = []
    for anchor in objective.segments["predict"].spread(2)[0]:
        one, _, _ = make_case(NUMBERS, **{"aux.kind": "predict"})
        fixed = np.array([anchor]), np.array([anchor])
        one.segments = {"predict": types.SimpleNamespace(spread=lambda _, fixed=fixed: fixed)}
        single.append(losses(one, params, batch)["aux_loss"])
    np.testing.assert_allclose(found["predict_loss"], np.mean(single), rtol=1e-5)
    mean = (found["reconstruct_loss"] + found["predict_loss"]) / 2
    np.testing.assert_allclose(found["aux_loss"], mean, rtol=1e-6)

    masked = batch | {"mask": jnp.array([1.0, 0.0, 1.0])}
    real = jax.tree.map(lambda x: x[np.array([0, 2])], batch)
    one, other = (losses(objective, params, b) for b in (masked, real))
    for name in other:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5)


# ---- What the decoder reads, and what it costs --------------------------------------------------


def decode(objective, params, batch, **options):
    """Outputs for the middle segment, and the segment."""
    anchors, starts = map(jnp.asarray, objective.segments["reconstruct"].spread(1))
    segment = objective._cut_out("reconstruct", batch["inputs"], starts)
    main, x = {"params": objective._main(params)}, objective.task.values(batch["inputs"])
    masks = objective._model.recurrence.draw(None, T, B)
    whole = objective._model.apply(main, x, masks, method="run")
    state = objective._states("reconstruct", whole, anchors, None)
    call = functools.partial(objective._decode, "reconstruct", params, state, **options)

    def run(segment, draws=None, number=0):
        step = None if draws is None else draws._replace(number=number)
        return jax.jit(call)(segment, step)

    return run, segment


@pytest.mark.parametrize("spec", [NUMBERS, pytest.param(PIXELS, marks=pytest.mark.slow)])
def test_what_a_decoder_is_fed(spec):
    options = {"model.embedding_size": 3, "aux.decoder_width": 4, "aux.decoder_layers": 2}
    cases = {
        feed: make_case(spec, **options, **{"aux.decoder_feed": feed})
        for feed in ("teacher", "none", "scheduled")
    }
    params, batch = cases["teacher"][1:]
    run = {feed: decode(case[0], params, batch) for feed, case in cases.items()}
    segment = run["teacher"][1]
    later = segment.at[:, 1:].add(1)
    first = segment.at[:, 0].add(1)

    outputs = {feed: call(segment) for feed, (call, _) in run.items()}
    for feed in ("none", "scheduled"):  # in evaluation it reads its own outputs
        np.testing.assert_array_equal(run[feed][0](later), outputs[feed])
    assert np.abs(run["teacher"][0](later) - outputs["teacher"]).max() > 0
    for feed, (call, _) in run.items():
        assert np.abs(call(first) - outputs[feed]).max() > 0
    # At the start of a phase no output is fed back yet, near its end nearly all.
    np.testing.assert_allclose(
        run["scheduled"][0](segment, DRAWS, 0), outputs["teacher"], rtol=1e-5
    )
    half = run["scheduled"][0](segment, DRAWS, 10)
    assert np.abs(half - outputs["teacher"]).max() > 1e-4
    np.testing.assert_allclose(half[:, 0], outputs["teacher"][:, 0], rtol=1e-5)


def test_own_outputs_are_fed_back_one_step_later():
    objective, params, batch = make_case(NUMBERS)
    alone, segment = decode(objective, params, batch, alone=True)
    taught, _ = decode(objective, params, batch)
    said = alone(segment)
    # Ground truth that equals what it says itself leads to the same outputs.
    imitation = segment.at[:, 1:-1].set(said[:, :-1])
    np.testing.assert_allclose(taught(imitation), said, rtol=1e-4, atol=1e-6)


def test_squared_error_and_cross_entropy_are_those_of_their_definitions():
    objective, _, batch = make_case(PIXELS)
    outputs = np.linspace(-1, 1, B * 4).reshape(B, 4, 1)
    targets = batch["inputs"][:, :4]
    expected = ((outputs - np.asarray(targets) / 255) ** 2).mean((1, 2))
    np.testing.assert_allclose(
        objective.outputs.cost(jnp.array(outputs), targets), expected, rtol=1e-5
    )

    objective, *_ = make_case(PIXELS, **{"aux.loss": "ce"})
    np.testing.assert_allclose(
        objective.outputs.cost(jnp.zeros((B, 4, 256)), targets), np.log(256), rtol=1e-6
    )
    sure = 50 * jax.nn.one_hot(targets[..., 0], 256)
    np.testing.assert_allclose(objective.outputs.cost(sure, targets), 0, atol=1e-6)

    objective, *_ = make_case(TOKENS)  # auto: tokens have a cross-entropy
    np.testing.assert_allclose(
        objective.outputs.cost(jnp.zeros((B, 4, 5)), targets // 52), np.log(5), 1e-6
    )
    objective, *_ = make_case(TOKENS, **{"aux.loss": "mse"})
    one_hot = jax.nn.one_hot(targets[..., 0] // 52, 5)
    np.testing.assert_array_equal(objective.outputs.cost(one_hot, targets // 52), 0)
    with pytest.raises(UserError, match=r"aux\.loss=ce needs whole numbers"):
        make_case(NUMBERS, **{"aux.loss": "ce"})


# ---- Embeddings and heads -----------------------------------------------------------------------


def test_pixel_ids_are_256_and_themselves():
    # ORC-22. Through floats, 120 of them would become their neighbour.
    pixels = np.arange(256, dtype=np.uint8)
    table = Table(256, 3)
    params = table.init(jax.random.key(0), jnp.array(pixels[:1, None]))
    rows = table.apply(params, jnp.array(pixels[:, None]))
    np.testing.assert_array_equal(rows, params["params"]["table"])
    assert len(np.unique(rows, axis=0)) == 256
    naive = (pixels.astype(np.float32) / np.float32(255) / np.float32(1 / 255)).astype(np.int32)
    assert (naive == pixels - 1).sum() == 120


def test_channels_have_rows_of_their_own():
    table = Table(4, 2)
    params = table.init(jax.random.key(0), jnp.zeros((1, 3), jnp.uint8))
    rows = params["params"]["table"]
    assert rows.shape == (12, 2)
    found = table.apply(params, jnp.array([[1, 3, 0]], jnp.uint8))
    np.testing.assert_allclose(found[0], rows[1] + rows[4 + 3] + rows[8 + 0], rtol=1e-6)


@pytest.mark.parametrize(("embedding", "places"), [("full", 1), ("decoder", 1), ("none", 0)])
def test_a_table_is_one_parameter_and_moves_once(embedding, places):
    # ORC-23
    options = {
        "model.embedding": "table" if embedding == "full" else "linear",
        "aux.embedding": "decoder" if embedding == "decoder" else "none",
        "model.embedding_size": 3,
    }
    objective, params, batch = make_case(PIXELS, **options)
    tables = [
        (path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "table"
    ]
    assert len(tables) == places
    kernels = {
        path[0].key
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.shape == (1, 3)
    }
    assert (
        kernels
        == {"none": {"embedding", "decoder_reconstruct"}, "full": set(), "decoder": {"embedding"}}[
            embedding
        ]
    )
    if not places:
        return
    tx = make_optimizer(make_config(**{"optim.learning_rate": 0.5}).optim, Horizon(20, 10))

    def total(params):
        return objective.loss({"params": params}, (), batch, DRAWS)[0] / B

    grads = jax.jit(jax.grad(total))(params)
    updates, _ = tx.update(grads, tx.init(params), params)
    path, _ = tables[0]

    def at_path(tree):
        return functools.reduce(lambda node, key: node[key.key], path, tree)

    np.testing.assert_array_equal(at_path(updates), -0.5 * at_path(grads))
    assert (at_path(grads) != 0).any()


def test_a_shared_table_gets_gradient_from_both_readers():
    options = {"model.embedding": "table", "model.embedding_size": 3, "truncate.steps": 2}
    objective, params, batch = make_case(PIXELS, **options)
    inputs = batch["inputs"].at[:].set(0).at[:, 1:5].set(7)  # 7: seen by the decoder alone
    fixed = jnp.array([T - 1]), jnp.array([1])
    objective.segments = {"reconstruct": types.SimpleNamespace(draw=lambda *_: fixed, first=5)}

    def total(params):
        return objective.loss({"params": params}, (), batch | {"inputs": inputs}, DRAWS)[0]

    table = jax.jit(jax.grad(total))(params)["embedding"]["table"]
    live = np.flatnonzero(jnp.abs(table).max(-1))
    np.testing.assert_array_equal(live, [0, 7])


def test_drop_connect_keeps_the_mean_and_evaluation_keeps_the_matrix():
    # ORC-24
    head = Head((3, 4), 2, dropconnect=0.5)
    x = jnp.eye(5)
    params = head.init(jax.random.key(0), x)
    plain = Head((3, 4), 2)
    np.testing.assert_array_equal(head.apply(params, x), plain.apply(params, x))

    linear = Head((5,), 4, dropconnect=0.25)  # an identity, then the matrix that is masked
    params = linear.init(jax.random.key(0), x)
    params["params"]["Dense_0"]["kernel"] = jnp.eye(5)
    matrix = np.asarray(params["params"]["Dense_1"]["kernel"])
    draw = jax.jit(jax.vmap(lambda key: linear.apply(params, x, key)))
    masked = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
    assert all(np.isclose(m, 0) or np.isclose(m, matrix[0, 0] / 0.75) for m in masked[:50, 0, 0])
    np.testing.assert_allclose((masked == 0).mean(0), 0.25, atol=0.04)
    np.testing.assert_allclose(masked.mean(0), matrix, atol=0.04)


@pytest.mark.parametrize(("hidden", "count"), [((256, 256), 233_226), ((256,), 167_434)])
def test_parameters_of_the_main_network(hidden, count):
    # ORC-07f
    options = {
        "model.hidden_size": 128,
        "model.embedding_size": 128,
        "model.head_hidden": hidden,
    }
    config = make_config(**options)
    objective = make_objective(config, DataSpec("classify", T, 1, 10), Horizon(20, 10))
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    main = objective._main(shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(main)) == count
    assert shapes.keys() - main.keys() == {"decoder_reconstruct"}


@pytest.mark.slow
def test_the_main_network_starts_like_one_without_decoders():
    objective, *_ = make_case(NUMBERS)
    plain = make_objective(make_config(**{"aux.kind": "none"}), NUMBERS, Horizon(20, 10))
    one, other = (o.init(jax.random.key(5)) for o in (objective, plain))
    jax.tree.map(np.testing.assert_array_equal, objective._main(one), other)


# ---- Trivial predictions ------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_baselines_are_those_of_the_evaluated_segments(loss):
    spec = DataSpec("classify", T, 1, 4, scale=(0.5,), values=3)
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 3, (1100, T, 1), np.uint8)  # more than one batch of them
    inputs[:, 6] = 2
    splits = dict.fromkeys(("valid", "train"), (inputs, np.zeros(1100)))
    data = ArrayDataset(spec, splits, 8, "x")
    objective = make_objective(make_config(**{"aux.loss": loss}), spec, Horizon(20, 10))
    found = objective.baselines(data, "valid")
    now, before = inputs[:, 4:8, 0], inputs[:, 3:7, 0]  # the segment before anchor 8 is 3..7
    if loss == "mse":
        now, before = now / 2, before / 2
        expected = {
            "mean": now.var(),
            "position_mean": now.var(0).mean(),
            "previous": ((now - before) ** 2).mean(),
        }
    else:

        def entropy(x):
            p = np.bincount(x.ravel(), minlength=3) / x.size
            return -(p[p > 0] * np.log(p[p > 0])).sum()

        expected = {
            "mean": entropy(now),
            "position_mean": np.mean([entropy(column) for column in now.T]),
            "previous": sum((before == b).mean() * entropy(now[before == b]) for b in range(3)),
        }
    for name, value in expected.items():
        assert found[f"aux_loss_{name}"] == pytest.approx(value, rel=1e-5)
    assert found["aux_loss"] == pytest.approx(min(expected.values()), rel=1e-5)


def test_what_was_decoded_is_what_was_scored():
    objective, params, batch = make_case(PIXELS, **{"aux.reverse": True})
    part = objective.decoded(params, batch)["reconstruct"]
    error = ((part.decoded - part.true) ** 2).mean()
    np.testing.assert_allclose(error, losses(objective, params, batch)["aux_loss"], rtol=1e-5)
    # Decoded backwards, the segment 3..7 lacks its last step, not its first.
    np.testing.assert_allclose(part.true, batch["inputs"][:, 3:7] / 255, rtol=1e-6)
    assert part.start == 2 and part.alone.shape == part.true.shape


@pytest.mark.parametrize("change", [{}, {"aux.kind": "none", "truncate.supervised": "stop"}])
def test_running_text_is_refused(change):
    spec = DataSpec("language", T, 5, 5)
    with pytest.raises(UserError, match=r"running text: set aux\.kind=none and"):
        make_objective(make_config(**change), spec, Horizon(20, 10))


def test_labels_of_many_steps_are_cut_into_windows(x64, monkeypatch):
    """That of one step reaches the start of its own window, counted from the end; see ORC-19."""
    monkeypatch.setattr(build, "make_cell", lambda *a: make_cell(*a).clone(param_dtype=jnp.float64))
    spec = DataSpec("tag", T, 2, 4, scored=T, recalled=4)
    options = {"truncate.supervised": "4", "aux.kind": "predict"}
    objective, params, batch = make_case(spec, **options)

    @jax.jit
    def reached(scored):
        targets = jnp.where(jnp.arange(T) == scored, batch["targets"], -1)

        def loss(inputs):
            changed = batch | {"inputs": inputs, "targets": targets}
            return objective.loss({"params": params}, (), changed, DRAWS)[1][0]["loss"][0]

        return jnp.abs(jax.grad(loss)(batch["inputs"])).max(-1) > 0

    for scored, first in ((T - 1, 8), (8, 8), (7, 4), (1, 0)):
        expected = (np.arange(T) >= first) & (np.arange(T) <= scored)
        np.testing.assert_array_equal(reached(scored), np.broadcast_to(expected, (B, T)))


def test_what_an_example_is_fed_is_its_own_draw():
    """Several anchors; the same on one device as where the examples are split over two."""
    options = {"aux.decoder_feed": "scheduled", "aux.n_anchors": 2}
    objective, params, batch = make_case(NUMBERS, **options)

    @jax.jit
    def loss(batch, first):
        draws = DRAWS._replace(first=first, number=10)
        return objective.loss({"params": params}, (), batch, draws)[1][0]["aux_loss"][0]

    parts = [jax.tree.map(lambda x, row=row: x[row : row + 1], batch) for row in range(B)]
    alone = [float(loss(part, row)) for row, part in enumerate(parts)]
    assert sum(alone) == pytest.approx(float(loss(batch, 0)), rel=1e-5)
    assert float(loss(parts[0], 1)) != pytest.approx(alone[0], rel=1e-5)


def test_no_auxiliary_loss_is_negative():
    """So an interval over seeds ends at 0."""
    objective, *_ = make_case(NUMBERS, **{"aux.kind": "both", "aux.segment_length": 3})
    ranges = {metric.name: metric.range for metric in objective.metrics}
    assert ranges["aux_loss"] == ranges["reconstruct_loss"] == ranges["predict_loss"] == (0, np.inf)
