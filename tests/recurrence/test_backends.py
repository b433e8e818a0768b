"""Every backend against the scan: results and all gradients, to 1e-10 in float64."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import bfloat16_dot, make_cell
from lrd_jax.cells.base import to_real
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Recurrence, fused
from lrd_jax.recurrence.controls import Controls
from lrd_jax.recurrence.options import Options
from lrd_jax.recurrence.unroll import BACKENDS, choose_backend, unroll
from tests.recurrence.linear_cells import LINEAR
from tests.recurrence.recurrence_cases import (
    ALL,
    FEW,
    POINTWISE,
    B,
    D,
    N,
    T,
    assert_close,
    build,
    cell_of,
    drawing,
    draws,
    has_memory,
    inputs,
    random_tree,
    thinned,
    weighted,
)

LENGTHS = (T, 3, 1)
RESETS = np.zeros((B, T), bool)
RESETS[0, [2, 5]] = RESETS[1, [0, 1, 4]] = True
PATHS = {name: {"backend": name} for name in BACKENDS}
PATHS["recompute"] = {"backend": "fused", "recompute": True}

# Options of the recurrence, `lengths`, and `initial`: the state before the first step is given.
OPTIONS = {
    "plain": {},
    "h_detach": {"p_block": 0.4},
    "h_detach-all": {"p_block": 1.0},
    "h_detach-example": {"p_block": 0.4, "mask_scope": "example", "initial": True},
    "c_detach": {"c_block": 0.4, "initial": True},
    "both-example": {"p_block": 0.3, "c_block": 0.5, "mask_scope": "example"},
    "zoneout": {"zoneout_h": 0.4, "zoneout_c": 0.3, "initial": True},
    "dropconnect": {"recurrent_dropconnect": 0.4, "num_layers": 2},
    "zoneout-everything": {
        "zoneout_h": 0.4,
        "zoneout_c": 0.3,
        "recurrent_dropconnect": 0.3,
        "bidirectional": True,
        "num_layers": 2,
        "p_block": 0.4,
        "c_block": 0.4,
        "truncate_steps": 3,
        "lengths": LENGTHS,
        "resets": RESETS,
    },
    "truncate": {"truncate_steps": 3},
    "truncate-1": {"truncate_steps": 1, "initial": True},
    "lengths": {"lengths": LENGTHS, "initial": True},
    "lengths-truncate-detach": {
        "lengths": LENGTHS,
        "truncate_steps": 2,
        "p_block": 0.4,
        "c_block": 0.4,
        "mask_scope": "example",
    },
    "resets": {"resets": RESETS, "initial": True},
    "resets-truncate-detach": {
        "resets": RESETS,
        "lengths": LENGTHS,
        "truncate_steps": 2,
        "p_block": 0.4,
        "c_block": 0.4,
    },
    "resets-everything": {
        "resets": RESETS,
        "bidirectional": True,
        "num_layers": 2,
        "dropout": 0.3,
        "p_block": 0.4,
        "c_block": 0.4,
        "mask_scope": "example",
        "truncate_steps": 3,
        "truncate_from": "start",
        "learn_initial": True,
        "lengths": (T, 5, 1),
    },
    "stack": {"num_layers": 2, "dropout": 0.5, "learn_initial": True},
    "stack-per_layer": {
        "num_layers": 2,
        "dropout": 0.5,
        "p_block": 0.5,
        "c_block": 0.3,
        "stack_mask": "per_layer",
    },
    "bidirectional": {"bidirectional": True, "initial": True},
    "everything": {
        "bidirectional": True,
        "num_layers": 2,
        "dropout": 0.3,
        "p_block": 0.4,
        "c_block": 0.4,
        "mask_scope": "example",
        "stack_mask": "per_layer",
        "truncate_steps": 3,
        "learn_initial": True,
        "lengths": LENGTHS,
    },
}


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Two whole stretches and a part of one, in sequences of seven steps."""
    monkeypatch.setattr(fused, "_STRETCH", 3)


