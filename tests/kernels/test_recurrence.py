"""The persistent kernel's own source, emulated on the CPU, against the scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import bfloat16_dot, make_cell
from lrd_jax.errors import UserError
from lrd_jax.kernels import emulate, routes, source
from lrd_jax.kernels.source import BITS, CallCode, cell_code, for_cpu
from lrd_jax.recurrence import Recurrence
from lrd_jax.recurrence.kernel import tell_once
from lrd_jax.recurrence.unroll import choose_backend
from tests.recurrence.recurrence_cases import POINTWISE, drawing, draws, random_tree, weighted

pytestmark = pytest.mark.skipif(bool(emulate.why_not()), reason=emulate.why_not())

D, N, B = 20, 3, 12  # neither units nor examples fill their tiles
LENGTHS = np.arange(1, B + 1)
RESETS = np.random.default_rng(7).random((B, 11)) < 0.2
CELLS = {name: cell for name, cell in POINTWISE.items() if cell.get("chunk_size", 1) == 1}
CELLS |= {
    "on-lstm": {"cell": "onlstm"},
    "cornn": {"cell": "cornn"},
    "slstm": {"cell": "slstm", "heads": 2},
    "lstm-no_bias": {"cell": "lstm", "use_bias": False, "forget_bias": 0.0},
}
SLOW = ("rnn", "lstm", "gru", "urlstm", "OR-tied-1", "cornn", "slstm")  # others: -m exhaustive


def by_hand(name):
    """A cell's parameter, slow or exhaustive."""
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.exhaustive)


FP16, BF16 = 2e-4, 3e-3  # norm of the difference over norm
EVERYTHING = {
    "p_block": 0.4,
    "c_block": 0.4,
    "mask_scope": "example",
    "truncate_steps": 3,
    "lengths": np.minimum(LENGTHS, 11),
    "resets": RESETS,
    "learn_initial": True,
}
OPTIONS = {
    "plain": {},
    "h_detach": {"p_block": 0.4},
    "h_detach-all": {"p_block": 1.0},
    "h_detach-example": {"p_block": 0.4, "mask_scope": "example"},
    "c_detach": {"c_block": 0.4},
    "both": {"p_block": 0.4, "c_block": 0.4},
    "truncate": {"truncate_steps": 3},
    "truncate-start": {"truncate_steps": 4, "truncate_from": "start"},
    "lengths": {"lengths": np.minimum(LENGTHS, 11)},
    "lengths-truncate": {"lengths": np.minimum(LENGTHS, 11), "truncate_steps": 2, "p_block": 0.3},
    "resets": {"resets": RESETS},
    "resets-learnt": {"resets": RESETS, "learn_initial": True, "p_block": 0.3},
    "stack": {"num_layers": 2, "learn_initial": True},
    "bidirectional": {"bidirectional": True, "lengths": np.minimum(LENGTHS, 11)},
    "everything": EVERYTHING,
}


def rounded_dot(x, kernel, dtype=jnp.float16):
    """The kernel's product, in the scan: operands rounded, with room for small gradients."""

    def rounded(a):
        return a.astype(dtype).astype(jnp.float32)

    return jnp.matmul(rounded(x * 4096) / 4096, rounded(kernel))


def recurrence(cell, backend, dot=None, **options):
    made = make_cell({"hidden_size": D, "chrono_t_max": 20, **cell})
    return Recurrence(made if dot is None else made.clone(dot=dot), backend=backend, **options)


def results(models, params, x, part=None, **call):
    """Of each model all results, and the gradients of a sum of them or of one."""

    def run(params, x):
        found = []
        for model in models:

            def loss(params, x, model=model):
                out = drawing(model, params, x, draws(2), **call)._replace(resets=None)
                return weighted(getattr(out, part) if part else out), out

            found.append(jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x))
        return found

    return run, jax.jit(run)


