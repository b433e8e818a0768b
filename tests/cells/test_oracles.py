"""Cells against closed forms, parameter counts and other libraries."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import GatedGRUCell, GatedLSTMCell, GRUCell, LSTMCell, URLSTMCell, make_cell

B = 3


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def init(cell, n=2):
    x = jnp.zeros((B, n), cell.param_dtype)
    return cell.init(jax.random.key(0), cell.initialize_carry(jax.random.key(0), x.shape), x)


def filled(cell, draw):
    """Parameters of a cell on two inputs, each array from `draw(shape)`."""
    shapes = jax.eval_shape(lambda: init(cell))
    return jax.tree.map(lambda p: jnp.array(draw(p.shape), p.dtype), shapes)


def random_params(cell):
    rng = np.random.default_rng(0)
    return filled(cell, lambda shape: 0.5 * rng.standard_normal(shape))


def zero_weights(params):
    return jax.tree.map(lambda p: p if p.ndim == 1 else jnp.zeros_like(p), params)


def forget_gate(cell, params):
    """The effective forget gate at zero weights: the memory after one step from c = 1, u = 0."""
    d = cell.hidden_size
    carry = jnp.ones((1, d), cell.param_dtype), jnp.zeros((1, d), cell.param_dtype)
    return cell.apply(params, carry, jnp.zeros((1, 2), cell.param_dtype))[0].c[0]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# ---- ORC-04: the UR-LSTM at initialisation ---------------------------------------------------


@pytest.mark.parametrize(("d", "longest"), [(256, 128.75), (1024, 512.75)])
@pytest.mark.parametrize("share", [True, False])
def test_initial_gate_of_the_urlstm(d, longest, share, x64):
    cell = URLSTMCell(d, share_refine_bias=share, param_dtype=jnp.float64)
    f = np.linspace(1 / d, 1 - 1 / d, d)
    params = filled(cell, np.zeros)
    b = np.log(f) - np.log1p(-f)
    rest = [np.zeros(d) if share else -b, np.zeros(2 * d)]
    params["params"]["bias"] = jnp.array(np.concatenate([b, *rest]))
    g = np.asarray(forget_gate(cell, params))
    close(g, 2 * f - 3 * f**2 + 2 * f**3)
    assert (np.diff(g) > 0).all()
    close(g + g[::-1], np.ones(d))
    close(g.mean(), 0.5)
    close(1 / (1 - g.max()), longest, 0.005)


def test_zero_refine_bias_leaves_the_uniform_gate():
    cell = URLSTMCell(64, refine_bias="zero")
    params = zero_weights(init(cell))
    close(forget_gate(cell, params), jax.nn.sigmoid(params["params"]["bias"][:64]))


def test_shared_refine_bias_has_both_gradients(x64):
    """Equal at initialisation; d shared = d forget bias - d refine bias of the unshared cell."""
    d = 8
    shared, unshared = (
        URLSTMCell(d, share_refine_bias=share, param_dtype=jnp.float64) for share in (True, False)
    )
    x = jnp.array(np.random.default_rng(0).standard_normal((B, 5, 2)))
    outputs, gradients = [], []
    for cell in (shared, unshared):
        rnn = nn.RNN(cell)
        params = {"params": {"cell": init(cell)["params"]}}
        outputs.append(rnn.apply(params, x))
        gradient = jax.grad(lambda p, rnn=rnn: (rnn.apply(p, x) ** 2).sum())(params)
        gradients.append(gradient["params"]["cell"])
    close(*outputs, 1e-12)
    ours, theirs = (g["bias"] for g in gradients)
    close(ours[:d], theirs[:d] - theirs[d : 2 * d], 1e-12)
    close(ours[d:], theirs[d:], 1e-12)
    assert jnp.abs(theirs[d : 2 * d]).max() > 1e-3
    close(gradients[0]["recurrent_kernel"], gradients[1]["recurrent_kernel"], 1e-12)


def test_refine_bias_concerns_ur_only():
    for code in ("-R", "OR"):
        cells = [
            GatedLSTMCell(6, gates=code, refine_bias=bias, share_refine_bias=share)
            for bias in ("neg_forget", "zero")
            for share in (True, False)
        ]
        params = random_params(cells[0])
        carry, x = (jnp.ones((B, 6)), jnp.ones((B, 6))), jnp.ones((B, 2))
        reference = cells[0].apply(params, carry, x)[1]
        for cell in cells[1:]:
            np.testing.assert_array_equal(cell.apply(params, carry, x)[1], reference)


# ---- ORC-03, ORC-06: ranges of the initial gates in the cell --------------------------------


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"gates": "U-"}, 1 / 256, 1 - 1 / 256),
        ({"gates": "U-", "ugi_margin": 0.25}, 0.25, 0.75),
        ({"gates": "C-", "chrono_t_max": 500}, 0.5, 0.998),
    ],
)
def test_initial_gate_range(options, low, high):
    cell = GatedLSTMCell(256, **options)
    f = forget_gate(cell, zero_weights(init(cell)))
    assert low - 1e-6 <= f.min() < f.max() <= high + 1e-6
    assert f.max() > high - 0.02  # the range is used


# ---- ORC-07: parameter counts ----------------------------------------------------------------


def count(n, widths, config):
    """Parameters of a cell on n inputs and a stack of dense layers on its output."""
    cell = make_cell(config, sequence_length=784)
    d = cell.hidden_size
    shapes = jax.eval_shape(lambda: init(cell, n))
    sizes = (d, *widths)
    head = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)) + head


def test_count_07a():
    config = {"cell": "gated_lstm", "hidden_size": 1024}
    head = (256, 10)
    for code in ("--", "C-", "O-", "U-"):
        assert count(1, head, {**config, "gates": code}) == 3_416_842
    for code in ("-R", "OR", "UR"):
        assert count(1, head, {**config, "gates": code}) == 4_467_466
        assert count(1, head, {**config, "gates": code, "tied_input": False}) == 5_518_090
    assert count(1, head, {**config, "gates": "--", "tied_input": False}) == 4_467_466
    assert count(1, head, {"cell": "lstm", "hidden_size": 1024}) == 4_467_466
    assert count(1, head, {"cell": "urlstm", "hidden_size": 1024}) == 4_467_466
    assert count(1, head, {"cell": "gated_gru", "gates": "UR", "hidden_size": 1024}) == 4_467_466
    assert count(3, head, {**config, "gates": "UR"}) == 4_475_658
    assert count(1, head, {**config, "gates": "UR"}) - count(1, (), config) == 264_970


def test_count_07b():
    for code in ("OM", "UM"):
        config = {"cell": "gated_lstm", "gates": code, "hidden_size": 1024}
        assert count(1, (256, 10), {**config, "chunk_size": 1}) == 4_467_466
        assert count(1, (256, 10), {**config, "chunk_size": 8}) == 3_548_170
        untied = {**config, "chunk_size": 8, "tied_input": False}
        assert count(1, (256, 10), untied) == 4_730_122
    onlstm = {"cell": "onlstm", "chunk_size": 8, "hidden_size": 1024}
    assert count(1, (256, 10), onlstm) == 4_730_122


def test_count_07c():
    config = {"cell": "urlstm", "hidden_size": 256}
    assert count(10, (10,), config) == 275_978  # copying, one-hot
    assert count(2, (1,), config) == 265_473  # adding


def test_count_07d():
    config = {"cell": "lstm", "forget_bias": 0.0, "bias_init": "two_uniform"}
    assert count(1, (), {**config, "hidden_size": 128}) == 66_560
    assert count(1, (9,), {**config, "hidden_size": 128}) == 67_721
    assert count(1, (10,), {**config, "hidden_size": 100}) == 41_810


def test_count_07e():
    assert count(1, (10,), {"cell": "lstm", "hidden_size": 256}) == 266_762
    assert count(1, (10,), {"cell": "gated_gru", "gates": "--", "hidden_size": 256}) == 200_714
    # The stock GRU has one more bias, inside the reset.
    assert count(1, (10,), {"cell": "gru", "hidden_size": 256}) == 200_714 + 256


def test_count_07f():
    """The pixel enters through a dense layer of 128 units."""
    config, embedding = {"cell": "lstm", "hidden_size": 128}, 256
    assert embedding + count(128, (256, 256, 10), config) == 233_226
    assert embedding + count(128, (256, 10), config) == 167_434


# ---- ORC-09, ORC-10: cells reduce to one another ---------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_ur_with_half_refinement_is_u(tied):
    """ORC-09."""
    d = 8
    ur = GatedLSTMCell(d, gates="UR", refine_bias="zero", tied_input=tied)
    u = GatedLSTMCell(d, gates="U-", tied_input=tied)
    params = random_params(ur)
    forced = jax.tree.map(lambda p: p.at[..., d : 2 * d].set(0), params)  # r = sigmoid(0)
    without = jax.tree.map(lambda p: jnp.delete(p, jnp.arange(d, 2 * d), axis=-1), params)
    x = jax.random.normal(jax.random.key(1), (B, 6, 2))
    full, plain = (
        nn.RNN(cell).apply({"params": {"cell": p["params"]}}, x)
        for cell, p in ((ur, forced), (u, without))
    )
    close(full, plain)


def flax_params(params, d):
    """Our packed f, i, o, u in the names of Flax's LSTM: f, i, g, o with the bias inside."""
    p = params["params"]
    tree = {}
    for k, gate in enumerate("fiog"):
        part = slice(k * d, (k + 1) * d)
        tree[f"i{gate}"] = {"kernel": p["input"]["kernel"][:, part]}
        tree[f"h{gate}"] = {"kernel": p["recurrent_kernel"][:, part], "bias": p["bias"][part]}
    return {"params": {"cell": tree}}