def without_c(name, options):
    """The options that this cell has."""
    lacks = set() if has_memory(name) else {"c_block", "zoneout_c"}
    lacks |= {"p_block", "zoneout_h", "recurrent_dropconnect"} if name in LINEAR else set()
    return {k: v for k, v in options.items() if k not in lacks}


def results(name, options, vmap=False):
    """Per path that runs the cell: all that the recurrence returns, and gradients of a sum."""
    options = dict(without_c(name, options))
    lengths = options.pop("lengths", None)
    lengths = None if lengths is None else jnp.array(lengths)
    resets = options.pop("resets", None)
    call = {"lengths": lengths, "resets": None if resets is None else jnp.array(resets)}
    paths = {
        path: settings
        for path, settings in PATHS.items()
        if not BACKENDS[settings["backend"]].refuses(
            cell_of(name), Options(settings.get("recompute", False))
        )
    }
    given = options.pop("initial", False)
    _, params = build(name, **options)
    x = inputs()
    if vmap:
        params, x = random_tree((jax.tree.map(lambda p: jnp.stack([p, p]), (params, x))), 3, 0.7)

    def run(params, x, initial):
        found = {}
        for path in paths:
            model, _ = build(name, **options, **paths[path])

            def loss(params, x, initial, model=model):
                out = drawing(model, params, x, draws(2), initial=initial, **call)
                out = jax.tree.map(to_real, out._replace(resets=None))
                return weighted(out), out

            gradient = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
            found[path] = gradient(params, x, initial)
        return found

    initial = None
    if given:
        cells = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
        zero = cell_of(name).initialize_carry(None, (2, B, N) if vmap else (B, N))
        initial = random_tree((zero,) * cells, 4)
    if vmap:
        run = jax.vmap(run, (0, 0, None if initial is None else 0))
    return jax.jit(run)(params, x, initial)


def check(name, options, vmap=False):
    found = results(name, options, vmap=vmap)
    reference = found.pop("scan")
    # The loss does reach the weights. (A mean forgets its start: at step 0 its share is nothing.)
    gradients = reference[0][0]["params"]["layer_0"]
    assert max(np.abs(g).max() for g in jax.tree.leaves(gradients)) > 1e-3
    assert found
    for path in found.values():
        assert_close(path, reference, 1e-10)


FAST = [(name, "lengths-truncate-detach") for name in ("lstm", "gru", "urlstm")]
FAST += [("lstm", "plain"), ("urlstm", "c_detach")]
FAST += [("gru", "h_detach-example"), ("rnn", "truncate-1")]
FAST += [("lstm", "resets-everything"), ("gru", "resets"), ("urlstm", "resets-truncate-detach")]
FAST += [("urlstm", "zoneout-everything"), ("gru", "zoneout"), ("lstm", "dropconnect")]
FAST += [("complex", "lengths-truncate-detach")]


@pytest.mark.parametrize(("name", "option"), FAST)
def test_equal(name, option, x64):
    check(name, OPTIONS[option])


@pytest.mark.parametrize(("name", "option"), thinned((*POINTWISE, *LINEAR), OPTIONS, FAST))
def test_equal_in_full(name, option, x64):
    check(name, OPTIONS[option])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("lstm", "h_detach"),
        *(pytest.param(n, "everything", marks=pytest.mark.slow) for n in FEW),
    ],
)
def test_equal_under_vmap(name, option, x64):
    """The axis of seeds: parameters and inputs of each seed differ."""
    check(name, OPTIONS[option], vmap=True)


def test_vmapped_seed_is_its_own_run(x64):
    """Every seed of a vmapped call equals a call with that seed alone."""
    model, params = build("urlstm", p_block=0.5)
    params = random_tree(jax.tree.map(lambda p: jnp.stack([p, p]), params), 3)

    def gradient(params, x):
        return jax.grad(lambda p: weighted(drawing(model, p, x, draws())))(params)

    together = jax.jit(jax.vmap(gradient, (0, None)))(params, inputs())
    for seed in range(2):
        alone, found = (jax.tree.map(lambda g, s=seed: g[s], t) for t in (params, together))
        assert_close(found, jax.jit(gradient)(alone, inputs()), 1e-12)