def errors(found, reference):
    """Norm of the difference over norm, by leaf."""
    pairs = zip(jax.tree.leaves_with_path(reference), jax.tree.leaves(found), strict=True)
    relative = {}
    for (path, b), a in pairs:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        size = np.linalg.norm(b)
        difference = np.linalg.norm(a - b)
        relative[jax.tree_util.keystr(path)] = difference / size if size else difference
    return relative


def inputs(steps, seed=0):
    return jnp.array(np.random.default_rng(seed).standard_normal((B, steps, N)), jnp.float32)


def check(cell, options, steps=11, tolerance=FP16, part=None, dot=None, scale=None):
    """Errors at most `tolerance`, or what rounding the operands does to the scan."""
    call = {k: jnp.array(options[k]) for k in ("lengths", "resets") if k in options}
    options = {k: v for k, v in options.items() if k not in call}
    model = recurrence(cell, "kernel", dot, **options)
    assert "c" in model.cell.carry_type._fields or not options.get("c_block")
    x = inputs(steps)
    with routes.use(routes.Route("emulated")):
        assert choose_backend("kernel", model.cell) == "kernel"
        params = model.init(jax.random.key(0), x)
        if scale:
            params = random_tree(params, 0, scale)
        exact = recurrence(cell, "scan", **options)
        dtype = jnp.bfloat16 if dot is bfloat16_dot else jnp.float16
        coarse = recurrence(cell, "fused", functools.partial(rounded_dot, dtype=dtype), **options)
        _, run = results([model, exact, coarse], params, x, part, **call)
        found, reference, rounded = run(params, x)
    allowed = errors(rounded, reference)
    for path, error in errors(found, reference).items():
        assert error <= max(tolerance, 1.5 * allowed[path]), (path, error, allowed[path])
    return max(errors(found, reference).values())


def without_c(cell, options):
    fields = make_cell({"hidden_size": D, "chrono_t_max": 20, **cell}).carry_type._fields
    return options if "c" in fields else {k: v for k, v in options.items() if k != "c_block"}


FAST = [("lstm", "everything"), ("gru", "resets-learnt"), ("OR-tied-1", "plain")]


@pytest.mark.parametrize(("name", "option"), FAST)
def test_equal(name, option):
    check(CELLS[name], without_c(CELLS[name], OPTIONS[option]))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("lstm", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("gru", "cornn")),
    ],
)
def test_every_option(name, option):
    check(CELLS[name], without_c(CELLS[name], OPTIONS[option]))


# What of 40 steps is not below the tolerance has the scan's own error with rounded operands: a unit
# of `relu` that is almost 0 may have a gradient in the one and none in the other.
@pytest.mark.parametrize("name", [by_hand(name) for name in CELLS])
def test_every_cell(name):
    error = check(CELLS[name], {"p_block": 0.2}, steps=40)
    if name not in ("rnn", "rnn-relu", "lstm", "--untied-1"):
        assert error <= FP16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "urlstm", "slstm", "cornn", "OM-untied-1"])
def test_bfloat16(name):
    """`model.compute_dtype=bfloat16`: operands of the same kind."""
    check(CELLS[name], {}, 40, BF16, dot=bfloat16_dot)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "urlstm"])