@pytest.mark.parametrize("stock", [nn.OptimizedLSTMCell, nn.LSTMCell])
@pytest.mark.parametrize("cell", [GatedLSTMCell(8, gates="--", tied_input=False), LSTMCell(8)])
def test_untied_plain_lstm_is_the_lstm_of_flax(cell, stock):
    """ORC-09."""
    params = random_params(cell)
    x = jax.random.normal(jax.random.key(1), (B, 7, 2))
    ours = nn.RNN(cell).apply({"params": {"cell": params["params"]}}, x)
    theirs = nn.RNN(stock(8)).apply(flax_params(params, 8), x)
    close(ours, theirs, 1e-5)


def test_open_gru_is_an_elman_network():
    """ORC-10."""
    d = 5
    cell = GatedGRUCell(d, gates="--")
    params = random_params(cell)
    p = params["params"]
    p["bias"] = p["bias"].at[: 2 * d].set(100.0)  # g = s = 1
    h, x = jax.random.normal(jax.random.key(1), (B, d)), jnp.ones((B, 2))
    candidate = (..., slice(2 * d, None))
    expected = jnp.tanh(
        x @ p["input"]["kernel"][candidate]
        + p["bias"][candidate]
        + h @ p["recurrent_kernel"][candidate]
    )
    close(cell.apply(params, (h,), x)[1], expected)


