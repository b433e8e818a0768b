"""Windows of a sequence that are run again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.recurrence import truncation_cuts
from lrd_jax.recurrence.windows import take_states, take_windows
from lrd_jax.streams import StepContext
from tests.recurrence.recurrence_cases import B, N, T, build, drawing


def test_windows_are_cut_out_window_by_window():
    x = np.arange(B * T * 2).reshape(B, T, 2)
    found = take_windows(jnp.array(x), jnp.array([4, 0]), 3)
    np.testing.assert_array_equal(found, np.concatenate([x[:, 4:7], x[:, :3]]))
    starts = np.array([[0, 1, 4], [3, 3, 0]])
    found = take_windows(jnp.array(x), jnp.array(starts), 3)
    expected = [[x[b, s : s + 3] for b, s in enumerate(row)] for row in starts]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    several = take_windows({"x": jnp.array(x), "y": -jnp.array(x[..., 0])}, jnp.array(starts), 3)
    np.testing.assert_array_equal(several["x"], found)
    np.testing.assert_array_equal(several["y"], -found[..., 0])


@pytest.mark.parametrize(
    ("mask_scope", "starts"),
    [
        ("batch", [0, 3]),
        ("example", [[0, 2, 3], [1, 0, 2]]),
        pytest.param("batch", [[0, 2, 3], [1, 0, 2]], marks=pytest.mark.slow),
        pytest.param("example", [0, 3], marks=pytest.mark.slow),
    ],
)
def test_a_window_repeats_what_the_whole_did(x64, mask_scope, starts):
    options = {"num_layers": 2, "dropout": 0.4, "p_block": 0.5, "learn_initial": True}
    model, params = build("urlstm", mask_scope=mask_scope, **options)
    x, starts = jax.random.normal(jax.random.key(1), (B, T, N), jnp.float64), jnp.array(starts)
    masks = model.draw(StepContext(jax.random.key(2)), T, B)

    @jax.jit
    def run(params, x):
        whole = model.apply(params, x, masks=masks)
        windows = take_windows(x, starts, 4)
        return whole, model.apply(params, windows, whole, starts, masks, method="rerun")

    whole, again = run(params, x)
    np.testing.assert_allclose(again.outputs, take_windows(whole.outputs, starts, 4), rtol=1e-12)
    plain = drawing(model, params, x, StepContext(jax.random.key(2)))
    np.testing.assert_array_equal(plain.outputs, whole.outputs)


def test_cuts_from_the_start():
    cuts = truncation_cuts(3, 8, counted_from="start")
    np.testing.assert_array_equal(np.flatnonzero(cuts), [3, 6])
    assert truncation_cuts(0, 8, counted_from="start") is None


@pytest.mark.parametrize(
    "shape", [pytest.param((100,), marks=pytest.mark.slow), (100, 2)], ids=["batch", "example"]
)
def test_many_are_taken_at_once_as_few_are_one_by_one(shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 12, 3)), jnp.float32)
    at = jnp.asarray(rng.integers(0, 9, shape))

    def both(x, at):
        windows, states = take_windows(x, at, 4), take_states(x.swapaxes(0, 1), at)
        return windows, states, (windows**2).sum() + (states**3).sum()

    many = both(x, at)
    few = [both(x, part) for part in (at[:50], at[50:])]
    for index in (0, 1):
        np.testing.assert_array_equal(many[index], jnp.concatenate([f[index] for f in few]))
    gradient = jax.grad(lambda x, at: both(x, at)[2])
    parts = gradient(x, at[:50]) + gradient(x, at[50:])
    np.testing.assert_allclose(gradient(x, at), parts, rtol=1e-5)