def test_long_sequence(name):
    """784 steps with larger weights: at most 1.5 times what rounding does to the scan."""
    check(CELLS[name], {}, 784, 0, "last", scale=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["outputs", "last", "states", "final"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_gradient_of_one_result(part, steps):
    """Gradients that come at the last step alone, of h alone, of all; few steps."""
    check(CELLS["lstm"], {}, steps, part=part)
    check(CELLS["gru"], {}, steps, part=part)


@pytest.mark.slow
@pytest.mark.parametrize("units", [1, 16, 33, 100, 128])
def test_units(units):
    check({"cell": "gru", "hidden_size": units}, {"p_block": 0.3}, 4)


def test_seeds_of_a_vmap_are_their_own_runs():
    """Parameters, inputs and masks of each; a launch for all."""
    model = recurrence(CELLS["lstm"], "kernel", p_block=0.4)
    with routes.use(routes.Route("emulated")):
        params = model.init(jax.random.key(0), inputs(1))
        run, _ = results([model], params, inputs(5), "last")
        both = jax.tree.map(lambda p: jnp.stack([p, 1.3 * p]), params)
        x = jnp.stack([inputs(5), inputs(5, 1)])
        text = str(jax.make_jaxpr(jax.vmap(run))(both, x))
        together = jax.jit(jax.vmap(run))(both, x)
        alone = [jax.jit(run)(jax.tree.map(lambda p, s=s: p[s], both), x[s]) for s in range(2)]
    assert text.count("pure_callback[") == 2  # forward and backward
    for s in range(2):
        found = jax.tree.map(lambda f, s=s: f[s], together)
        assert max(errors(found, alone[s]).values()) < 1e-6


def test_second_derivatives_are_those_of_the_fused_path():
    """Of the loss and of the norm of its gradient; refused where gradients are stopped."""
    x = inputs(4)
    models = [recurrence(CELLS["rnn"], backend) for backend in ("kernel", "fused")]
    with routes.use(routes.Route("emulated")):
        params = models[0].init(jax.random.key(0), x)

        def penalty(params, model):
            gradient = jax.grad(lambda p: weighted(model.apply(p, x).last))(params)
            return sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))

        run = jax.jit(lambda params: [jax.grad(penalty)(params, model) for model in models])
        found, reference = run(params)
        stopped = recurrence(CELLS["rnn"], "kernel", truncate_steps=2)
        with pytest.raises(UserError, match="second derivatives"):
            jax.grad(penalty)(params, stopped)
    assert max(errors(found, reference).values()) < 1e-3


# ---- Threads ------------------------------------------------------------------------------------


def arrays(code, call, members=2):
    """Inputs of both kernels and shapes of their results: random ones, with every control."""
    rng = np.random.default_rng(3)
    d, k, n = code.units, code.units * code.gates, len(code.fields)

    def floats(*shape):
        return rng.standard_normal((members, *shape)).astype(np.float32)

    def bits(*shape):
        chosen = [bit for bit in BITS.values() if call.controls & bit]
        found = np.zeros((members, *shape), np.uint8)
        for bit in chosen:
            found |= ((rng.random(found.shape) < 0.3) * bit).astype(np.uint8)
        return found

    t, b = call.steps, call.rows
    state, steps, z = (b, d), (t, b, d), (t, b, k)
    mask, skip = bits(t, b), (rng.random((members, t, call.tiles)) < 0.5).astype(np.uint8)
    weights = floats(len(code.entering) * d, k) / np.sqrt(d).astype(np.float32)
    n_in = call.narrow or k
    given = [floats(t, b, n_in), floats(call.narrow or 1, k), floats(k), weights]
    forward = [*given, floats(k), *(floats(*state) for _ in range(2 * n)), mask]
    backward = [*given, floats(*z), *(floats(*steps) for _ in range(n))]
    backward += [*(floats(*state) for _ in range(n)), *(floats(*steps) for _ in range(n))]
    backward += [np.full((members, 1), 3, np.float32), mask, skip]

    def shapes(*given):
        return [jax.ShapeDtypeStruct((members, *shape), np.float32) for shape in given]

    results = shapes(*[steps] * n, *[state] * n, *[steps] * n, z), shapes(z, z, *[state] * 2 * n)
    return (forward, backward), results


def in_orders(code, call, text="", which=(False, True)):
    """All that a kernel writes, by order of the threads."""
    given, shapes = arrays(code, call)
    return {
        backward: [
            emulate.run(
                *(code, call, backward, given[backward], shapes[backward]),
                *({4: 0} if backward else {}, order, text),
            )
            for order in emulate.ORDERS
        ]
        for backward in which
    }


def agree(found):
    return [
        all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found[0], other, strict=True))
        for other in found[1:]
    ]


CALL = CallCode(9, 12, controls=31, skips=True, every=1, bias=True, narrow=2)


