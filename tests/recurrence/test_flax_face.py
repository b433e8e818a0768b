"""`Recurrence` in other people's Flax code: rngs, `deterministic`, perturbations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrd_jax.cells import LSTMCell, RNNCell
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Recurrence, perturbations
from lrd_jax.recurrence.controls import Masks

B, T, N, D = 3, 7, 2, 4
X = jax.random.normal(jax.random.key(9), (B, T, N))
KEY = jax.random.key(1)


def make(cell=LSTMCell, **options):
    model = Recurrence(cell(D), **options)
    return model, model.init(jax.random.key(0), X)


def test_init_needs_params_alone():
    _, variables = make(p_block=0.5, c_block=0.5, num_layers=2, dropout=0.5, backend="scan")
    assert set(variables) == {"params"}


def test_p_block_blocks():
    """ORC-13's limit through Flax's face: with p_block 1 no gradient passes a recurrent product."""
    model, variables = make(RNNCell, p_block=1.0)

    def last(x, **how):
        return model.apply(variables, x, **how).last.sum()

    blocked = jax.grad(last)(X, rngs={"h_detach": KEY})
    assert (blocked[:, :-1] == 0).all() and (blocked[:, -1] != 0).any()
    free = jax.grad(last)(X, deterministic=True)
    assert (free[:, :-1] != 0).any()


def test_the_share_of_blocked_steps_is_p():
    long = jnp.ones((1, 2000, N))
    model = Recurrence(RNNCell(1), p_block=0.3, mask_scope="example")
    variables = model.init(KEY, long)
    variables = jax.tree.map(jnp.ones_like, variables)

    def last_of_each(initial):
        masks = model.draw(_streams(model, variables), 2000, 1)
        return masks.block_h[0]

    assert abs(float(last_of_each(None).mean()) - 0.3) < 0.05


def _streams(model, variables):
    """The streams that a call with rngs draws from."""
    return model.apply(
        variables, False, method=lambda m, d: m._rng_streams(d), rngs={"h_detach": KEY}
    )


def test_what_dropout_keeps_is_scaled_for_what_it_drops():
    model, variables = make(num_layers=2, dropout=0.75)
    keep = jax.random.bernoulli(KEY, 0.25, (B, T, D))
    found = model.apply(variables, X, masks=Masks((None, None), (None, None), (None, keep))).outputs
    single, params = Recurrence(LSTMCell(D)), variables["params"]
    first = single.apply({"params": {"layer_0": params["layer_0"]}}, X).outputs
    thinned = jnp.where(keep, 4 * first, 0)
    second = single.apply({"params": {"layer_0": params["layer_1"]}}, thinned).outputs
    np.testing.assert_allclose(found, second, rtol=1e-6)


def test_dropout_and_detaching_draw_from_rngs_of_their_own():
    model, variables = make(p_block=0.5, num_layers=2, dropout=0.5)
    other = jax.random.key(2)

    def run(h, dropout):
        return model.apply(variables, X, rngs={"h_detach": h, "dropout": dropout}).outputs

    np.testing.assert_array_equal(run(KEY, KEY), run(other, KEY))  # detaching moves no value
    assert (run(KEY, KEY) != run(KEY, other)).any()
    evaluated = model.apply(variables, X, deterministic=True).outputs
    np.testing.assert_array_equal(
        model.apply(variables, X, deterministic=True, rngs={"dropout": KEY}).outputs, evaluated
    )
    plain = model.clone(p_block=0.0, dropout=0.0).apply(variables, X).outputs
    np.testing.assert_array_equal(plain, evaluated)


@pytest.mark.parametrize("deterministic", [None, False])
@pytest.mark.parametrize("given", [(), ("dropout",)])
def test_missing_rngs_are_an_error_that_names_them(deterministic, given):
    model, variables = make(p_block=0.5, num_layers=2, dropout=0.5)
    with pytest.raises(UserError, match="h_detach") as error:
        model.apply(
            variables, X, deterministic=deterministic, rngs=dict.fromkeys(given, KEY) or None
        )
    assert ("deterministic=True" in str(error.value)) == (deterministic is None)
    assert "\n" not in str(error.value)


def test_without_rates_nothing_is_asked_for():
    model, variables = make(dropout=0.5)  # one layer: there is nothing between layers
    for deterministic in (None, False, True):
        model.apply(variables, X, deterministic=deterministic)


# ---- Perturbations --------------------------------------------------------------------------


def loss(model, variables, x=X, **how):
    out = model.apply(variables, x, **how)
    weights = jax.random.normal(jax.random.key(4), out.outputs.shape)
    return (out.outputs * weights).sum() + (out.final[0].h ** 2).sum()


@pytest.mark.parametrize("cell", [pytest.param(LSTMCell, marks=pytest.mark.slow), RNNCell])
def test_gradients_of_every_state_equal_finite_differences(cell):
    with jax.enable_x64(True):
        x = jnp.asarray(X, jnp.float64)
        model = Recurrence(cell(D, param_dtype=jnp.float64), num_layers=2, backend="scan")
        variables = model.init(jax.random.key(0), x)
        zeros = perturbations(model, variables, x)
        states = {"h", "c"} if cell is LSTMCell else {"h"}
        assert set(zeros) == {"layer_0", "layer_1"} and set(zeros["layer_0"]) == states
        assert zeros["layer_0"]["h"].shape == (T, B, D)

        @jax.jit
        def of(p):
            return loss(model, variables | {"perturbations": p}, x)

        assert float(of(zeros)) == pytest.approx(float(loss(model, variables, x)), rel=1e-12)
        found = jax.grad(of)(zeros)
        for layer, name, at in [(k, n, t) for k in zeros for n in states for t in (0, 3, T - 1)]:

            def moved(step, layer=layer, name=name, at=at):
                p = jax.tree.map(jnp.copy, zeros)
                p[layer][name] = p[layer][name].at[at, 1, 2].add(step)
                return of(p)

            expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
            assert float(found[layer][name][at, 1, 2]) == pytest.approx(
                float(expected), rel=1e-4, abs=1e-9
            )


def test_padding_holds_the_state_after_its_point():
    """A perturbation of a padded step reaches nothing: it is a total derivative before the hold."""
    model, variables = make(backend="scan")
    lengths = jnp.array([T, 4, 2])
    zeros = perturbations(model, variables, X, lengths=lengths)
    found = jax.grad(lambda p: loss(model, variables | {"perturbations": p}, lengths=lengths))(
        zeros
    )["layer_0"]["h"]
    padded = np.arange(T)[:, None] >= np.asarray(lengths)
    assert (np.asarray(found)[padded] == 0).all()
    assert (np.abs(found).max(-1)[~padded] > 0).all()


def test_without_perturbations_nothing_changes_and_other_backends_refuse():
    scan, variables = make(backend="scan")
    zeros = perturbations(scan, variables, X)
    plain = jax.jit(scan.apply)(variables, X)
    moved = jax.jit(scan.apply)(variables | {"perturbations": zeros}, X)
    jax.tree.map(np.testing.assert_array_equal, plain, moved)
    # `auto` takes the path that has the points.
    auto = scan.clone(backend="auto")
    assert jax.tree.structure(perturbations(auto, variables, X)) == jax.tree.structure(zeros)
    fused = scan.clone(backend="fused")
    for variables_ in (variables, variables | {"perturbations": zeros}):
        with pytest.raises(UserError, match="backend=scan"):
            perturbations(fused, variables_, X)
    with pytest.raises(UserError, match="backend=scan"):
        fused.apply(variables | {"perturbations": zeros}, X)


# ---- Flax NNX -----------------------------------------------------------------------------------


class OfNNX(nnx.Module):
    """The recipe: a recurrence inside a module of NNX, by Flax's own bridge."""

    def __init__(self, rngs, **options):
        linen = Recurrence(LSTMCell(D), **options)
        self.recurrence = nnx.bridge.lazy_init(nnx.bridge.ToNNX(linen, rngs=rngs), X)
        self.head = nnx.Linear(D, 2, rngs=rngs)

    def __call__(self, x, **how):
        return self.head(self.recurrence(x, **how).last)


def test_the_recipe_for_nnx():
    """Network and gradient are those of Linen; h-detach draws from rngs that the call is given."""
    model = OfNNX(nnx.Rngs(0), p_block=0.5)
    params = nnx.to_pure_dict(nnx.state(model.recurrence, nnx.Param))

    @nnx.jit
    def free(model):
        return nnx.value_and_grad(lambda m: m(X, deterministic=True).sum())(model)

    @nnx.jit
    def drawn(model, key):
        return nnx.grad(lambda m: m(X, rngs=nnx.Rngs(h_detach=key)).sum())(model)

    @jax.jit
    def linen(params, kernel):
        last = Recurrence(LSTMCell(D)).apply({"params": params}, X).last
        return (last @ kernel).sum()

    kernel = model.head.kernel[...]
    value, found = free(model)
    expected, ours = jax.value_and_grad(linen)(params, kernel)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    theirs = nnx.to_pure_dict(found["recurrence"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), theirs, ours)
    leaves = [jax.tree.leaves(drawn(model, jax.random.key(n))["recurrence"]) for n in (1, 2)]
    assert any((one != other).any() for one, other in zip(*leaves, strict=True))
