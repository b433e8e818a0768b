"""The identity that is a barrier on a CPU alone, whatever JAX's transformations make of it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import materialise as module
from lrd_jax.cells.materialise import materialise
from tests.recurrence.recurrence_cases import B, N, T, build

BARRIER = "stablehlo.optimization_barrier"
X = jnp.linspace(0.1, 2.0, 6).reshape(2, 3)


def function(x):
    """Something that is not linear and reads a materialised pair twice."""
    s, c = materialise((jnp.sin(x), jnp.cos(x)))
    return (s * c + s).sum()


def plain(x):
    s, c = jnp.sin(x), jnp.cos(x)
    return (s * c + s).sum()


TRANSFORMED = {
    "value": lambda f: f,
    "grad": jax.grad,
    "vmap": jax.vmap,
    "vmap of grad": lambda f: jax.vmap(jax.grad(f)),
    "grad of vmap": lambda f: jax.grad(lambda x: jax.vmap(f)(x).sum()),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x + 1,)),
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "remat": lambda f: jax.grad(jax.checkpoint(f)),
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
}


@pytest.mark.parametrize("how", TRANSFORMED)
@pytest.mark.parametrize("jit", [True, False])
def test_it_is_an_identity_under_every_transformation(how, jit):
    transformed, expected = TRANSFORMED[how](function), TRANSFORMED[how](plain)
    actual = jax.jit(transformed)(X) if jit else transformed(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected(X))


def test_a_structure_comes_back_as_it_was():
    tree = {"a": [X, (X + 1, None)], "b": jnp.arange(3)}
    out = jax.jit(materialise)(tree)
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, out, tree)


def test_it_is_transposed_with_a_missing_cotangent():
    def first(pair):
        return 2 * materialise(pair)[0]

    (cotangents,) = jax.linear_transpose(first, (X, X))(X)
    np.testing.assert_array_equal(cotangents[0], 2 * X)
    np.testing.assert_array_equal(cotangents[1], jnp.zeros_like(X))


def lowered(f, *args, platform):
    return jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_that_is_compiled_for_decides():
    # Whatever this process runs on.
    gradient = jax.grad(function)
    assert BARRIER in lowered(gradient, X, platform="cpu")
    assert BARRIER not in lowered(gradient, X, platform="cuda")


def renamed(text):
    """A program with its functions numbered as they appear; JAX counts the names it ever gave."""
    order = {}
    return re.sub(r"@[\w.]+", lambda m: f"@{order.setdefault(m[0], len(order))}", text)


@pytest.mark.parametrize("backend", ["scan", "fused"])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "urlstm", "onlstm", "gated_gru"])
def test_a_program_for_the_cpu_is_the_barriers_to_the_letter(monkeypatch, name, backend):
    if (name, backend) == ("gated_gru", "fused"):
        backend = "auto"  # has no other path than the scan

    def program():
        # A new function and module each time: JAX keeps traces.
        model, params = build(name, jnp.float32, backend=backend)
        seeds = jax.tree.map(lambda p: jnp.stack([p, p]), params)
        loss = lambda p, x: model.apply(p, x).last.sum()  # noqa: E731
        step = jax.vmap(jax.value_and_grad(loss), (0, None))
        x = jax.ShapeDtypeStruct((B, T, N), jnp.float32)
        return lowered(step, seeds, x, platform="cpu"), lowered(step, seeds, x, platform="cuda")

    cpu, gpu = program()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_materialise", jax.lax.optimization_barrier)
        expected, _ = program()
    assert renamed(cpu) == renamed(expected)
    assert (BARRIER in cpu) == (name != "rnn" or backend == "fused")
    # The one that the backward pass has everywhere.
    assert gpu.count(BARRIER) == (backend == "fused")
