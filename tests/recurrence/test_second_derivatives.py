"""Derivatives of the fused path's gradient, against JAX's own of the scan path, in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import make_cell
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Recurrence, fused
from tests.recurrence.recurrence_cases import (
    ALL,
    FEW,
    POINTWISE,
    assert_close,
    drawing,
    draws,
    random_tree,
    thinned,
)

slow = pytest.mark.slow
B, T, D = 2, 5, 4  # of the recurrences here
NARROW, WIDE = 2, 6  # input features: projected in the loop, before it
LENGTHS = (T, 2)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """With `recompute`: two whole stretches and a rest."""
    monkeypatch.setattr(fused, "_STRETCH", 2)


class Point(NamedTuple):
    """What is differentiated with respect to."""

    params: dict
    x: jax.Array
    initial: tuple | None


def build(name, features=NARROW, **options):
    """`run(point)` of a recurrence, and a generic point with an initial state per cell."""
    lengths = options.pop("lengths", None)
    cell = make_cell({"hidden_size": D, "chrono_t_max": 20, **ALL[name]})
    model = Recurrence(cell=cell.clone(param_dtype=jnp.float64), **options)
    x = jnp.zeros((B, T, features))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    carry = jax.eval_shape(lambda p: model.apply(p, x, deterministic=True).final, shapes)
    initial = None if model.learn_initial else random_tree(carry, 4)
    point = Point(random_tree(shapes, 0, 0.7), random_tree(x, 1), initial)

    def run(point):
        valid = None if lengths is None else jnp.array(lengths)
        return drawing(model, point.params, point.x, draws(2), initial=point.initial, lengths=valid)

    return run, point


def loss_on(parts, run):
    """A loss whose gradient at each result named in `parts` depends on that result."""

    def loss(point):
        out = run(point)
        leaves = jax.tree.leaves([getattr(out, part) for part in parts])
        rng = np.random.default_rng(5)
        return sum((rng.standard_normal(leaf.shape) * jnp.sin(3 * leaf)).sum() for leaf in leaves)

    return loss


def forward_over_reverse(loss, point, direction):
    return jax.jvp(jax.grad(loss), (point,), (direction,))[1]


def reverse_over_reverse(loss, point, direction):
    return jax.vjp(jax.grad(loss), point)[1](direction)[0]


def penalty(loss, point, direction):
    """Gradient of a squared gradient norm, as in a gradient penalty."""
    del direction

    def squared_norm(point):
        return sum((g**2).sum() for g in jax.tree.leaves(jax.grad(loss)(point)))

    return jax.grad(squared_norm)(point)


EVERYTHING = ("outputs", "last", "states", "final")
# What each loss leaves out is a cotangent that is zero by construction.
CASES = {
    "plain": ({}, ("last",)),
    "wide": ({"features": WIDE}, ("outputs",)),
    "lengths": ({"lengths": LENGTHS}, EVERYTHING),
    "recompute": ({"recompute": True}, ("final",)),
    "recompute-wide-lengths": (
        {"recompute": True, "features": WIDE, "lengths": LENGTHS},
        EVERYTHING,
    ),
    "stack": (
        {
            "num_layers": 2,
            "bidirectional": True,
            "learn_initial": True,
            "dropout": 0.5,
            "lengths": LENGTHS,
        },
        EVERYTHING,
    ),
}
FAST = [("urlstm", "recompute-wide-lengths")]
FULL = thinned(FEW, CASES, FAST, every=2)
# The sub-gates' margin wants three units in a chunk; here are four.
OTHERS = [n for n in POINTWISE if n not in FEW and not (n.startswith("UM") and n.endswith("-2"))]
FULL += thinned(OTHERS, ["lengths"])


def check(name, case, products, vmap=False):
    """Compares derivatives of the gradient, along one direction in all that it depends on."""
    options, parts = CASES[case]

    @jax.jit
    def both(point, direction):
        def along(backend, product):
            loss = loss_on(parts, build(name, backend=backend, **options)[0])
            of = functools.partial(product, loss)
            return (jax.vmap(of) if vmap else of)(point, direction)

        return along("scan", products[0]), [along("fused", product) for product in products]

    point = build(name, **options)[1]
    if vmap:
        point = random_tree(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), point), 3, 0.7)
    expected, found = both(point, random_tree(point, 6))
    for leaf in jax.tree.leaves(expected):
        assert np.abs(leaf).max() > 1e-5, "nothing to compare"
    for derivative in found:
        assert_close(derivative, expected, 1e-10)


@pytest.mark.parametrize(("name", "case"), FAST)
def test_products_with_the_hessian(name, case, x64):
    """In either mode; with respect to parameters, inputs and the first state at once.

    The Hessian is symmetric: both products are the scan path's.
    """
    check(name, case, (forward_over_reverse, reverse_over_reverse))


@pytest.mark.parametrize(("name", "case"), FULL)
def test_products_in_full(name, case, x64):
    check(name, case, (forward_over_reverse, reverse_over_reverse))
    check(name, case, (penalty,))


@pytest.mark.parametrize(
    ("name", "case"),
    [("lstm", "plain"), *(pytest.param(n, "lengths", marks=slow) for n in FEW)],
)
def test_gradient_penalty_under_vmap(name, case, x64):
    """The axis of seeds: parameters, inputs and states of each seed differ."""
    check(name, case, (penalty,), vmap=True)


@pytest.mark.parametrize("name", ["gru", *(pytest.param(n, marks=slow) for n in FEW)])
def test_hessian(name, x64):
    """`jax.hessian`, a `vmap` of forward over reverse; with respect to inputs and first state."""

    @jax.jit
    def both(point):
        def hessian(backend):
            loss = loss_on(("outputs",), build(name, backend=backend)[0])
            return jax.hessian(lambda x, h: loss(point._replace(x=x, initial=h)), (0, 1))(
                point.x, point.initial
            )

        return {backend: hessian(backend) for backend in ("scan", "fused")}

    found = both(build(name)[1])
    assert_close(found["fused"], found["scan"], 1e-10)
    assert np.abs(found["scan"][0][0]).max() > 1e-3


def test_third_derivative(x64):
    """The plain form is made of what JAX differentiates to any order."""

    @jax.jit
    def both(point, direction):
        def third(backend):
            loss = loss_on(("last",), build("rnn", backend=backend)[0])
            second = functools.partial(reverse_over_reverse, loss, direction=direction)
            return jax.jvp(second, (point,), (direction,))[1]

        return third("fused"), third("scan")

    point = build("rnn")[1]
    assert_close(*both(point, random_tree(point, 6)), 1e-10)


# ---- What is refused --------------------------------------------------------------------------

STOPS = {
    "h_detach": {"p_block": 0.5},
    "c_detach": {"c_block": 0.5, "mask_scope": "example"},
    "truncation": {"truncate_steps": 2},
}


def value_of_a_pullback(loss, point, direction):
    """The loss that comes with a pullback nobody calls: the forward pass alone, twice over."""
    del direction
    return jax.grad(lambda point: jax.vjp(loss, point)[0])(point)


def hessian(loss, point, direction):
    del direction
    return jax.hessian(lambda x: loss(point._replace(x=x)))(point.x)


def compiled_penalty(loss, point, direction):
    return penalty(jax.jit(loss), point, direction)


REFUSED = [
    forward_over_reverse,
    reverse_over_reverse,
    penalty,
    compiled_penalty,
    hessian,
    value_of_a_pullback,
]


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("recompute", [False, True])
def test_refused_where_gradients_are_stopped(stop, recompute, x64):
    """They would differ from the scan path's, silently. Abstract evaluation runs every rule."""
    run, point = build("lstm", backend="fused", recompute=recompute, **STOPS[stop])
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), point)
    for product in REFUSED:
        of = functools.partial(product, loss_on(("last",), run))
        for call, args in ((of, (point, point)), (jax.vmap(of), (seeds, seeds))):
            with pytest.raises(UserError, match='backend="scan"') as refused:
                jax.eval_shape(call, *args)
            assert "\n" not in str(refused.value)