def code_of(units=40, **cell):
    return cell_code(make_cell({"hidden_size": units, **cell}))


def changed(text, old, new):
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize("cell", ["rnn", *(by_hand(name) for name in CELLS if name != "rnn")])
def test_the_order_of_threads_is_nothing(cell):
    """To the last bit, in orders that are as bad as barriers let them be."""
    code = code_of(**({"chrono_t_max": 20} | CELLS[cell]))
    for backward, found in in_orders(code, CALL).items():
        assert all(agree(found)), backward
        needed = found[0] if not code.additive or not backward else [found[0][0], *found[0][2:]]
        assert not any(np.isnan(a).any() for a in needed)


def test_a_race_is_caught():
    """Buffers that change places with every step: a step without a product has no barrier."""
    code = code_of(cell="rnn")
    racing = changed(for_cpu(code), "dz_h + buffer * 8", "dz_h + (t & 1) * 8")
    found = in_orders(code, CALL, racing, [True])[True]
    assert not all(agree(found))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backward", "old", "new"),
    [
        (False, "    BARRIER;\n  }\n}\n\n// From the last", "  }\n}\n\n// From the last"),
        (True, "      BARRIER;\n      buffer ^= 1;", "      buffer ^= 1;"),
        (True, "      pair_barrier(pair);\n", ""),
    ],
)
def test_a_barrier_that_lacks_is_caught(backward, old, new):
    code = code_of(cell="rnn")
    found = in_orders(code, CALL, changed(for_cpu(code), old, new), [backward])[backward]
    assert not all(agree(found))


def test_numbers_beyond_half_precision_saturate():
    """Neither infinity nor NaN comes of what a float holds and fp16 does not."""
    code = code_of(16, cell="rnn", activation="relu")
    call = CallCode(steps=2, rows=3)
    (forward, _), (shapes, _) = arrays(code, call, 1)
    forward[0] *= 1e6
    *found, kept = emulate.run(code, call, False, forward, shapes, {})
    assert np.isfinite(kept).all() and np.abs(found[0]).max() > 65504
    forward[0][0, 0, 0, 0] = np.nan
    *_, kept = emulate.run(code, call, False, forward, shapes, {})
    assert np.isnan(kept[0, 1, 0]).all() and np.isfinite(kept[0, 1, 1:]).all()


# ---- What it does not take ------------------------------------------------------------------


def test_what_it_does_not_take():
    def why(**cell):
        with pytest.raises(source.UnsupportedError) as error:
            code_of(**cell)
        return str(error.value)

    assert why(cell="gated_gru") == "its step is not update(carry, zx, zh) of a single product"
    assert "gates are not all as wide" in why(cell="onlstm", chunk_size=2)
    assert "129 units" in why(cell="lstm", units=129)
    assert "layer_norm" in why(cell="lstm", layer_norm=True)


def test_zoneout_is_left_to_the_fused_path(caplog):
    tell_once.cache_clear()
    model = recurrence({"cell": "gru"}, "kernel", zoneout_h=0.3)
    other = recurrence({"cell": "gru"}, "fused", zoneout_h=0.3)
    x = inputs(3)
    with routes.use(routes.Route("emulated")):
        params = model.init(jax.random.key(0), x)
        found = drawing(model, params, x, draws()).last
    np.testing.assert_array_equal(found, drawing(other, params, x, draws()).last)
    assert caplog.messages == ["model.backend=kernel: it has no zoneout; fused takes its place"]


def test_without_a_gpu_the_next_backend_takes_its_place(caplog):
    tell_once.cache_clear()
    cell = make_cell({"cell": "lstm", "hidden_size": 7})
    assert choose_backend("kernel", cell) == "fused"
    assert choose_backend("auto", cell) == "fused"
    assert caplog.messages == [
        "model.backend=kernel cannot run LSTMCell: JAX runs on the cpu, and it is for a GPU; fused"
        " takes its place"
    ]