@pytest.mark.slow
def test_without_jit(x64):
    """Eager evaluation gives the same as compiled."""
    model, params = build("lstm", p_block=0.5, backend="fused")

    def loss(params):
        return weighted(drawing(model, params, inputs(), draws()))

    assert_close(jax.grad(loss)(params), jax.jit(jax.grad(loss))(params), 1e-12)


@pytest.mark.parametrize("part", ["outputs", "last", "states", "final"])
def test_gradient_of_one_result(part, x64):
    """The fused path skips cotangents that are zero by construction: each result on its own."""

    def gradient(backend):
        model, params = build("lstm", backend=backend)
        return jax.jit(jax.grad(lambda p: weighted(getattr(model.apply(p, inputs()), part))))(
            params
        )

    assert_close(gradient("fused"), gradient("scan"), 1e-12)


def step_by_step(model, params, x):
    """ORC-09: `cell.apply`, with its own projection, one step at a time; one layer."""
    cell = model.cell
    weights = {"params": params["params"]["layer_0"]}
    carry = cell.initialize_carry(jax.random.key(0), (B, N))
    outputs = []
    for t in range(x.shape[1]):
        carry, h = cell.apply(weights, carry, x[:, t])
        outputs.append(h)
    return jnp.stack(outputs, axis=1), carry


@pytest.mark.parametrize("name", ["gru", *(pytest.param(n, marks=pytest.mark.slow) for n in ALL)])
def test_orc_09_hoisted_projection(name, x64):
    """Outputs, last state and gradient of the hoisted form equal those of single steps."""
    x = inputs()[:, :3]
    for backend in ("scan", "fused") if name in POINTWISE else ("scan",):
        model, params = build(name, backend=backend)

        def hoisted(params, model=model):
            out = model.apply(params, x)
            return weighted((out.outputs, out.final[0])), (out.outputs, out.final[0])

        def stepwise(params, model=model):
            found = step_by_step(model, params, x)
            return weighted(found), found

        (gradient, result), (gradient_, result_) = (
            jax.jit(jax.grad(f, has_aux=True))(params) for f in (hoisted, stepwise)
        )
        assert_close(result, result_, 1e-12)
        assert_close(gradient, gradient_, 1e-10)


def test_auto_is_fused_where_it_can_be():
    for name, config in ALL.items():
        cell = make_cell({"hidden_size": D, "chrono_t_max": 20, **config})
        assert choose_backend("auto", cell) == ("fused" if name in POINTWISE else "scan")
        if name not in POINTWISE:
            with pytest.raises(UserError, match=r"model\.backend=scan"):
                choose_backend("fused", cell)
    with pytest.raises(UserError, match="auto, linear, fused, scan"):
        choose_backend("fastest", make_cell({"cell": "rnn", "hidden_size": D}))


def test_c_detach_needs_a_memory():
    model = Recurrence(make_cell({"cell": "gru", "hidden_size": D}), c_block=0.5)
    with pytest.raises(UserError, match="c_block"):
        model.check()


# ---- The work inside the backward loop -------------------------------------------------------


def loop_products(backend, recompute=False):
    """Matrix products inside the loops of the compiled gradient's program, by shape of result."""
    model, params = build("lstm", jnp.float32, backend=backend, recompute=recompute)
    x = inputs(dtype=jnp.float32)
    gradient = jax.grad(lambda p, x: (model.apply(p, x).last ** 2).sum())
    program = jax.make_jaxpr(gradient)(params, x)
    shapes = []

    def visit(jaxpr, inside):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general" and inside:
                shapes.append(equation.outvars[0].aval.shape)
            loop = inside or equation.primitive.name == "scan"
            for value in equation.params.values():
                for sub in value if isinstance(value, (tuple, list)) else (value,):
                    sub = getattr(sub, "jaxpr", sub)
                    if hasattr(sub, "eqns"):
                        visit(sub, loop)

    visit(program.jaxpr, False)
    return sorted(shapes)


