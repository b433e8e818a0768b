"""What the recurrence tests share: generic models, inputs and comparisons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import make_cell
from lrd_jax.cells.gates import GATE_CODES
from lrd_jax.recurrence import Recurrence
from lrd_jax.streams import StepContext
from tests.recurrence.linear_cells import LINEAR

B, T, N, D = 3, 7, 2, 6

# Every cell that has both paths, with every option that changes its step.
POINTWISE = {
    "rnn": {"cell": "rnn"},
    "rnn-relu": {"cell": "rnn", "activation": "relu"},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "urlstm": {"cell": "urlstm"},
    "urlstm-zero": {"cell": "urlstm", "refine_bias": "zero"},
    "urlstm-unshared": {"cell": "urlstm", "share_refine_bias": False},
    "onlstm": {"cell": "onlstm", "chunk_size": 2},
}
for _code in GATE_CODES:
    for _tied in (True, False):
        for _chunk in (1, 2) if _code[1] == "M" else (1,):
            POINTWISE[f"{_code}-{'tied' if _tied else 'untied'}-{_chunk}"] = {
                "cell": "gated_lstm",
                "gates": _code,
                "tied_input": _tied,
                "chunk_size": _chunk,
            }

# With the one whose reset stands inside the recurrent product: on the scan path only.
ALL = {
    **POINTWISE,
    "gated_gru": {"cell": "gated_gru"},
    "gated_gru-plain": {"cell": "gated_gru", "gates": "--"},
}

# One of each structure: additive or not, with and without a memory, shared bias, master gates.
FEW = ("rnn", "lstm", "gru", "urlstm", "onlstm")

# With the marker `slow`: each structure, with the gates that differ most.
SLOW = (*FEW, "gated_gru", "-R-tied-1", "OM-tied-1", "UM-untied-2")


def thinned(rows, columns, without=(), every=8):
    """All pairs of two lists but for `without`, as parameters with a marker each.

    One in `every` is `slow`, along diagonals, so that each row and each column is met with the
    marker; the others are `exhaustive`.
    """
    return [
        pytest.param(
            row, column, marks=pytest.mark.exhaustive if (i + j) % every else pytest.mark.slow
        )
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        if (row, column) not in without
    ]


def has_memory(name):
    return "c" in cell_of(name).carry_type._fields


def cell_of(name, dtype=jnp.float64):
    """A cell of `ALL` or of the tests' linear ones."""
    if name in LINEAR:
        return LINEAR[name](D, param_dtype=dtype)
    return make_cell({"hidden_size": D, "chrono_t_max": 20, **ALL[name]}).clone(param_dtype=dtype)


def build(name, dtype=jnp.float64, **options):
    """A recurrence with generic parameters: no bias or initial state is zero."""
    model = Recurrence(cell=cell_of(name, dtype), **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((B, T, N), dtype))
    return model, random_tree(shapes, 0, 0.7)


def random_tree(shapes, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.array(scale * rng.standard_normal(p.shape), p.dtype), shapes)


def inputs(seed=1, dtype=jnp.float64):
    return jnp.array(np.random.default_rng(seed).standard_normal((B, T, N)), dtype)


def draws(seed=0, first=0):
    return StepContext(jax.random.key(seed), first=first)


def drawing(model, params, x, context, **arguments):
    """A training call: with the masks that a step draws."""
    masks = model.draw(context, x.shape[1], x.shape[0])
    return model.apply(params, x, masks=masks, **arguments)


def weighted(out, seed=5):
    """A scalar that depends on every number of `out`, each with a weight of its own."""
    rng = np.random.default_rng(seed)
    return sum((leaf * rng.standard_normal(leaf.shape)).sum() for leaf in jax.tree.leaves(out))


def assert_close(actual, expected, tolerance):
    """Equal structure; largest difference below `tolerance` times the largest magnitude."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
        )


def assert_equal(actual, expected):
    """Equal to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def differ(a, b):
    return any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
