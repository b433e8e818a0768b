"""Packed sequences: several in one row, parted by resets, against each of them run alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.errors import UserError
from lrd_jax.recurrence.controls import truncation_cuts
from tests.recurrence.recurrence_cases import (
    D,
    N,
    assert_close,
    build,
    drawing,
    draws,
    random_tree,
)

# Rows of ten steps: the lengths of the sequences in each, and padding at the end.
ROWS = ((3, 4, 3), (5, 1, 2), (10,))
LENGTH = 10
LENGTHS = tuple(sum(row) for row in ROWS)


def spans():
    """`(row, first step, step after the last)` of every sequence."""
    for row, sizes in enumerate(ROWS):
        ends = np.cumsum(sizes)
        yield from ((row, int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True))


def resets(first=False):
    """Where a sequence begins; with `first` also at step 0, where nothing was before."""
    mask = np.zeros((len(ROWS), LENGTH), bool)
    for row, start, _ in spans():
        mask[row, start] = first or start > 0
    return jnp.array(mask)


def problem(name, **options):
    model, params = build(name, **options)
    rng = np.random.default_rng(1)
    x = jnp.array(rng.standard_normal((len(ROWS), LENGTH, N)))
    weights = jnp.array(rng.standard_normal((len(ROWS), LENGTH, 2 * D)))
    return model, params, x, weights


def check(name, first=False, **options):
    """Outputs and all gradients, of weights, learnt starts and inputs, as of single sequences."""
    model, params, x, weights = problem(name, **options)
    lengths = jnp.array(LENGTHS)

    def total(outputs, row, start, stop):
        return (outputs * weights[row, start:stop, : outputs.shape[-1]]).sum()

    def packed(params, x):
        out = model.apply(params, x, resets=resets(first), lengths=lengths).outputs
        parts = [out[row, start:stop] for row, start, stop in spans()]
        return sum(total(o, *s) for o, s in zip(parts, spans(), strict=True)), parts

    def alone(params, x):
        parts = [
            model.apply(params, x[row : row + 1, start:stop]).outputs[0]
            for row, start, stop in spans()
        ]
        return sum(total(o, *s) for o, s in zip(parts, spans(), strict=True)), parts

    found, expected = (
        jax.jit(jax.grad(run, (0, 1), has_aux=True))(params, x) for run in (packed, alone)
    )
    assert_close(found, expected, 1e-11)


FEATURES = {
    "plain": {},
    "learnt": {"learn_initial": True, "first": True},
    "truncated": {"truncate_steps": 2, "learn_initial": True},
    "from-start": {"truncate_steps": 2, "truncate_from": "start", "learn_initial": True},
    "bidirectional": {
        "bidirectional": True,
        "num_layers": 2,
        "truncate_steps": 2,
        "learn_initial": True,
        "first": True,
    },
}
PATHS = {
    "scan": ("gated_gru", {}),
    "fused": ("lstm", {"backend": "fused"}),
    "recompute": ("gru", {"recompute": True}),
    "linear": ("complex", {}),
    "linear-time": ("averaging", {}),
    "scan-time": ("averaging", {"backend": "scan"}),
}
FAST = [("fused", "from-start"), ("scan", "truncated")]
FAST += [("linear", "plain"), ("linear-time", "learnt")]
FULL = [(path, feature) for path in PATHS for feature in FEATURES]


@pytest.mark.parametrize(
    ("path", "feature"),
    [*FAST, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in FULL if pair not in FAST)],
)
def test_packed_sequences_are_as_if_run_alone(path, feature, x64):
    name, options = PATHS[path]
    check(name, **options, **FEATURES[feature])


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_no_gradient_crosses(backend, x64):
    """What came before a reset has no gradient from what comes after it, detached or not."""
    model, params, x, _ = problem("lstm", p_block=0.5, backend=backend)

    def later(x):
        return drawing(model, params, x, draws(), resets=resets()).outputs[0, 3:7].sum()

    gradient = jax.jit(jax.grad(later))(x)
    assert not gradient[0, :3].any() and not gradient[0, 7:].any() and not gradient[1:].any()
    assert (jnp.abs(gradient[0, 3:7]).max(-1) > 1e-6).all()


def test_a_given_state_ends_at_the_first_reset(x64):
    """`initial` is the state of the first segment alone; a reset puts back the learnt start."""
    model, params, x, _ = problem("lstm", learn_initial=True)
    run = jax.jit(lambda initial: model.apply(params, x, resets=resets(), initial=initial).outputs)
    given = random_tree(model.apply(params, len(ROWS), method="initial_carry"), 4)
    fresh = run(model.apply(params, len(ROWS), method="initial_carry"))
    assert_close(run(given)[0, 3:], fresh[0, 3:], 1e-14)
    assert (jnp.abs(run(given) - fresh)[0, :3].max(-1) > 1e-6).all()


def test_cuts_are_counted_in_each_segment():
    cuts = truncation_cuts(2, LENGTH, jnp.array(LENGTHS), "end", resets().T).T
    # Entering the steps that lie 2, 4, ... before a segment's end: 3 | 7 | 10, 5 | 6 | 8, 10.
    expected = [{1, 3, 5, 8}, {1, 3, 6}, {0, 2, 4, 6, 8}]
    assert [set(np.flatnonzero(row)) for row in np.asarray(cuts)] == expected
    cuts = truncation_cuts(2, LENGTH, None, "start", resets().T).T
    expected = [{2, 5, 9}, {2, 4, 8}, {2, 4, 6, 8}]
    assert [set(np.flatnonzero(row)) for row in np.asarray(cuts)] == expected


def test_without_resets_cuts_are_the_same():
    for lengths in (None, jnp.array(LENGTHS)):
        for end in ("end", "start"):
            none = jnp.zeros((LENGTH, len(ROWS)), bool)
            plain = truncation_cuts(3, LENGTH, lengths, end)
            plain = plain if plain.ndim == 2 else plain[:, None]
            same = jnp.broadcast_to(plain, none.shape)
            np.testing.assert_array_equal(truncation_cuts(3, LENGTH, lengths, end, none), same)


def test_wrong_masks_and_windows_are_refused(x64):
    model, params, x, _ = problem("lstm")
    for mask in (resets().T, resets().astype(int)):
        with pytest.raises(UserError, match=r"bool\[3, 10\]"):
            model.apply(params, x, resets=mask)
    out = model.apply(params, x, resets=resets())
    drawn = model.draw(None, LENGTH, len(ROWS))
    with pytest.raises(UserError, match=r"windows .* cannot cross resets"):
        model.apply(params, x[:, :2], out, jnp.array([0]), drawn, method="rerun")


def test_no_cut_in_the_padding():
    """The last valid state is held there: a cut would take its gradient away."""
    for end in ("end", "start"):
        cuts = truncation_cuts(2, LENGTH, jnp.array([3, 5]), end)
        assert cuts.shape == (LENGTH, 2) and cuts[:5].any()
        assert not cuts[3:, 0].any() and not cuts[5:, 1].any()
