"""The bounded softmax: its value and gradients are the plain one's, its memory is not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from lrd_jax.models.language import Readout
from lrd_jax.objectives import softmax

TOKENS, VOCABULARY, WIDTH = 23, 11, 5


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_case(bias=True, tokens=TOKENS, vocabulary=VOCABULARY, seed=0):
    rng = np.random.default_rng(seed)
    features = jnp.array(3 * rng.normal(size=(tokens, WIDTH)))
    kernel = jnp.array(rng.normal(size=(vocabulary, WIDTH)))
    readout = Readout(kernel, jnp.array(rng.normal(size=vocabulary)) if bias else None)
    targets = jnp.array(rng.integers(0, vocabulary, tokens))
    weights = jnp.array((rng.random(tokens) < 0.7) * rng.random(tokens))
    return features, readout, targets, weights


def plain(features, readout, targets, weights):
    logits = readout.logits(features)
    return (optax.softmax_cross_entropy_with_integer_labels(logits, targets) * weights).sum()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "most",
    [
        2 * VOCABULARY,
        10**6,
        *(pytest.param(m, marks=pytest.mark.slow) for m in (1, 7 * VOCABULARY)),
    ],
)
def test_equals_the_plain_softmax_in_float64(x64, monkeypatch, bias, most):
    monkeypatch.setattr(softmax, "MOST_LOGITS", most)
    case = make_case(bias)

    def both(function):
        # Scaled from outside: the backward pass must hand the factor on.
        return jax.value_and_grad(lambda f, r: 0.3 * function(f, r, *case[2:]), argnums=(0, 1))

    value, gradients = both(softmax.cross_entropy)(*case[:2])
    expected_value, expected = both(plain)(*case[:2])
    np.testing.assert_allclose(value, expected_value, rtol=1e-13)
    np.testing.assert_allclose(softmax.cross_entropy(*case), plain(*case), rtol=1e-13)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.float64
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_seeds_side_by_side(x64, monkeypatch):
    monkeypatch.setattr(softmax, "MOST_LOGITS", 3 * VOCABULARY)
    cases = [make_case(seed=seed) for seed in range(3)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)
    gradient = jax.grad(softmax.cross_entropy, argnums=1)
    found = jax.vmap(gradient)(*together)
    for index, case in enumerate(cases):
        np.testing.assert_allclose(found.kernel[index], gradient(*case).kernel, rtol=1e-12)


def test_large_logits_stay_finite():
    features, readout, targets, weights = make_case()
    value, gradient = jax.value_and_grad(softmax.cross_entropy)(
        1e4 * features, readout, targets, weights
    )
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


def shapes(jaxpr):
    """The shapes of everything that a program computes, inner programs included."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield variable.aval.shape
        for inner in jaxprs_in_params(equation.params):
            yield from shapes(inner)


def make_case_of_zeros(tokens, vocabulary):
    readout = Readout(jnp.zeros((vocabulary, WIDTH)), None)
    return jnp.zeros((tokens, WIDTH)), readout, jnp.zeros(tokens, jnp.int32), jnp.ones(tokens)


@pytest.mark.parametrize("differentiated", [False, True])
def test_memory_is_bounded(differentiated):
    """The step of `configs/gating_wikitext103.py`, in shapes alone: nothing is computed."""
    tokens, vocabulary, width = 128 * 128, 267_735, 1_024
    case = jax.eval_shape(
        lambda: (
            jnp.zeros((tokens, width)),
            Readout(jnp.zeros((vocabulary, width)), None),
            jnp.zeros(tokens, jnp.int32),
            jnp.ones(tokens),
        )
    )
    function = softmax.cross_entropy
    if differentiated:
        function = jax.value_and_grad(function, argnums=(0, 1))
    found = set(shapes(jax.make_jaxpr(function)(*case).jaxpr))
    logits = {shape for shape in found if shape[-1:] == (vocabulary,)}
    logits -= {(width, vocabulary)}  # the kernel's transpose
    assert logits and max(map(math.prod, logits)) <= softmax.MOST_LOGITS
    # Beside the logits of a chunk, nothing is larger than the kernel.
    assert max(map(math.prod, found)) <= vocabulary * width


def test_compiled_memory_is_that_of_a_chunk(monkeypatch):
    tokens, vocabulary = 4_096, 2_000
    monkeypatch.setattr(softmax, "MOST_LOGITS", 64 * vocabulary)
    case = make_case_of_zeros(tokens, vocabulary)
    temporary = {}
    for name, function in (("chunked", softmax.cross_entropy), ("plain", plain)):
        # A function of its own each time: the limit is no part of what jit compares.
        gradient = jax.jit(jax.grad(lambda *c, f=function: f(*c), argnums=(0, 1)))
        temporary[name] = gradient.lower(*case).compile().memory_analysis().temp_size_in_bytes
    all_logits = 4 * tokens * vocabulary
    assert temporary["plain"] >= all_logits
    assert temporary["chunked"] < all_logits / 8
