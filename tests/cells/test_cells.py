"""What every cell must do, and every cell against an independent NumPy version of its equations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lrd_jax.cells import CELLS, AdditiveCell, GatedLSTMCell, PointwiseCell, make_cell
from lrd_jax.cells.gates import GATE_CODES
from tests.cells.test_yardsticks import ORACLES as YARDSTICKS

D, N, B, T = 6, 3, 2, 4  # units, inputs, batch, steps


def variants():
    """Test id -> model configuration: every cell with every option that changes its equations."""
    yield "rnn", {"cell": "rnn"}
    yield "rnn-relu", {"cell": "rnn", "activation": "relu", "recurrent_init": "identity"}
    yield "lstm", {"cell": "lstm"}
    yield "lstm-two_uniform", {"cell": "lstm", "bias_init": "two_uniform", "forget_bias": 0.0}
    yield "gru", {"cell": "gru"}
    for code, reset in (("--", "--"), ("U-", "-R"), ("-R", "U-"), ("UR", "--"), ("UR", "UR")):
        config = {"cell": "gated_gru", "gates": code, "reset_gate": reset}
        yield f"gated_gru{code}-reset{reset}", config
    yield "urlstm", {"cell": "urlstm"}
    yield "urlstm-zero", {"cell": "urlstm", "refine_bias": "zero"}
    yield "urlstm-unshared", {"cell": "urlstm", "share_refine_bias": False}
    yield "onlstm", {"cell": "onlstm", "chunk_size": 2}
    for code in GATE_CODES:
        for tied in (True, False):
            config = {"cell": "gated_lstm", "gates": code, "tied_input": tied}
            if code[1] == "M":
                config["chunk_size"] = 2
            yield f"gated_lstm{code}-{'tied' if tied else 'untied'}", config


VARIANTS = dict(variants())
all_variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
# By default one of each structure; with the marker `slow` all.
FEW = ("rnn", "lstm", "gru", "gated_gruUR-resetUR", "urlstm", "onlstm", "gated_lstmOM-tied")
few_variants = pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, marks=() if name in FEW else pytest.mark.slow, id=name)
        for name, config in VARIANTS.items()
    ],
)
COMMON = {"hidden_size": D, "chrono_t_max": 20}


def build(config, dtype=jnp.float32, seed=0):
    """A cell and generic parameters, so that no term of the equations is 0."""
    cell = make_cell({**COMMON, **config}).clone(param_dtype=dtype)
    x = jnp.zeros((B, N), dtype)
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    shapes = jax.eval_shape(cell.init, jax.random.key(0), carry, x)
    rng = np.random.default_rng(seed)
    return cell, jax.tree.map(
        lambda p: jnp.array(0.5 * rng.standard_normal(p.shape), p.dtype), shapes
    )


def generic(cell, dtype=jnp.float32, seed=1):
    """A random state and a random sequence, batch first."""
    rng = np.random.default_rng(seed)
    fields = cell.carry_type._fields
    carry = cell.carry_type(*(jnp.array(rng.uniform(-1, 1, (B, D)), dtype) for _ in fields))
    return carry, jnp.array(rng.standard_normal((B, T, N)), dtype)


def loop(cell, params, carry, x):
    """Final state and outputs, one `cell.apply` at a time."""
    outputs = []
    for t in range(x.shape[1]):
        carry, h = cell.apply(params, carry, x[:, t])
        outputs.append(h)
    return carry, jnp.stack(outputs, axis=1)


def assert_close(actual, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# ---- the same equations in NumPy -------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_cumax(x):
    e = np.exp(x)
    return np.cumsum(e / e.sum(-1, keepdims=True), -1)


def np_refine(f, r):
    return r * (1 - (1 - f) ** 2) + (1 - r) * f**2


def layout(config):
    """The documented packing: block name -> slice of the packed axis."""
    cell, code = config["cell"], config.get("gates", "UR")
    untied = config.get("tied_input", True) is False
    if cell == "onlstm":
        code, untied = "OM", True
    if cell == "rnn":
        names = "h"
    elif cell == "lstm":
        names = "f i o u"
    elif cell == "gru":
        names = "s k u"
    elif cell == "gated_gru":
        refined = ["r"] if code[1] == "R" else []
        refined_reset = ["sr"] if config.get("reset_gate", "--")[1] == "R" else []
        names = " ".join(["g", *refined, "s", *refined_reset, "u"])
    elif code[1] == "M":
        names = "fm f im i o u" if untied else "fm f o u"
    else:
        names = "f" + (" r" if code[1] == "R" else "") + (" i" if untied else "") + " o u"
    chunk = config.get("chunk_size", 1)
    slices, start = {}, 0
    for name in names.split():
        width = D // chunk if name in ("fm", "im") else D
        slices[name] = slice(start, start + width)
        start += width
    return slices


def np_lstm_gates(config, z, b):
    """Forget and input gate from pre-activations and the biases they contain."""
    code = config.get("gates", "UR")
    tied = config.get("tied_input", True)
    if config["cell"] == "onlstm":
        code, tied = "OM", False
    if config["cell"] == "lstm":
        code, tied = "--", False
    main = np_cumax if code[0] == "O" else sigmoid
    if code[1] == "M":
        chunk = config.get("chunk_size", 1)
        fm, f = np.repeat(main(z["fm"]), chunk, -1), sigmoid(z["f"])
        if tied:  # forget gate of ordered neurons with im = 1 - fm and i = 1 - f
            w = fm * (1 - fm)
            g = f * w + (fm - w)
            return g, 1 - g
        im, i = np.repeat(1 - main(z["im"]), chunk, -1), sigmoid(z["i"])
        w = fm * im
        return f * w + (fm - w), i * w + (im - w)
    g = main(z["f"])
    if code[1] == "R":
        shared = config.get("share_refine_bias", True)
        shifted = code == "UR" and config.get("refine_bias", "neg_forget") == "neg_forget"
        g = np_refine(g, sigmoid(z["r"] - (b["f"] if shared and shifted else 0)))
    return g, 1 - g if tied else sigmoid(z["i"])


def np_step(config, params, carry, x):
    """One step in NumPy: the new carry as a tuple, h last."""
    p = {k: np.asarray(v) for k, v in params["params"].items() if k != "input"}
    cut = {name: (..., s) for name, s in layout(config).items()}
    wx = {k: np.asarray(params["params"]["input"]["kernel"])[s] for k, s in cut.items()}
    wh = {k: p["recurrent_kernel"][s] for k, s in cut.items()}
    b = {k: p["bias"][s] for k, s in cut.items()}
    h = carry[-1]
    zx = {k: x @ wx[k] + b[k] for k in cut}
    z = {k: zx[k] + h @ wh[k] for k in cut}
    cell = config["cell"]
    if cell == "rnn":
        relu = config.get("activation", "tanh") == "relu"
        return (np.maximum(z["h"], 0) if relu else np.tanh(z["h"]),)
    if cell == "gru":
        s, k = sigmoid(z["s"]), sigmoid(z["k"])
        u = np.tanh(zx["u"] + s * (h @ wh["u"] + p["candidate_bias"]))
        return (k * h + (1 - k) * u,)
    if cell == "gated_gru":
        g, s = sigmoid(z["g"]), sigmoid(z["s"])
        g = np_refine(g, sigmoid(z["r"])) if "r" in z else g
        s = np_refine(s, sigmoid(z["sr"])) if "sr" in z else s
        u = np.tanh(zx["u"] + (s * h) @ wh["u"])
        return ((1 - g) * h + g * u,)
    keep, write = np_lstm_gates(config, z, b)
    c = keep * carry[0] + write * np.tanh(z["u"])
    return c, sigmoid(z["o"]) * np.tanh(c)


@all_variants
def test_equals_numpy(config, x64):
    cell, params = build(config, jnp.float64)
    carry, x = generic(cell, jnp.float64)
    expected = tuple(np.asarray(leaf) for leaf in carry)
    for t in range(T):
        carry, h = cell.apply(params, carry, x[:, t])
        expected = np_step(config, params, expected, np.asarray(x[:, t]))
        assert_close(tuple(carry), expected, 1e-9)
        assert h is carry.h


# ---- the contract ----------------------------------------------------------------------------


@all_variants
def test_parameter_names_shapes_and_dtypes(config):
    cell, params = build(config)
    width = max(s.stop for s in layout(config).values())
    expected = {
        "input": {"kernel": (N, width)},
        "recurrent_kernel": (D, width),
        "bias": (width,),
    }
    if config["cell"] == "gru":
        expected["candidate_bias"] = (D,)
    assert jax.tree.map(jnp.shape, params["params"]) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert {k: v.stop - v.start for k, v in layout(config).items()} == cell.blocks()


@few_variants
def test_runs_in_stock_rnn_as_in_a_loop(config):
    """Also ORC-09: the scan equals step-by-step application."""
    cell, params = build(config)
    _, x = generic(cell)
    rnn = nn.RNN(cell, return_carry=True)
    start = cell.initialize_carry(jax.random.key(0), (B, N))
    expected = loop(cell, params, start, x)
    actual = jax.jit(rnn.apply)({"params": {"cell": params["params"]}}, x)
    assert_close(actual, expected, 1e-6)
    assert all(not leaf.any() for leaf in start)


@all_variants
def test_hoisted_projection_equals_steps(config):
    """ORC-09: `project` on the whole sequence, then `step`, is the cell."""
    cell, params = build(config)
    carry, x = generic(cell)

    def unroll(cell, carry, x):
        zx = cell.project(x)
        hs = []
        for t in range(T):
            carry = cell.step(carry, zx[:, t], carry.h)
            hs.append(carry.h)
        return carry, jnp.stack(hs, axis=1)

    actual = nn.apply(unroll, cell)(params, carry, x)
    assert_close(actual, loop(cell, params, carry, x), 1e-6)


@all_variants
def test_step_is_update_after_the_recurrent_product(config):
    """What the fast path builds on; the form says whether it may."""
    cell, params = build(config)
    carry, x = generic(cell)

    def parts(cell, carry, x):
        kernel, bias = cell.recurrent_weights()
        zh = carry.h @ kernel + (0 if bias is None else bias)
        zx = cell.project(x)
        return zx, zh, cell.update(carry, zx, zh), cell.update(carry, zx + zh, 0 * zh)

    if not isinstance(cell, PointwiseCell):
        assert not hasattr(cell, "update")
        return
    _, _, new, added = nn.apply(parts, cell)(params, carry, x[:, 0])
    expected, _ = cell.apply(params, carry, x[:, 0])
    assert_close(new, expected, 1e-6)
    gap = max(float(jnp.abs(a - e).max()) for a, e in zip(added, expected, strict=True))
    assert (gap < 1e-6) == isinstance(cell, AdditiveCell)


@all_variants
def test_state_keeps_shape_and_dtype(config, x64):
    for dtype in (jnp.float32, jnp.float64):
        cell, params = build(config, dtype)
        start = cell.initialize_carry(jax.random.key(0), (B, N))
        for inputs in ("uint8", "float32", "float64"):
            x = jax.ShapeDtypeStruct((B, N), inputs)
            end, h = jax.eval_shape(cell.apply, params, start, x)
            assert type(start) is type(end) is cell.carry_type
            for leaf in (*start, *end, h):
                assert (leaf.shape, leaf.dtype) == ((B, D), dtype)


@few_variants
def test_gradients(config, x64):
    cell, params = build(config, jnp.float64)
    carry, x = generic(cell, jnp.float64)

    def two_steps(params, carry, x):
        return loop(cell, params, carry, x[:, :2])

    check_grads(two_steps, (params, carry, x), order=1, modes=("rev",), atol=1e-6, rtol=1e-6)


@few_variants
def test_detached_h_still_reaches_the_pointwise_part(config):
    """`step` takes the h of the matrix products separately; only a GRU also uses the state's."""
    cell, params = build(config)
    carry, x = generic(cell)
    step = nn.apply(
        lambda cell, h: cell.step(carry._replace(h=h), cell.project(x[:, 0]), 0 * h).h, cell
    )
    gradient = jax.grad(lambda h: step(params, h).sum())(carry.h)
    assert bool(jnp.any(gradient != 0)) == (config["cell"] in ("gru", "gated_gru"))


