"""Zoneout and DropConnect of the recurrence: against loops written here, and their expectation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import make_cell
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Masks, Recurrence
from tests.recurrence.linear_cells import LINEAR
from tests.recurrence.recurrence_cases import B, D, T, assert_close, build, draws, inputs


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_by_hand(params, x, zone_h, zone_c, kernel=None):
    """An LSTM whose masked units keep their state, in NumPy: h, `(batch, time, d)`."""
    cell = jax.tree.map(np.asarray, params["params"]["layer_0"])
    kernel = cell["recurrent_kernel"] if kernel is None else kernel
    h = c = np.zeros((B, D))
    outputs = []
    for t in range(T):
        z = np.asarray(x)[:, t] @ cell["input"]["kernel"] + h @ kernel + cell["bias"]
        f, i, o, u = np.split(z, 4, axis=1)
        new = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = zone_h[t] * h + (1 - zone_h[t]) * sigmoid(o) * np.tanh(new)
        c = zone_c[t] * c + (1 - zone_c[t]) * new
        outputs.append(h)
    return np.stack(outputs, axis=1)


@pytest.fixture(scope="module")
def zoned():
    with jax.enable_x64(True):
        yield build("lstm", zoneout_h=0.3, zoneout_c=0.6)


def test_it_is_the_loop_with_the_drawn_masks_and_in_evaluation_with_their_mean(zoned, x64):
    (model, params), x = zoned, inputs()
    masks = model.draw(draws(), T, B)
    zones = masks.zone_h[0], masks.zone_c[0]
    assert all(zone.shape == (T, B, D) and zone.dtype == bool for zone in zones)
    found = model.apply(params, x, masks=masks).outputs
    np.testing.assert_allclose(found, lstm_by_hand(params, x, *zones), rtol=0, atol=1e-12)
    mean = lstm_by_hand(params, x, np.full(T, 0.3), np.full(T, 0.6))
    found = model.apply(params, x, deterministic=True)
    np.testing.assert_allclose(found.outputs, mean, rtol=0, atol=1e-12)

    def step_by_step(module, x):
        carries = module.initial_carry(B)
        for t in range(T):
            carries = module.advance(carries, x[:, t])
        return carries

    carries = model.apply(params, x, method=step_by_step)
    assert_close(carries, found.final, 1e-12)


def test_rates_of_the_masks():
    model = Recurrence(
        make_cell({"cell": "lstm", "hidden_size": 100}), zoneout_h=0.3, zoneout_c=0.6
    )
    masks = model.draw(draws(), 50, 20)
    assert abs(masks.zone_h[0].mean() - 0.3) < 0.01
    assert abs(masks.zone_c[0].mean() - 0.6) < 0.01


def test_a_rate_of_one_holds_the_start_and_of_zero_is_the_cell(zoned, x64):
    (_, params), x = zoned, inputs()
    held = Recurrence(make_cell({"cell": "lstm", "hidden_size": D}), zoneout_h=1.0)
    held = held.clone(cell=held.cell.clone(param_dtype=jnp.float64))
    masks = held.draw(draws(), T, B)
    np.testing.assert_array_equal(held.apply(params, x, masks=masks).outputs, 0)
    np.testing.assert_array_equal(held.apply(params, x, deterministic=True).outputs, 0)
    plain = Recurrence(held.cell)
    nothing = Masks((None,), (None,), (None,), *((jnp.zeros((T, B, D), bool),),) * 2)
    np.testing.assert_array_equal(
        plain.apply(params, x, masks=nothing).outputs, plain.apply(params, x).outputs
    )


def test_evaluation_is_the_mean_over_the_masks_of_one_step(zoned, x64):
    """YAR-08: from a state that is not zero. A unit's step depends on its own mask alone."""
    (model, params), x = zoned, inputs()[:, :1]
    start = model.apply(params, inputs(seed=2), deterministic=True).final

    def after(held):
        masks = Masks((None,), (None,), (None,), *((jnp.full((1, B, D), held),),) * 2)
        return model.apply(params, x, initial=start, masks=masks).final[0]

    held, free = after(True), after(False)
    mean = held._replace(h=0.3 * held.h + 0.7 * free.h, c=0.6 * held.c + 0.4 * free.c)
    found = model.apply(params, x, initial=start, deterministic=True).final[0]
    assert_close(found, mean, 1e-14)
    assert jnp.abs(held.h - free.h).min() > 1e-4 and jnp.abs(held.c - free.c).min() > 1e-4


def test_a_window_sees_the_masks_of_the_whole(zoned, x64):
    (model, params), x = zoned, inputs()
    masks = model.draw(draws(), T, B)
    whole = model.apply(params, x, masks=masks)
    again = model.apply(params, x[:, 3:6], whole, jnp.array([3]), masks, method="rerun")
    np.testing.assert_allclose(again.outputs, whole.outputs[:, 3:6], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["scan", "fused"])
def test_dropconnect_zeroes_the_same_weights_at_every_step(backend, x64):
    model, params = build("lstm", recurrent_dropconnect=0.25, backend=backend)
    x, masks = inputs(), model.draw(draws(), T, B)
    assert masks.weights and model.draw(None, T, B).weights == ()

    def total(params):
        out = model.apply(params, x, masks=masks).outputs
        return out.sum(), out

    gradient, found = jax.grad(total, has_aux=True)(params)
    kernel = np.asarray(params["params"]["layer_0"]["recurrent_kernel"])
    dropped = np.asarray(gradient["params"]["layer_0"]["recurrent_kernel"]) == 0
    assert 0.1 < dropped.mean() < 0.45
    none = np.zeros(T)
    expected = lstm_by_hand(params, x, none, none, np.where(dropped, 0, kernel / 0.75))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    plain = model.apply(params, x, deterministic=True).outputs
    np.testing.assert_allclose(plain, lstm_by_hand(params, x, none, none), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gru", {"zoneout_c": 0.1}, r"model\.zoneout_c=0\.1 needs a cell with a memory c"),
        ("complex", {"zoneout_h": 0.1}, r"model\.zoneout_h=0\.1 keeps what the next step reads"),
        ("complex", {"recurrent_dropconnect": 0.1}, "and ComplexMean has none|has none; set it"),
        ("gru", {"zoneout_h": 1.5}, r"zoneout_h=1\.5 is a probability"),
        ("gru", {"recurrent_dropconnect": 1.0}, r"recurrent_dropconnect=1\.0 is a rate"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, message):
    cell = LINEAR[name](D) if name in LINEAR else make_cell({"cell": name, "hidden_size": D})
    with pytest.raises(UserError, match=message):
        Recurrence(cell, **options).check()
