"""Recurrences written elsewhere: NumPy with its gradient by hand, and author-style PyTorch loops.

Nothing here is ours but the weights, which both sides get, and the masks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.recurrence.controls import Controls
from lrd_jax.recurrence.unroll import unroll
from tests.recurrence.recurrence_cases import B, D, N, T, assert_close, build, inputs, random_tree

TOLERANCE = 1e-9
ORDER = {"lstm": "fiou", "urlstm": "frou"}  # in which this file packs the gates
MASKS = {
    "none": None,
    "half": np.arange(T) % 2 == 1,
    "all": np.ones(T, bool),
    "example": np.arange(T)[:, None] % np.array([2, 3, 4]) == 1,
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
backends = pytest.mark.parametrize("backend", ["scan", "fused"])


def problem(name, backend, mask):
    """Weights, inputs, the weight of each output in the loss, and our results and gradients.

    The loss reads h at every step and the last c. Results: h, `(T, B, D)`, and c, `(B, D)`.
    """
    model, params = build(name)
    cell, weights = model.cell, params["params"]["layer_0"]
    x = jnp.swapaxes(inputs(), 0, 1)
    rng = np.random.default_rng(8)
    readout = rng.standard_normal((T, B, D)), rng.standard_normal((B, D))
    start = cell.initialize_carry(jax.random.key(0), (B, N))
    start = random_tree(start, 4)

    def loss(weights, x, start):
        controls = Controls(block_h=None if mask is None else jnp.array(mask))
        last, states = cell.apply(
            {"params": weights},
            start,
            x,
            method=lambda cell, carry, x: unroll(cell, carry, x, controls, backend),
        )
        total = (states.h * readout[0]).sum() + (last.c * readout[1]).sum()
        return total, (states.h, last.c)

    gradients, results = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(weights, x, start)
    given = {
        "wx": weights["input"]["kernel"],
        "wh": weights["recurrent_kernel"],
        "b": weights["bias"],
        "x": x,
        "c": start.c,
        "h": start.h,
    }
    found = {
        "wx": gradients[0]["input"]["kernel"],
        "wh": gradients[0]["recurrent_kernel"],
        "b": gradients[0]["bias"],
        "x": gradients[1],
        "c": gradients[2].c,
        "h": gradients[2].h,
    }
    packed = "wx", "wh", "b"
    given, found = (
        {k: in_order(cell, v, ORDER[name]) if k in packed else np.asarray(v) for k, v in t.items()}
        for t in (given, found)
    )
    return given, readout, results, found


def in_order(cell, packed, names):
    """The packed blocks, along the last axis, in the order of `names`."""
    ours = list(cell.blocks())
    parts = np.split(np.asarray(packed), len(ours), axis=-1)
    return np.concatenate([parts[ours.index(name)] for name in names], axis=-1)


def kept(mask, t):
    """1 where the gradient passes at step t, 0 where it is blocked; broadcasts over (B, D)."""
    return 1.0 if mask is None else 1.0 - np.reshape(mask[t], (-1, 1))


def numpy_lstm(wx, wh, b, x, c, h, readout, mask):
    """LSTM and its gradient by back-propagation through time, written out.

    The gradient of z = x W_x + h W_h + b goes back to h only where the step is not blocked; W_h
    has its gradient at every step (Arpit et al. 2019, algorithm 1).
    """

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    steps, outputs = [], []
    for x_t in x:
        f, i, o, u = np.split(x_t @ wx + h @ wh + b, 4, axis=1)
        f, i, u, o = sigmoid(f), sigmoid(i), np.tanh(u), sigmoid(o)
        new = f * c + i * u
        steps.append((c, h, f, i, u, o, np.tanh(new)))
        c = new
        h = o * np.tanh(c)
        outputs.append(h)

    d = {k: np.zeros_like(v) for k, v in (("wx", wx), ("wh", wh), ("b", b), ("x", x))}
    dh, dc = np.zeros_like(h), readout[1].copy()
    for t in reversed(range(len(x))):
        c_before, h_before, f, i, u, o, tanh_c = steps[t]
        dh = dh + readout[0][t]
        dc = dc + dh * o * (1 - tanh_c**2)
        dz = np.concatenate(
            [
                dc * c_before * f * (1 - f),
                dc * u * i * (1 - i),
                dh * tanh_c * o * (1 - o),
                dc * i * (1 - u**2),
            ],
            axis=1,
        )
        d["wx"] += x[t].T @ dz
        d["wh"] += h_before.T @ dz
        d["b"] += dz.sum(axis=0)
        d["x"][t] = dz @ wx.T
        dh = dz @ wh.T * kept(mask, t)
        dc = dc * f
    return (np.stack(outputs), c), {**d, "c": dc, "h": dh}


@masks
@backends
def test_numpy_lstm(backend, mask, x64):
    given, readout, results, gradients = problem("lstm", backend, mask)
    expected, expected_gradients = numpy_lstm(**given, readout=readout, mask=mask)
    assert_close(tuple(map(np.asarray, results)), expected, TOLERANCE)
    assert_close(gradients, expected_gradients, TOLERANCE)


def numpy_urlstm(wx, wh, b, x, c, h):
    """Outputs of the UR-LSTM, straight from eq. 9-12 of Gu et al. (2020) in the band form."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    b_f = b[:D]
    outputs = []
    for x_t in x:
        f, r, o, u = np.split(x_t @ wx + h @ wh + b, 4, axis=1)
        f, r = sigmoid(f), sigmoid(r - b_f)
        g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
        c = g * c + (1 - g) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), c