# ---- initial values --------------------------------------------------------------------------


def initial(config, units=2048, n=N):
    cell = make_cell({"hidden_size": units, "chrono_t_max": 500, **config})
    shapes = cell.initialize_carry(jax.random.key(0), (1, n)), jnp.zeros((1, n))
    params = cell.init(jax.random.key(3), *shapes)["params"]
    ends = np.cumsum(list(cell.blocks().values()))[:-1]
    return params, dict(zip(cell.blocks(), np.split(np.asarray(params["bias"]), ends), strict=True))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"cell": "rnn"}, {}),
        ({"cell": "lstm"}, {"f": 1}),
        ({"cell": "lstm", "forget_bias": 0.5}, {"f": 0.5}),
        ({"cell": "gru"}, {}),
        ({"cell": "gated_gru", "gates": "--"}, {}),
        ({"cell": "gated_gru", "gates": "-R", "reset_gate": "-R"}, {}),
        ({"cell": "onlstm", "chunk_size": 2}, {}),
        ({"cell": "gated_lstm", "gates": "--"}, {"f": 1}),
        ({"cell": "gated_lstm", "gates": "-R", "tied_input": False}, {"f": 1}),
        ({"cell": "gated_lstm", "gates": "O-", "tied_input": False}, {}),
        ({"cell": "gated_lstm", "gates": "OR"}, {}),
        ({"cell": "gated_lstm", "gates": "OM", "tied_input": False}, {"f": 1}),
    ],
    ids=str,
)
def test_initial_biases(config, expected):
    _, bias = initial(config, units=8)
    for name, value in bias.items():
        np.testing.assert_array_equal(value, np.full_like(value, expected.get(name, 0)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "code", ["C-", "U-", *(pytest.param(code, marks=pytest.mark.slow) for code in ("UR", "UM"))]
)
def test_initial_time_scale_biases(code, tied):
    """The main gate is uniform in u (U) or in time scale (C); an untied input gate mirrors it."""
    _, bias = initial(
        {"cell": "gated_lstm", "gates": code, "tied_input": tied, "share_refine_bias": False}
    )
    main = bias["fm" if code == "UM" else "f"].astype(np.float64)
    f = np.sort(1 / (1 + np.exp(-main)))
    value = (1 / (1 - f) - 2) / 498 if code == "C-" else f
    np.testing.assert_allclose(value, np.linspace(0, 1, f.size), atol=0.04)  # Kolmogorov distance
    if code == "UM":
        np.testing.assert_array_equal(bias["f"], np.ones_like(main))
        if not tied:
            assert abs(np.corrcoef(main, bias["im"])[0, 1]) < 0.09  # drawn independently
            assert not bias["i"].any()
    elif not tied:
        np.testing.assert_array_equal(bias["i"], -bias["f"])
    if code == "UR":
        np.testing.assert_array_equal(bias["r"], -bias["f"])
    assert not bias["u"].any()
    assert not bias["o"].any()


def test_shared_refine_bias_starts_at_zero():
    for options in (
        {},
        {"refine_bias": "zero"},
        {"refine_bias": "zero", "share_refine_bias": False},
    ):
        _, bias = initial({"cell": "urlstm", **options}, units=8)
        assert not bias["r"].any()
        assert bias["f"].any()


def test_gru_gates_start_uniform():
    _, bias = initial({"cell": "gated_gru", "gates": "UR", "reset_gate": "U-"})
    for name in ("g", "s"):
        f = np.sort(1 / (1 + np.exp(-bias[name])))
        np.testing.assert_allclose(f, np.linspace(0, 1, f.size), atol=0.04)
    assert abs(np.corrcoef(bias["g"], bias["s"])[0, 1]) < 0.09
    assert not bias["r"].any()
    assert not bias["u"].any()


def test_master_margin_uses_the_master_units():
    """12 units in chunks of 4 have 3 masters: u lies in [1/3, 2/3]."""
    _, bias = initial({"cell": "gated_lstm", "gates": "UM", "chunk_size": 4}, units=12)
    assert np.abs(bias["fm"]).max() <= np.log(2) + 1e-6


def test_h_detach_bias():
    """Sum of two U(-a, a): triangular on (-2 a, 2 a) with variance 2 a^2 / 3."""
    _, bias = initial({"cell": "lstm", "bias_init": "two_uniform", "forget_bias": 0.0})
    values = np.concatenate(list(bias.values())) * np.sqrt(2048)
    assert 1.8 < np.abs(values).max() <= 2
    np.testing.assert_allclose(values.var(), 2 / 3, rtol=0.05)
    np.testing.assert_allclose((np.abs(values) < 1).mean(), 3 / 4, atol=0.02)


@pytest.mark.parametrize(
    ("init", "std", "bound"),
    [
        ("uniform_rsqrt", lambda n, d: 1 / np.sqrt(3 * d), lambda n, d: 1 / np.sqrt(d)),
        ("xavier", lambda n, d: np.sqrt(2 / (n + d)), None),
        ("trunc_normal", lambda n, d: 0.8796 / np.sqrt(n), lambda n, d: 2 / np.sqrt(n)),
    ],
)
def test_kernel_init(init, std, bound):
    n, d = 40, 100
    params, _ = initial({"cell": "urlstm", "kernel_init": init}, units=d, n=n)
    for kernel, rows in ((params["input"]["kernel"], n), (params["recurrent_kernel"], d)):
        np.testing.assert_allclose(np.std(kernel), std(rows, d), rtol=0.03)
        np.testing.assert_allclose(np.mean(kernel), 0, atol=0.05 * std(rows, d))
        if bound:
            largest = np.abs(kernel).max()
            assert 0.95 * bound(rows, d) < largest <= bound(rows, d) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["lstm", "gru", "urlstm", "rnn"])
