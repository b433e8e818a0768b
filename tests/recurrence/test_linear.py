"""The parallel path against single steps of the same cell, and what a linear cell refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import CELLS, LinearCell, bfloat16_dot
from lrd_jax.errors import UserError
from lrd_jax.models.decoder import Decoder
from lrd_jax.models.sequence import Head
from lrd_jax.recurrence import Recurrence
from tests.recurrence.linear_cells import LINEAR, ComplexCell, MinGRUCell
from tests.recurrence.recurrence_cases import (
    B,
    N,
    T,
    assert_close,
    drawing,
    draws,
    inputs,
    random_tree,
    weighted,
)

D = 4
RESETS = np.zeros((B, T), bool)
RESETS[0, [2, 5]] = RESETS[1, [0, 1]] = True

OPTIONS = {
    "plain": {},
    "truncate": {"truncate_steps": 3},
    "lengths": {"lengths": (T, 3, 1), "initial": True},
    "resets": {"resets": RESETS, "learn_initial": True, "initial": True},
    "everything": {
        "num_layers": 2,
        "bidirectional": True,
        "dropout": 0.4,
        "learn_initial": True,
        "truncate_steps": 2,
        "lengths": (T, 4, 1),
        "resets": RESETS,
    },
}


SHIPPED = {f"shipped {name}": CELLS[name] for name in ("mingru", "minlstm", "lru", "s5")}


def both(name, options, dtype, x, seed=0):
    """Per backend: all that the recurrence returns, and all gradients of a sum over it."""
    options = dict(options)
    lengths, resets = options.pop("lengths", None), options.pop("resets", None)
    call = {
        "lengths": None if lengths is None else jnp.array(lengths),
        "resets": None if resets is None else jnp.array(resets),
    }
    given = options.pop("initial", False)
    cell = (LINEAR | SHIPPED)[name](D, param_dtype=dtype)
    models = {path: Recurrence(cell, backend=path, **options) for path in ("scan", "linear")}
    shapes = jax.eval_shape(models["scan"].init, jax.random.key(0), x)
    params = random_tree(shapes, seed, 0.5)
    initial = None
    if given:
        one = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
        initial = (random_tree(one, 4),) * count

    def loss(params, x, initial, model):
        out = drawing(model, params, x, draws(2), initial=initial, **call)
        out = out._replace(resets=None)
        return weighted(jax.tree.map(lambda leaf: jnp.abs(leaf + 0.3), out)), out

    def gradient(path):
        found = jax.grad(loss, (0, 1), has_aux=True, allow_int=True)
        start = jax.grad(lambda i: loss(params, x, i, models[path])[0].real) if given else None
        run = jax.jit(lambda params, x: found(params, x, initial, models[path]))
        return run(params, x), start and jax.jit(start)(initial)

    return gradient("scan"), gradient("linear")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("averaging", "everything"),
        ("complex", "everything"),
        ("mingru", "lengths"),
        *(pytest.param(n, o, marks=pytest.mark.slow) for n in LINEAR for o in OPTIONS),
    ],
)
def test_equals_single_steps(name, option, x64):
    scan, linear = both(name, OPTIONS[option], jnp.float64, inputs())
    assert_close(linear, scan, 1e-10)
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(scan[0][0])) > 1e-2


@pytest.mark.parametrize("name", ["mingru", "complex", *SHIPPED])
def test_long_sequences_in_single_precision(name):
    """T = 784: relative 1e-5 in values and gradients, under truncation, padding and resets."""
    rng = np.random.default_rng(3)
    x = jnp.array(rng.standard_normal((2, 784, N)), jnp.float32)
    resets = rng.random((2, 784)) < 0.005
    options = {
        "truncate_steps": 100,
        "lengths": (784, 500),
        "resets": resets,
        "learn_initial": True,
    }
    scan, linear = both(name, options, jnp.float32, x)
    for (path, a), b in zip(jax.tree.leaves_with_path(linear), jax.tree.leaves(scan), strict=True):
        distance = np.linalg.norm(np.ravel(a - b)) / max(1e-30, np.linalg.norm(np.ravel(b)))
        assert distance < 1e-5, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_second_derivatives(x64):
    """A parallel scan is differentiated like the loop: here along a direction, truncated."""
    cell = MinGRUCell(3, param_dtype=jnp.float64)
    models = [Recurrence(cell, backend=path, truncate_steps=3) for path in ("scan", "linear")]
    params = random_tree(models[0].init(jax.random.key(0), inputs()), 0, 0.5)
    direction = random_tree(params, 1)

    def product(model, params):
        def loss(params):
            return (model.apply(params, inputs()).outputs ** 2).sum()

        forward = jax.jvp(jax.grad(loss), (params,), (direction,))[1]
        inner = jax.grad(
            lambda p: sum(
                (a * b).sum()
                for a, b in zip(*map(jax.tree.leaves, (jax.grad(loss)(p), direction)), strict=True)
            )
        )
        return forward, inner(params)

    scan, linear = (jax.jit(product, static_argnums=0)(model, params) for model in models)
    assert_close(linear, scan, 1e-10)


def test_under_vmap(x64):
    """The axis of seeds."""
    model = Recurrence(MinGRUCell(3, param_dtype=jnp.float64), truncate_steps=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs())
    params = random_tree(jax.tree.map(lambda p: jnp.stack([p, p]), shapes_to_zeros(shapes)), 0, 0.5)

    def gradient(params):
        return jax.grad(lambda p: weighted(model.apply(p, inputs())))(params)

    together = jax.jit(jax.vmap(gradient))(params)
    for seed in range(2):
        one, found = (jax.tree.map(lambda g, s=seed: g[s], t) for t in (params, together))
        assert_close(found, jax.jit(gradient)(one), 1e-12)


def shapes_to_zeros(shapes):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


@pytest.mark.slow
def test_inside_stock_flax_and_step_by_step():
    cell = MinGRUCell(D)
    rnn = nn.RNN(cell)
    x = inputs(dtype=jnp.float32)
    variables = rnn.init(jax.random.key(0), x)
    model = Recurrence(cell)
    ours = {"params": {"layer_0": variables["params"]["cell"]}}
    out = model.apply(ours, x)
    np.testing.assert_allclose(out.outputs, rnn.apply(variables, x), rtol=0, atol=1e-6)
    carries = model.apply(ours, B, method="initial_carry")
    for t in range(T):
        carries = model.apply(ours, carries, x[:, t], method="advance")
    assert_close(carries, out.final, 1e-6)


def test_parameters_are_real_and_no_product_of_the_state():
    x = inputs(dtype=jnp.float32)
    for name, cell in LINEAR.items():
        params = Recurrence(cell(D), learn_initial=True).init(jax.random.key(0), x)["params"]
        assert "recurrent_kernel" not in params["layer_0"]
        assert "initial_0_h" not in params  # no step would read it
        assert params["initial_0_s"].shape == ((3, 2) if name == "complex" else (D,))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p_block": 0.1}, "p_block=0.1.*product of the state.*set it to 0"),
        ({"c_block": 0.1}, "c_block=0.1.*memory c"),
        ({"backend": "fused"}, "fused cannot run MinGRUCell.*use model.backend=linear"),
    ],
)
def test_what_it_refuses(options, words):
    with pytest.raises(UserError, match=words) as error:
        Recurrence(MinGRUCell(D), **options).check()
    assert "\n" not in str(error.value)


def test_bfloat16_products_are_refused():
    from lrd_jax.models import build

    model = {"cell": "tested", "hidden_size": D, "compute_dtype": "bfloat16"}
    CELLS["tested"] = MinGRUCell
    try:
        with pytest.raises(UserError, match="compute_dtype=bfloat16"):
            build._make_cell(model, 1)
    finally:
        CELLS.pop("tested")
    assert bfloat16_dot is not LinearCell.dot


@pytest.mark.slow
def test_windows_run_again_and_a_decoder_of_another_width(x64):
    """What auxiliary losses ask of a recurrence, with a complex state."""
    model = Recurrence(ComplexCell(D, param_dtype=jnp.float64), learn_initial=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs())
    params = random_tree(shapes, 0, 0.5)
    whole = model.apply(params, inputs())
    starts = jnp.array([0, 3])
    windows = jnp.concatenate([inputs()[:, :4], inputs()[:, 3:]])
    drawn = model.draw(None, T, B)
    again = model.apply(params, windows, whole, starts, drawn, method="rerun")
    expected = jnp.concatenate([whole.outputs[:, :4], whole.outputs[:, 3:]])
    assert_close(again.outputs, expected, 1e-12)

    for width in (D, 6):
        decoder = Decoder(Recurrence(ComplexCell(width)), Head((), 2), D)
        variables = decoder.init(jax.random.key(0), whole.final[0], inputs())

        def loss(state, decoder=decoder, variables=variables):
            return (decoder.apply(variables, state, inputs()) ** 2).sum()

        gradient = jax.grad(lambda s: loss(whole.final[0]._replace(s=s)))(whole.final[0].s)
        assert jnp.abs(gradient).min() > 1e-6 and gradient.shape == (B, 3)
    # Three complex numbers as pairs, in and out; the output is no state.
    assert variables["params"]["projection"]["kernel"].shape == (6, 6)
