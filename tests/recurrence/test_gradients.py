"""What detaching, truncation, padding and draws do to gradients: ORC-11 to ORC-16 and borders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.config.horizon import Horizon
from lrd_jax.recurrence.controls import Controls
from lrd_jax.recurrence.unroll import unroll
from tests.recurrence.recurrence_cases import (
    ALL,
    POINTWISE,
    SLOW,
    B,
    D,
    N,
    T,
    assert_close,
    assert_equal,
    build,
    differ,
    drawing,
    draws,
    has_memory,
    inputs,
    random_tree,
    weighted,
)

slow = pytest.mark.slow
BACKENDS = ("scan", "fused")


def over(names, quick):
    """Parametrises a test over cells, on the fast path where they have it.

    By default the cells in `quick`; with the marker `slow` those in `SLOW`, with `exhaustive` the
    rest. `test_backends` holds the reference path equal, and the cells in `quick` also run on that
    with the marker `slow`.
    """

    def marks(name, path):
        if name in quick and (name, path) in fast:
            return ()
        return slow if name in SLOW else pytest.mark.exhaustive

    fast = [(n, "fused" if n in POINTWISE else "scan") for n in names]
    pairs = [*fast, *((n, "scan") for n in quick if n in POINTWISE)]
    return pytest.mark.parametrize(
        ("name", "backend"),
        [pytest.param(name, path, marks=marks(name, path)) for name, path in pairs],
    )


every_cell = over(ALL, ("lstm", "gated_gru"))
with_memory = over([n for n in ALL if has_memory(n)], ("urlstm",))


def one_layer(name, backend):
    """`run(params, carry, x, controls)` of one layer, its parameters, and a generic state."""
    model, params = build(name)
    cell = model.cell
    weights = {"params": params["params"]["layer_0"]}

    def run(weights, carry, x, controls=Controls()):  # noqa: B008 - immutable
        return cell.apply(
            weights,
            carry,
            x,
            method=lambda cell, carry, x: unroll(cell, carry, x, controls, backend),
        )

    carry = random_tree(cell.initialize_carry(jax.random.key(0), (B, N)), 4)
    return run, weights, carry


def one_step(name):
    """`step(weights, carry, x, h)`: the cell's own step, `h` standing for what is multiplied."""
    cell = build(name)[0].cell

    def step(weights, carry, x, h):
        return cell.apply(
            weights, carry, x, h, method=lambda cell, c, x, h: cell.step(c, cell.project(x), h)
        )

    return step


def time_first(x):
    return jnp.swapaxes(x, 0, 1)


# ---- ORC-11, ORC-12: what does not depend on the draws ---------------------------------------


@every_cell
def test_orc_11_forward_is_bit_identical(name, backend):
    """For every p, scope and mask, in float32 as trained, compiled."""
    model, params = build(name, jnp.float32, backend=backend)
    x = inputs(dtype=jnp.float32)
    c_block = 0.5 if has_memory(name) else 0.0
    plain = jax.jit(model.apply)(params, x)
    for scope, p, seed in (("batch", 1.0, 0), ("batch", 0.5, 1), ("example", 0.5, 2)):
        detached = model.clone(p_block=p, c_block=c_block, mask_scope=scope)
        out = jax.jit(lambda p, x, m=detached, s=seed: drawing(m, p, x, draws(s)))(params, x)
        assert_equal(out, plain)


def gradient(model, params, x, context=None):
    def loss(params):
        if context is None:
            return weighted(model.apply(params, x, deterministic=True))
        return weighted(drawing(model, params, x, context))

    return jax.jit(jax.grad(loss))(params)


@over(ALL, ("lstm",))
def test_orc_12_p_zero_is_the_plain_gradient(name, backend, x64):
    """p = 0 draws nothing; so does switching off, and evaluation, which has no draws at all."""
    model, params = build(name, backend=backend)
    blocked = model.clone(p_block=0.7)
    plain = gradient(model, params, inputs())
    assert_equal(gradient(model, params, inputs(), draws()), plain)
    off = gradient(blocked, params, inputs(), draws().with_values(p_block=jnp.array(0.0)))
    assert_close(off, plain, 1e-14)
    assert_equal(gradient(blocked, params, inputs()), plain)
    assert differ(gradient(blocked, params, inputs(), draws()), plain)


def test_orc_12_last_epochs():
    """E = 200, N = 39: on in epoch 160, off from epoch 161 on, counted from 0."""
    horizon = Horizon(num_steps=200 * 10, steps_per_epoch=10)
    assert horizon.detach_active(161 * 10 - 1, 39)
    assert not horizon.detach_active(161 * 10, 39)
    assert not horizon.detach_active(200 * 10 - 1, 39)
    assert horizon.detach_active(200 * 10 - 1, 0)