@pytest.mark.parametrize("init", ["orthogonal", "identity"])
def test_recurrent_init_is_of_each_block(name, init):
    cell = make_cell({"cell": name, "hidden_size": D, "recurrent_init": init, "chrono_t_max": 20})
    plain = cell.clone(recurrent_init="kernel_init")
    params, other = (
        c.init(jax.random.key(0), generic(c)[0], jnp.zeros((B, N)))["params"] for c in (cell, plain)
    )
    assert_close(params["input"], other["input"], 0)  # only the recurrent kernel is another
    blocks = np.split(np.asarray(params["recurrent_kernel"]), len(cell.blocks()), axis=1)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(D), atol=1e-5)
        if init == "identity":
            np.testing.assert_array_equal(block, np.eye(D))
    if init == "orthogonal" and len(blocks) > 1:
        assert np.abs(blocks[0] - blocks[1]).max() > 0.1


@pytest.mark.parametrize("name", CELLS)
def test_initialisers_have_an_effect_or_are_told_to_have_none(name):
    def drawn(**options):
        cell = make_cell({**COMMON, "cell": name, **options})
        x = jnp.zeros((1, N))
        carry = cell.initialize_carry(jax.random.key(0), x.shape)
        return str(jax.make_jaxpr(cell.init)(jax.random.key(0), carry, x))

    told = make_cell({**COMMON, "cell": name}).without_effect()
    for option, value in (("kernel_init", "xavier"), ("recurrent_init", "orthogonal")):
        assert (drawn(**{option: value}) == drawn()) == (option in told), option


def test_identity_recurrence():
    """An IRNN with no input keeps its state."""
    config = {"cell": "rnn", "activation": "relu", "recurrent_init": "identity"}
    cell = make_cell({"hidden_size": D, **config})
    h = jnp.abs(generic(cell)[0].h)
    params = cell.init(jax.random.key(0), (h,), jnp.zeros((B, N)))
    assert_close(cell.apply(params, (h,), jnp.zeros((B, N)))[1], h, 0)


def test_every_cell_is_tested():
    assert {config["cell"] for config in VARIANTS.values()} | set(YARDSTICKS) == set(CELLS)
    tested = {c.get("gates") for c in VARIANTS.values() if CELLS[c["cell"]] is GatedLSTMCell}
    assert tested == set(GATE_CODES)