def test_fused_loop_holds_one_product_per_direction():
    """No weight gradient, (D, 4 D) per step, inside the loop: what the fused path is for."""
    forward, backward = (B, 4 * D), (B, D)
    assert loop_products("fused") == sorted([forward, backward])
    # The second: of the last, shorter stretch. Pre-activations come back in one product of each.
    again = loop_products("fused", recompute=True)
    assert again.count(forward) == 1
    assert again.count(backward) == 2
    assert (3, *forward) in again
    assert any(D in shape and 4 * D in shape for shape in loop_products("scan"))


LOOPS = [("everything", "lstm", False), ("plain", "gru", False), ("plain", "urlstm", True)]


@pytest.mark.parametrize(
    ("option", "name", "vmap"),
    [
        pytest.param(*case, marks=() if case in LOOPS else pytest.mark.slow)
        for case in itertools.product(("plain", "everything"), FEW, (False, True))
    ],
)
def test_no_loop_copies_what_is_stored(name, option, vmap):
    """XLA writes the stacked arrays in place; copying one at each step would be quadratic in T."""
    options = dict(without_c(name, OPTIONS[option]))
    lengths = options.pop("lengths", None)
    model, params = build(name, jnp.float32, backend="fused", **options)
    x = inputs(dtype=jnp.float32)

    def loss(params, x):
        out = drawing(model, params, x, draws(), lengths=lengths and jnp.array(lengths))
        return (out.last**2).sum()

    gradient = jax.grad(loss)
    if vmap:
        gradient = jax.vmap(gradient, (0, None))
        params = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    program = jax.jit(gradient).lower(params, x).compile().as_text()
    bodies = set(re.findall(r"body=%?([\w.-]+)", program))
    found = 0
    for computation in re.split(r"\n(?=\S)", program):
        if (start := re.match(r"%?([\w.-]+) \(", computation)) and start[1] in bodies:
            found += 1
            for copied in re.findall(r"= f32\[([\d,]+)\]\S* copy\(", computation):
                assert math.prod(map(int, copied.split(","))) < T * B * D, copied
    assert found >= 2  # forward and backward


# ---- bfloat16 products -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_bfloat16_products(name):
    """State and results stay float32; results within 1 %, gradients within 3 % of float32.

    bfloat16 keeps 8 bits: a relative rounding error of 2^-9 = 0.2 % per operand.
    """
    x = inputs(dtype=jnp.float32)

    def gradient(backend, dot):
        model, params = build(name, jnp.float32, backend=backend, p_block=0.3)
        model = model.clone(cell=model.cell.clone(dot=dot))

        def loss(params):
            out = drawing(model, params, x, draws())
            return (out.outputs**2).sum(), out

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    def distance(a, b):
        a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)]) for t in (a, b))
        return np.linalg.norm(a - b) / np.linalg.norm(b)

    exact_gradient, exact = gradient("scan", jnp.matmul)
    rounded = {backend: gradient(backend, bfloat16_dot) for backend in ("scan", "fused")}
    for found_gradient, found in rounded.values():
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((found, found_gradient)))
        assert 1e-5 < distance(found, exact) < 0.01
        assert 1e-5 < distance(found_gradient, exact_gradient) < 0.03
    assert distance(rounded["fused"][1], rounded["scan"][1]) < 1e-4
    assert distance(rounded["fused"][0], rounded["scan"][0]) < 0.03


def test_unroll_takes_controls_by_example_and_by_step(x64):
    """The mask of a step for all examples equals the same mask given to each example."""
    model, params = build("lstm")
    cell = model.cell
    weights = {"params": params["params"]["layer_0"]}
    x = jnp.swapaxes(inputs(), 0, 1)
    mask = jnp.arange(T) % 3 == 1
    carry = cell.initialize_carry(jax.random.key(0), (B, N))
    for backend in ("scan", "fused"):

        def gradient(mask, backend=backend):
            def loss(weights):
                out = cell.apply(
                    weights,
                    carry,
                    x,
                    Controls(mask, mask, mask, None),
                    backend,
                    method=lambda cell, *a: unroll(cell, *a),
                )
                return weighted(out)

            return jax.grad(loss)(weights)

        each = jnp.broadcast_to(mask[:, None], (T, B))
        assert_close(jax.jit(gradient)(mask), jax.jit(gradient)(each), 1e-12)