# ---- ORC-13 to ORC-15: what detaching does to the gradient -----------------------------------


@with_memory
def test_orc_13_all_blocked(name, backend, x64):
    """h passes nothing back, W_h still learns, and the cell path is that of the fixed gates."""
    run, weights, carry = one_layer(name, backend)
    x = time_first(inputs())
    blocked = Controls(block_h=jnp.ones(T, bool))

    def jacobian(carry):
        return run(weights, carry, x, blocked)[0]

    flow = jax.jit(jax.jacrev(jacobian))(carry)
    assert not flow.c.h.any() and not flow.h.h.any()

    step, start = one_step(name), carry
    expected = jnp.broadcast_to(jnp.eye(D), (B, D, D))
    for t in range(T):
        h = carry.h
        keep = jax.vmap(jax.jacrev(lambda c, h, x: step(weights, type(start)(c, h), x, h).c))(
            carry.c, h, x[t]
        )
        expected = keep @ expected
        carry = step(weights, carry, x[t], h)
    actual = jnp.stack([flow.c.c[b, :, b] for b in range(B)])
    assert_close(actual, expected, 1e-12)
    assert jnp.abs(expected).max() > 1e-6

    kernel = jax.jit(jax.grad(lambda w: weighted(run(w, start, x, blocked))))(weights)
    assert jnp.abs(kernel["params"]["recurrent_kernel"]).max() > 1e-3


@over(ALL, ("gru",))
def test_orc_14_one_blocked_step_is_a_constant(name, backend, x64):
    """Blocking step k = putting the number h_{k-1} for the variable in its matrix products."""
    run, weights, carry = one_layer(name, backend)
    step = one_step(name)
    x, k = time_first(inputs())[:4], 2

    def blocked(weights, carry, x):
        return weighted(run(weights, carry, x, Controls(block_h=jnp.arange(4) == k)))

    constant = jax.jit(run)(weights, carry, x)[1].h[k - 1]

    def replaced(weights, carry, x):
        states = []
        for t in range(4):
            carry = step(weights, carry, x[t], constant if t == k else carry.h)
            states.append(carry)
        return weighted((carry, jax.tree.map(lambda *s: jnp.stack(s), *states)))

    arguments = weights, carry, x
    found, expected = (jax.jit(jax.grad(f, (0, 1, 2)))(*arguments) for f in (blocked, replaced))
    assert_close(found, expected, 1e-12)


def expected_jacobian(name, weights, carry, x, p_h, p_c):
    """Product of the step Jacobians, whose detached columns are multiplied by 1 - p; example 0."""
    step = one_step(name)
    total, fields = None, carry._fields
    for t in range(len(x)):
        carry_t = carry

        def flat(carry, c, h, x=x[t]):
            seen = carry._replace(c=c) if c is not None else carry
            return jnp.concatenate(step(weights, seen, x, h), axis=-1)[0]

        def columns(jacobian):
            return jnp.concatenate([getattr(jacobian, f)[:, 0] for f in fields], axis=1)

        c = carry_t.c if "c" in fields else None
        own = jax.jacrev(lambda carry: flat(carry, c, carry_t.h))(carry_t)  # noqa: B023
        product = jax.jacrev(lambda h: flat(carry_t, c, h))(carry_t.h)[:, 0]  # noqa: B023
        matrix = columns(own)
        hidden = slice(matrix.shape[1] - D, None)
        matrix = matrix.at[:, hidden].add((1 - p_h) * product)
        if c is not None:
            memory = jax.jacrev(lambda c: flat(carry_t, c, carry_t.h))(c)[:, 0]  # noqa: B023
            matrix = matrix.at[:, :D].add((1 - p_c) * memory)
        total = matrix if total is None else matrix @ total
        carry = step(weights, carry_t, x[t], carry_t.h)
    return total