# ---- torch -----------------------------------------------------------------------------------


def reorder(matrix, d, order):
    """Rows of torch's stacked gates, `(gates d, ...)`, to packed columns in another order."""
    parts = np.split(matrix, matrix.shape[0] // d)
    return np.concatenate([parts[k] for k in order]).T


def torch_case(kind, d, n):
    torch = pytest.importorskip("torch", reason="compares with torch.nn when torch is installed")
    rng = np.random.default_rng(0)
    module = getattr(torch.nn, kind)(n, d, batch_first=True).double()
    weights = {k: rng.standard_normal(tuple(v.shape)) for k, v in module.named_parameters()}
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(torch.from_numpy(weights[name]))
        x = rng.standard_normal((B, 6, n))
        outputs = module(torch.from_numpy(x))[0].numpy()
    return {k.removesuffix("_l0"): v for k, v in weights.items()}, x, outputs


def test_lstm_is_the_lstm_of_torch(x64):
    d, n = 4, 3
    w, x, expected = torch_case("LSTM", d, n)
    order = (1, 0, 3, 2)  # torch: i, f, g, o; ours: f, i, o, u
    params = {
        "input": {"kernel": reorder(w["weight_ih"], d, order)},
        "recurrent_kernel": reorder(w["weight_hh"], d, order),
        "bias": reorder(w["bias_ih"] + w["bias_hh"], d, order),
    }
    cell = LSTMCell(d, param_dtype=jnp.float64)
    close(nn.RNN(cell).apply({"params": {"cell": params}}, x), expected, 1e-12)


def test_gru_is_the_gru_of_torch(x64):
    d, n = 4, 3
    w, x, expected = torch_case("GRU", d, n)
    bias, candidate_bias = w["bias_ih"].copy(), w["bias_hh"][2 * d :]
    bias[: 2 * d] += w["bias_hh"][: 2 * d]
    params = {
        "input": {"kernel": w["weight_ih"].T},
        "recurrent_kernel": w["weight_hh"].T,
        "bias": bias,
        "candidate_bias": candidate_bias,
    }
    cell = GRUCell(d, param_dtype=jnp.float64)
    close(nn.RNN(cell).apply({"params": {"cell": params}}, x), expected, 1e-12)