@backends
def test_numpy_urlstm(backend, x64):
    """Outputs against the equations, gradients against central differences of them."""
    given, readout, results, gradients = problem("urlstm", backend, None)
    assert_close(tuple(map(np.asarray, results)), numpy_urlstm(**given), TOLERANCE)

    def loss(**values):
        outputs, c = numpy_urlstm(**values)
        return (outputs * readout[0]).sum() + (c * readout[1]).sum()

    rng = np.random.default_rng(9)
    for name, value in given.items():
        direction, step = rng.standard_normal(value.shape), 1e-5
        above, below = (
            loss(**{**given, name: value + sign * step * direction}) for sign in (1, -1)
        )
        slope = (above - below) / (2 * step)
        np.testing.assert_allclose((gradients[name] * direction).sum(), slope, rtol=1e-7)


# ---- PyTorch, in the manner of the authors' code ---------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="compares with PyTorch when it is installed")


def torch_run(torch, step, given, readout, mask):
    """Author-style loop: one step at a time, the state detached before it where the mask says."""
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in given.items()}
    c, h, outputs = leaves["c"], leaves["h"], []
    for t in range(T):
        blocked = h
        if mask is not None:
            m = torch.tensor(np.reshape(mask[t], (-1, 1)))
            blocked = torch.where(m, h.detach(), h)
        c, h = step(leaves, leaves["x"][t], c, blocked)
        outputs.append(h)
    outputs = torch.stack(outputs)
    loss = (outputs * torch.tensor(readout[0])).sum() + (c * torch.tensor(readout[1])).sum()
    loss.backward()
    gradients = {k: v.grad.numpy() for k, v in leaves.items()}
    return (outputs.detach().numpy(), c.detach().numpy()), gradients


@masks
@backends
@pytest.mark.parametrize("name", ["lstm", "urlstm"])
def test_torch_loop(name, backend, mask, torch, x64):
    """h-detach LSTM and UR-LSTM cell, with h-detach too: outputs and all gradients."""

    def lstm(w, x, c, h):
        f, i, o, u = (x @ w["wx"] + h @ w["wh"] + w["b"]).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
        return c, torch.sigmoid(o) * torch.tanh(c)

    def urlstm(w, x, c, h):
        f, r, o, u = (x @ w["wx"] + h @ w["wh"] + w["b"]).chunk(4, dim=1)
        f, r = torch.sigmoid(f), torch.sigmoid(r - w["b"][:D])
        g = 2 * r * f + (1 - 2 * r) * f**2
        c = g * c + (1 - g) * torch.tanh(u)
        return c, torch.sigmoid(o) * torch.tanh(c)

    given, readout, results, gradients = problem(name, backend, mask)
    step = {"lstm": lstm, "urlstm": urlstm}[name]
    expected, expected_gradients = torch_run(torch, step, given, readout, mask)
    assert_close(tuple(map(np.asarray, results)), expected, TOLERANCE)
    assert_close(gradients, expected_gradients, TOLERANCE)