@pytest.mark.parametrize("kind", ["h", "c"])
@over(ALL, ("urlstm", "gru"))
def test_orc_15_expectation(name, backend, kind, x64):
    """Average over all 2^4 masks with their probabilities, against the weighted step Jacobians."""
    if kind == "c" and not has_memory(name):
        pytest.skip("c-detach needs a memory")
    run, weights, carry = one_layer(name, backend)
    x, p = time_first(inputs())[:4], 0.3
    masks = jnp.array(list(itertools.product([False, True], repeat=4)))
    probability = jnp.prod(jnp.where(masks, p, 1 - p), axis=1)

    def final(carry, mask):
        last = run(weights, carry, x, Controls(**{f"block_{kind}": mask}))[0]
        return jnp.concatenate(last, axis=-1)[0]

    jacobians = jax.jit(jax.vmap(jax.jacrev(final), (None, 0)))(carry, masks)
    average = jax.tree.map(lambda j: jnp.tensordot(probability, j, 1)[:, 0], jacobians)
    p_h, p_c = (p, 0.0) if kind == "h" else (0.0, p)
    expected = jax.jit(lambda c: expected_jacobian(name, weights, c, x, p_h, p_c))(carry)
    assert_close(jnp.concatenate(average, axis=1), expected, 1e-12)


@pytest.mark.parametrize("backend", ["fused", pytest.param("scan", marks=slow)])
def test_orc_15_weight_of_a_path(backend, x64):
    """p = 1/4: three hops through h weigh (3/4)^3 = .421875; a pure cell path weighs 1."""
    masks = jnp.array(list(itertools.product([False, True], repeat=3)))
    probability = jnp.prod(jnp.where(masks, 0.25, 0.75), axis=1)
    x = time_first(inputs())[:3]

    def average(run, weights, carry, field):
        def final(value, mask):
            start = carry._replace(**{field: value})
            return getattr(run(weights, start, x, Controls(block_h=mask))[0], field)

        def all_masks(masks):
            return jax.vmap(jax.jacrev(final), (None, 0))(getattr(carry, field), masks)

        weighted_sum = jnp.tensordot(probability, jax.jit(all_masks)(masks), 1)
        return weighted_sum, jax.jit(all_masks)(jnp.zeros((1, 3), bool))[0]

    mean, plain = average(*one_layer("rnn", backend), "h")  # an Elman network has no other path
    assert_close(mean, 0.421875 * plain, 1e-13)
    run, weights, carry = one_layer("lstm", backend)
    kernel = "recurrent_kernel"
    weights = {"params": {**weights["params"], kernel: 0 * weights["params"][kernel]}}
    mean, plain = average(run, weights, carry, "c")
    assert_close(mean, plain, 1e-13)
    assert jnp.abs(plain).max() > 1e-6


# ---- ORC-16 and the random streams -----------------------------------------------------------


def example_gradients(model, params, x, draws, **arguments):
    """Gradient of each example's own loss, all in one batch: rows of d loss_b / d x_b."""

    def loss(x):
        return (drawing(model, params, x, draws, **arguments).outputs ** 2).sum()

    return jax.jit(jax.grad(loss))(x)