def test_value_of_a_pullback(x64):
    """Where it is not refused, it is the gradient."""
    run, point = build("rnn", backend="fused")
    loss = loss_on(("last",), run)
    found = jax.jit(lambda point: (value_of_a_pullback(loss, point, point), jax.grad(loss)(point)))
    assert_close(*found(point), 1e-12)


@pytest.mark.parametrize("stop", STOPS)
def test_not_refused(stop, x64):
    """First derivatives, however they are nested; the scan path; evaluation, which stops nothing.

    Abstract evaluation runs every rule.
    """
    run, point = build("lstm", backend="fused", **STOPS[stop])
    loss = loss_on(("last",), run)
    wrapped = jax.checkpoint(jax.jit(loss))

    def repeated(point):
        return jax.lax.scan(lambda total, _: (total + loss(point), None), 0.0, None, length=2)[0]

    for first in (loss, wrapped, repeated):
        jax.eval_shape(jax.jit(jax.value_and_grad(first)), point)
        jax.eval_shape(jax.vmap(jax.grad(first)), jax.tree.map(lambda a: a[None], point))
    run, point = build("lstm", backend="scan", **STOPS[stop])
    jax.eval_shape(functools.partial(penalty, loss_on(("last",), run)), point, point)


def test_evaluation_with_detaching_stops_nothing(x64):
    """Without draws nothing is blocked, and nothing need be refused."""
    cell = make_cell({"cell": "lstm", "hidden_size": D})
    model = Recurrence(cell, p_block=0.5, c_block=0.5, backend="fused")
    x = jnp.zeros((B, T, NARROW))
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    jax.eval_shape(
        jax.hessian(lambda p: (model.apply(p, x, deterministic=True).last ** 2).sum()), params
    )


def test_forward_mode_straight_through_is_not_possible(x64):
    """JAX knows no forward derivative of a custom gradient; only of what it gives, as above."""
    run, point = build("lstm", backend="fused")
    for forward in (lambda p: jax.jvp(run, (p,), (p,)), jax.jacfwd(run)):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jit(forward).lower(point)
    run, point = build("lstm", backend="scan")
    jax.eval_shape(lambda p: jax.jvp(run, (p,), (p,)), point)