@over(ALL, ("lstm",))
def test_orc_16_scope(name, backend, x64):
    """Shared draws follow the examples when they are permuted; those of each example stay."""
    model, params = build(name, backend=backend, p_block=0.5)
    x, order = inputs(), jnp.array([2, 0, 1])
    shared = example_gradients(model, params, x, draws())
    assert_close(example_gradients(model, params, x[order], draws()), shared[order], 1e-13)

    same = jnp.broadcast_to(x[:1], x.shape)
    shared = example_gradients(model, params, same, draws())
    assert_close(shared, jnp.broadcast_to(shared[:1], shared.shape), 1e-13)
    own = example_gradients(model.clone(mask_scope="example"), params, same, draws())
    assert all(differ(own[a], own[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_masks_differ_over_optimizer_steps(x64):
    model, params = build("lstm", p_block=0.5)
    found = [example_gradients(model, params, inputs(), draws(seed)) for seed in range(3)]
    assert differ(found[0], found[1]) and differ(found[1], found[2])
    assert_equal(found[0], example_gradients(model, params, inputs(), draws(0)))


@pytest.mark.parametrize("scope", ["example", pytest.param("batch", marks=slow)])
def test_draws_do_not_depend_on_the_number_of_devices(scope, x64):
    """Devices that hold examples 0 and 1..2 do what one that holds 0..2 does."""
    model, params = build(
        "lstm", p_block=0.5, c_block=0.5, mask_scope=scope, num_layers=2, dropout=0.5
    )
    x = inputs()
    whole = example_gradients(model, params, x, draws())
    parts = [
        example_gradients(model, params, x[first:stop], draws(first=first))
        for first, stop in ((0, 1), (1, 3))
    ]
    assert_close(jnp.concatenate(parts), whole, 1e-13)
    moved = example_gradients(model, params, x[1:], draws(first=0))
    assert differ(moved, whole[1:])


def test_detaching_changes_no_other_stream(x64):
    """Dropout masks and initial parameters are the same for every p, so results are too."""

    def run(model, params, draws):
        return jax.jit(lambda p, x: drawing(model, p, x, draws))(params, inputs())

    outputs = []
    for p in (0.0, 0.5):
        model, params = build("lstm", num_layers=2, dropout=0.5, p_block=p, c_block=p)
        initial = model.init(jax.random.key(3), inputs())
        outputs.append((run(model, params, draws()), initial))
    assert_equal(*outputs)
    assert differ(run(model, params, draws(1)), outputs[0][0])  # dropout draws


def test_evaluation_draws_nothing(x64):
    """Without draws, dropout and detaching are off, whatever their rates."""
    model, params = build("lstm", num_layers=2, dropout=0.5, p_block=1.0, c_block=1.0)
    plain = model.clone(dropout=0.0, p_block=0.0, c_block=0.0)
    assert_equal(model.apply(params, inputs(), deterministic=True), plain.apply(params, inputs()))
    assert_equal(gradient(model, params, inputs()), gradient(plain, params, inputs()))


@pytest.mark.parametrize("kind", ["p_block", pytest.param("c_block", marks=slow)])
def test_layers_share_a_draw_or_have_their_own(kind, x64):
    """Over one step, a layer's final state depends on its initial one unless it is blocked."""

    def blocked(stack_mask, scope):
        options = {"num_layers": 2, "stack_mask": stack_mask, "mask_scope": scope, kind: 0.5}
        model, params = build("rnn" if kind == "p_block" else "lstm", **options)
        x = inputs()[:, :1]
        zero = model.apply(params, x, deterministic=True).final
        field = "h" if kind == "p_block" else "c"

        def layers(key):
            def own(initial, layer):
                found = drawing(model, params, x, draws()._replace(key=key), initial=initial).final
                return getattr(found[layer], field).sum()

            reach = [getattr(jax.grad(own)(zero, k)[k], field) for k in range(2)]
            return jnp.stack([(r == 0).all(axis=-1) for r in reach])  # (layers, batch)

        return np.asarray(jax.jit(jax.vmap(layers))(jax.random.split(jax.random.key(7), 16)))

    shared, own = blocked("shared", "batch"), blocked("per_layer", "batch")
    assert (shared[:, 0] == shared[:, 1]).all() and 0 < shared.mean() < 1
    assert (own[:, 0] != own[:, 1]).any()
    assert (own == own[..., :1]).all()  # one draw for the batch
    example = blocked("shared", "example")
    assert (example[:, 0] == example[:, 1]).all() and (example != example[..., :1]).any()


def test_h_and_c_have_masks_of_their_own(x64):
    """One step of an LSTM with both at 1/2: all four combinations occur."""
    model, params = build("lstm", p_block=0.5, c_block=0.5)
    x = inputs()[:, :1]
    zero = model.apply(params, x, deterministic=True).final

    def blocked(key):
        def final(initial):
            return weighted(drawing(model, params, x, draws()._replace(key=key), initial=initial))

        flow = jax.grad(final)(zero)[0]
        return jnp.stack([(flow.h == 0).all(), (flow.c == 0).all()])

    found = jax.jit(jax.vmap(blocked))(jax.random.split(jax.random.key(7), 32))
    assert len(np.unique(found, axis=0)) == 4


# ---- Truncation ------------------------------------------------------------------------------


@every_cell
def test_truncation_border(name, backend, x64):
    """A loss on the last state reaches exactly K inputs, and all of them; K = 0: every one."""
    for steps in (0, 1, 3):
        model, params = build(name, backend=backend, truncate_steps=steps)
        flow = jax.jit(jax.grad(lambda x, m=model, p=params: weighted(m.apply(p, x).last)))(
            inputs()
        )
        reached = np.abs(flow).max(axis=(0, 2))
        first = T - steps if steps else 0
        assert (reached[:first] == 0).all()
        assert (reached[first:] > 1e-9).all()


@over(ALL, ("urlstm",))
def test_truncation_counts_from_the_end_of_each_example(name, backend, x64):
    """With lengths the border is K steps before each example's own end; detaching moves nothing."""
    lengths = np.array([T, 4, 2])
    model, params = build(name, backend=backend, truncate_steps=3)
    for p in (0.0, 0.5):
        detached = model.clone(p_block=p, mask_scope="example")

        def last(x, m=detached):
            out = drawing(m, params, x, draws(), lengths=jnp.array(lengths))
            return weighted(out.last)

        reached = np.abs(jax.jit(jax.grad(last))(inputs())).max(axis=2)
        for b, length in enumerate(lengths):
            live = slice(max(0, length - 3), length)
            assert (reached[b, : live.start] == 0).all() and (reached[b, length:] == 0).all()
            if p == 0:
                assert (reached[b, live] > 1e-9).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_truncation_windows(backend, x64):
    """A loss on step t reaches the start of its own window of K, counted from the end."""
    model, params = build("lstm", backend=backend, truncate_steps=3)
    outputs = jax.jit(jax.jacrev(lambda x: model.apply(params, x).outputs.sum(axis=(0, 2))))
    reached = np.abs(outputs(inputs())).max(axis=(1, 3)) > 0
    window = (np.arange(T) - T) // 3  # T = 7: 0 | 1 2 3 | 4 5 6
    same, past = window[:, None] == window, np.arange(T)[:, None] >= np.arange(T)
    np.testing.assert_array_equal(reached, same & past)


@pytest.mark.parametrize("backend", BACKENDS)
def test_truncation_changes_no_result(backend):
    model, params = build("gru", jnp.float32, backend=backend)
    x = inputs(dtype=jnp.float32)
    cut = model.clone(truncate_steps=2)
    assert_equal(jax.jit(cut.apply)(params, x), jax.jit(model.apply)(params, x))


# ---- Padding ---------------------------------------------------------------------------------


@over(ALL, ("lstm",))
def test_padding_changes_nothing(name, backend, x64):
    """A padded batch, NaN in the padding, against each example on its own without padding."""
    lengths = (T, 3)
    model, params = build(name, backend=backend, bidirectional=True, num_layers=2)
    rng = np.random.default_rng(5)
    weights = jnp.array(rng.standard_normal((2, T, 2 * D)))
    x = inputs()[:2].at[1, lengths[1] :].set(jnp.nan)

    def padded(params, x):
        out = model.apply(params, x, lengths=jnp.array(lengths))
        valid = jnp.arange(T)[:, None] < jnp.array(lengths)[:, None, None]
        loss = (jnp.where(valid, out.outputs, 0) * weights).sum() + (out.last**2).sum()
        return loss, (out.last, out.final)

    def single(params, x):
        loss, last = 0.0, []
        for b, length in enumerate(lengths):
            out = model.apply(params, x[b : b + 1, :length])
            loss += (out.outputs * weights[b, :length]).sum() + (out.last**2).sum()
            last.append((out.last, out.final))
        return loss, jax.tree.map(lambda *rows: jnp.concatenate(rows), *last)

    found, expected = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(params, x)
        for f in (padded, single)
    )
    assert_close(found, expected, 1e-11)
    assert not found[1][1][1, lengths[1] :].any()


def test_padded_outputs_repeat_the_last_valid_one(x64):
    model, params = build("lstm")
    out = model.apply(params, inputs(), lengths=jnp.array([T, 3, 1]))
    for b, length in enumerate((T, 3, 1)):
        expected = jnp.broadcast_to(out.last[b], (T - length + 1, D))
        np.testing.assert_array_equal(out.outputs[b, length - 1 :], expected)


def test_continuing_where_a_window_ended(x64):
    """Two windows, the second starting from the first one's final states, equal one run."""
    model, params = build("urlstm", num_layers=2)
    whole = model.apply(params, inputs())
    first = model.apply(params, inputs()[:, :4])
    second = model.apply(params, inputs()[:, 4:], initial=first.final)
    joined = jnp.concatenate([first.outputs, second.outputs], axis=1)
    assert_close((joined, second.final), (whole.outputs, whole.final), 1e-12)


def test_learnt_initial_state(x64):
    """It starts at zero, is the state of every example, and learns."""
    model, params = build("lstm", learn_initial=True)
    fresh = model.init(jax.random.key(0), inputs())["params"]
    names = {"initial_0_c", "initial_0_h"}
    assert names < set(fresh) and not any(fresh[name].any() for name in names)

    weights = {"params": {k: v for k, v in params["params"].items() if k not in names}}
    state = [jnp.broadcast_to(params["params"][f"initial_0_{k}"], (B, D)) for k in "ch"]
    given = (model.cell.carry_type(*state),)
    expected = model.clone(learn_initial=False).apply(weights, inputs(), initial=given)
    assert_close(model.apply(params, inputs()), expected, 1e-14)
    flow = gradient(model, params, inputs())["params"]
    assert all(jnp.abs(flow[name]).min() > 1e-9 for name in names)
