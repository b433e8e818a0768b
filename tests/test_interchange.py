"""Weights to and from PyTorch's modules and a PyTorch UR-LSTM."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import GatedLSTMCell, GRUCell, LSTMCell, RNNCell, URLSTMCell
from lrd_jax.errors import UserError
from lrd_jax.interchange import export_weights, import_weights
from lrd_jax.recurrence import Recurrence

B, T, N, D = 3, 6, 2, 4
CELLS = {"LSTM": LSTMCell, "GRU": GRUCell, "URLSTM": URLSTMCell}
SHAPES = {"single": (1, False), "stacked": (3, False), "bidirectional": (2, True)}
CASES = [
    pytest.param(kind, *shape, id=f"{kind}-{name}")
    for kind in CELLS
    for name, shape in SHAPES.items()
    if not (kind == "URLSTM" and shape[1])
]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def recurrence(kind, layers=1, bidirectional=False, dtype=jnp.float32, **options):
    cell = CELLS[kind](D, param_dtype=dtype)
    return Recurrence(cell, num_layers=layers, bidirectional=bidirectional, **options)


def shapes(kind, layers=1, bidirectional=False):
    """Names and shapes as PyTorch documents them."""
    gates = 3 if kind == "GRU" else 4
    for layer in range(layers):
        fan_in = N if layer == 0 else D * (1 + bidirectional)
        if kind == "URLSTM":
            prefix = f"layers.{layer}." if layers > 1 else ""
            yield prefix + "igates.weight", (4 * D, fan_in)
            yield prefix + "hgates.weight", (4 * D, D)
            yield prefix + "igates.bias", (4 * D,)
            yield prefix + "hgates.bias", (4 * D,)
            yield prefix + "forget_bias", (D,)
            continue
        for suffix in ("", "_reverse") if bidirectional else ("",):
            yield f"weight_ih_l{layer}{suffix}", (gates * D, fan_in)
            yield f"weight_hh_l{layer}{suffix}", (gates * D, D)
            yield f"bias_ih_l{layer}{suffix}", (gates * D,)
            yield f"bias_hh_l{layer}{suffix}", (gates * D,)


def arrays(kind, layers=1, bidirectional=False, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape in shapes(kind, layers, bidirectional)
    }


def inputs(dtype=jnp.float32):
    return jnp.array(np.random.default_rng(1).standard_normal((B, T, N)), dtype)


def random_variables(model):
    rng = np.random.default_rng(2)
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs())
    return jax.tree.map(lambda p: jnp.array(rng.standard_normal(p.shape), p.dtype), variables)


# ---- Against NumPy and PyTorch ---------------------------------------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def numpy_outputs(kind, w, x):
    """One layer with PyTorch's names and packing, step by step."""
    h = c = np.zeros((B, D))
    outputs = []
    for t in range(T):
        if kind == "URLSTM":
            zi = x[:, t] @ w["igates.weight"].T + w["igates.bias"]
            zh = h @ w["hgates.weight"].T + w["hgates.bias"]
            f, r, u, o = np.split(zi + zh, 4, axis=1)
            f, r = sigmoid(f + w["forget_bias"]), sigmoid(r - w["forget_bias"])
            g = 2 * r * f + (1 - 2 * r) * f**2
            c = g * c + (1 - g) * np.tanh(u)
            h = sigmoid(o) * np.tanh(c)
        else:
            zi = x[:, t] @ w["weight_ih_l0"].T + w["bias_ih_l0"]
            zh = h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
            if kind == "LSTM":
                i, f, u, o = np.split(zi + zh, 4, axis=1)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
                h = sigmoid(o) * np.tanh(c)
            else:
                (ri, zi, ni), (rh, zh, nh) = np.split(zi, 3, axis=1), np.split(zh, 3, axis=1)
                n = np.tanh(ni + sigmoid(ri + rh) * nh)
                z = sigmoid(zi + zh)
                h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("kind", CELLS)
def test_outputs_against_numpy(kind, x64):
    weights = arrays(kind, dtype=np.float64)
    model = recurrence(kind, dtype=jnp.float64)
    out = model.apply(import_weights(model, weights), inputs(jnp.float64))
    expected = numpy_outputs(kind, weights, np.asarray(inputs(jnp.float64)))
    np.testing.assert_allclose(out.outputs, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"share_refine_bias": False}, {"refine_bias": "zero"}], ids=["unshared", "zero"]
)
def test_urlstm_with_a_bias_of_its_own(options, x64):
    weights = arrays("URLSTM", dtype=np.float64)
    model = Recurrence(URLSTMCell(D, param_dtype=jnp.float64, **options))
    variables = import_weights(model, weights)
    out = model.apply(variables, inputs(jnp.float64))
    expected = numpy_outputs("URLSTM", weights, np.asarray(inputs(jnp.float64)))
    np.testing.assert_allclose(out.outputs, expected, rtol=0, atol=1e-12)
    back = export_weights(model, variables)
    expected = numpy_outputs("URLSTM", back, np.asarray(inputs(jnp.float64)))
    np.testing.assert_allclose(out.outputs, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-10)])
@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional"), [c for c in CASES if "URLSTM" not in c.id]
)
def test_outputs_against_torch(kind, layers, bidirectional, dtype, tolerance, x64):
    """Theirs into ours, and ours into theirs."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch when it is installed")
    real = getattr(torch, dtype)
    module = getattr(torch.nn, kind)(
        N, D, num_layers=layers, bidirectional=bidirectional, batch_first=True, dtype=real
    )
    model = recurrence(kind, layers, bidirectional, jnp.dtype(dtype))
    x = inputs(dtype)

    def theirs():
        with torch.no_grad():
            return module(torch.tensor(np.asarray(x)))[0].numpy()

    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    out = jax.jit(model.apply)(import_weights(model, weights), x).outputs
    assert out.dtype == dtype
    np.testing.assert_allclose(out, theirs(), rtol=0, atol=tolerance)

    variables = random_variables(model)
    state = {k: torch.tensor(v) for k, v in export_weights(model, variables).items()}
    module.load_state_dict(state)
    out = jax.jit(model.apply)(variables, x).outputs
    np.testing.assert_allclose(out, theirs(), rtol=0, atol=tolerance)


# ---- Round trips, files ----------------------------------------------------------------------


def assert_equal_trees(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize(("kind", "layers", "bidirectional"), CASES)
def test_round_trip_is_exact(kind, layers, bidirectional):
    model = recurrence(kind, layers, bidirectional)
    variables = random_variables(model)
    weights = export_weights(model, variables)
    assert {k: v.shape for k, v in weights.items()} == dict(shapes(kind, layers, bidirectional))
    assert all(v.dtype == np.float32 and v.flags.c_contiguous for v in weights.values())
    assert_equal_trees(import_weights(model, weights), variables)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="an optional dependency")
    model = recurrence("GRU", 2, True)
    variables = random_variables(model)
    path = tmp_path / f"weights{suffix}"
    export_weights(model, variables, path, prefix="encoder.rnn.")
    assert_equal_trees(import_weights(model, path, prefix="encoder.rnn."), variables)
    with pytest.raises(UserError, match=r"encoder\.rnn\.bias_hh_l0"):
        import_weights(model, str(path))


def test_prefix_leaves_the_rest_of_a_model_alone():
    weights = {f"rnn.{k}": v for k, v in arrays("LSTM").items()} | {"head.weight": np.ones((2, D))}
    model = recurrence("LSTM")
    assert_equal_trees(
        import_weights(model, weights, "rnn."), import_weights(model, arrays("LSTM"))
    )


def test_import_fits_the_initialised_tree():
    """The same names and dtypes as `init`, a learnt initial state included."""
    model = recurrence("LSTM", 2, learn_initial=True)
    variables = import_weights(model, arrays("LSTM", 2))
    initial = model.init(jax.random.key(0), inputs())
    assert jax.tree.structure(variables) == jax.tree.structure(initial)
    assert [p.dtype for p in jax.tree.leaves(variables)] == [
        p.dtype for p in jax.tree.leaves(initial)
    ]
    assert export_weights(model, variables).keys() == arrays("LSTM", 2).keys()
    variables["params"]["initial_1_c"] = jnp.ones(D)
    with pytest.raises(UserError, match="initial state"):
        export_weights(model, variables)


# ---- As people hold them ---------------------------------------------------------------------


class Tensor:
    """What is needed of a `torch.Tensor` that requires gradients, lies on a GPU or is bfloat16."""

    def __init__(self, array, detached=False, on_cpu=False, double=False):
        self._array, self._state = array, (detached, on_cpu, double)

    @property
    def shape(self):
        return self._array.shape

    def detach(self):
        return Tensor(self._array, True, *self._state[1:])

    def cpu(self):
        return Tensor(self._array, self._state[0], True, self._state[2])

    def double(self):
        return Tensor(self._array.astype(np.float64), *self._state[:2], True)

    def is_complex(self):
        return np.iscomplexobj(self._array)

    def numpy(self):
        if not all(self._state):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        return self._array

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert this tensor to numpy. Use Tensor.cpu() first.")


def half(array):
    """In bfloat16, with what a model that trains in it would hold."""
    return np.asarray(jnp.asarray(array, jnp.bfloat16))


@pytest.mark.parametrize("kind", CELLS)
def test_tensors_are_taken(kind):
    model, weights = recurrence(kind), arrays(kind)
    expected = import_weights(model, weights)
    tensors = {name: Tensor(value) for name, value in weights.items()}
    assert_equal_trees(import_weights(model, tensors), expected)
    rounded = {name: half(value) for name, value in weights.items()}
    expected = import_weights(model, {k: np.float32(v) for k, v in rounded.items()})
    assert_equal_trees(import_weights(model, rounded), expected)
    tensors = {name: Tensor(value) for name, value in rounded.items()}
    assert_equal_trees(import_weights(model, tensors), expected)


def test_torch_parameters_as_they_are():
    """Requiring gradients, in every floating type, in a model, without biases."""
    torch = pytest.importorskip("torch", reason="reads PyTorch's tensors when it is installed")
    for bias in (True, False):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            model = torch.nn.Sequential(torch.nn.LSTM(N, D, bias=bias), torch.nn.Linear(D, 1))
            model = model.to(dtype)
            plain = {k: v.double().numpy() for k, v in model.state_dict().items()}
            expected = import_weights(recurrence("LSTM"), plain, "0.")
            named = dict(model.named_parameters())
            assert_equal_trees(import_weights(recurrence("LSTM"), named, "0"), expected)
    assert "state_dict()" in refusal(recurrence("LSTM"), model[0])
    meta = torch.nn.LSTM(N, D, device="meta").state_dict()
    assert "weight_ih_l0 cannot be read" in refusal(recurrence("LSTM"), meta)


def test_bfloat16_goes_through_files(tmp_path):
    """Exact there and back; files hold what NumPy has, and bfloat16 of others is read."""
    save = pytest.importorskip("safetensors.numpy", reason="an optional dependency").save_file
    model = recurrence("GRU", dtype=jnp.bfloat16)
    variables = random_variables(model)
    for name in ("weights.npz", "weights.safetensors"):
        written = export_weights(model, variables, tmp_path / name)
        assert {v.dtype for v in written.values()} == {np.dtype(np.float32)}
        assert_equal_trees(import_weights(model, tmp_path / name), variables)
    path = tmp_path / "half.safetensors"
    save({name: half(value) for name, value in written.items()}, path)
    assert_equal_trees(import_weights(model, path), variables)


@pytest.mark.parametrize("kind", CELLS)
def test_a_module_without_biases_has_zeros(kind):
    model, weights = recurrence(kind, 2), arrays(kind, 2)
    bare = {k: v for k, v in weights.items() if ".bias" not in k and "bias_" not in k[:5]}
    assert len(bare) < len(weights)
    zeros = {k: v if k in bare else np.zeros_like(v) for k, v in weights.items()}
    assert_equal_trees(import_weights(model, bare), import_weights(model, zeros))
    # A bias that one layer lacks was lost.
    lost = next(name for name in weights if name not in bare)
    assert f"{lost} missing" in refusal(model, {k: v for k, v in weights.items() if k != lost})


def test_a_prefix_without_its_dot(tmp_path):
    model = recurrence("LSTM")
    variables = random_variables(model)
    path = tmp_path / "weights.npz"
    written = export_weights(model, variables, path, prefix="encoder.rnn")
    assert written.keys() == export_weights(model, variables, prefix="encoder.rnn.").keys()
    for prefix in ("encoder.rnn", "encoder.rnn."):
        assert_equal_trees(import_weights(model, path, prefix), variables)
    glued = {f"rnn_{k}": v for k, v in arrays("LSTM").items()}
    assert_equal_trees(import_weights(model, glued, "rnn_"), import_weights(model, arrays("LSTM")))


def test_the_prefix_that_is_lacking_is_named():
    single = {f"layers.0.{name}": value for name, value in arrays("URLSTM").items()}
    model = recurrence("URLSTM")
    assert refusal(model, single).endswith("such weights lie under prefix='layers.0.'")
    variables = import_weights(model, single, "layers.0.")
    assert_equal_trees(variables, import_weights(model, arrays("URLSTM")))
    assert export_weights(model, variables, prefix="layers.0.").keys() == single.keys()
    two = {f"{side}.{k}": v for side in ("b", "a") for k, v in arrays("LSTM").items()}
    expected = "such weights lie under prefix='a.' and prefix='b.'"
    assert refusal(recurrence("LSTM"), two).endswith(expected)
    assert refusal(recurrence("LSTM"), two, prefix="c").endswith(expected)


# ---- Bad input -------------------------------------------------------------------------------


def refusal(model, source, **options):
    with pytest.raises(UserError) as caught:
        import_weights(model, source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_names_and_shapes():
    model, weights = recurrence("LSTM"), arrays("LSTM")
    assert "weight_hh_l0 missing" in refusal(
        model, {k: v for k, v in weights.items() if k != "weight_hh_l0"}
    )
    assert "weight_hr_l0 not known" in refusal(model, {**weights, "weight_hr_l0": np.ones(2)})
    assert "bias_hh_l1" in refusal(model, arrays("LSTM", 2))
    assert "missing" in refusal(recurrence("LSTM", 2), weights)
    assert "(9, 9)" in refusal(model, {**weights, "weight_hh_l0": np.ones((9, 9))})
    assert "shape" in refusal(model, {**weights, "weight_ih_l0": np.float32(1)})
    assert "weight_ih_l0" in refusal(recurrence("GRU"), weights)
    assert "igates.weight" in refusal(recurrence("URLSTM"), weights)
    assert "'other.'" in refusal(model, weights, prefix="other.")


def test_what_holds_no_real_numbers():
    model, weights = recurrence("LSTM"), arrays("LSTM")
    for odd in (
        weights["weight_hh_l0"] + 1j,
        Tensor(weights["weight_hh_l0"] + 1j),
        np.full((4 * D, D), "1"),
        np.full((4 * D, D), None),
        [[1, 2], [3]],
        np.zeros((4 * D, D), "V2"),
    ):
        line = refusal(model, {**weights, "weight_hh_l0": odd})
        assert line.startswith("weight_hh_l0 cannot be read as real numbers")
    # Of a larger model, they do not matter.
    larger = {f"rnn.{k}": v for k, v in weights.items()} | {"names": np.array(["a"])}
    import_weights(model, larger, "rnn")
    for source in (list(weights.items()), object(), None, {1: weights["bias_ih_l0"]}):
        assert "state_dict()" in refusal(model, source)


def test_cells_without_a_form_in_torch():
    for cell in (RNNCell(D), GatedLSTMCell(D)):
        assert "no form" in refusal(Recurrence(cell), {})
    assert "no form" in refusal(Recurrence(URLSTMCell(D, tied_input=False)), {})
    bare = LSTMCell(D, forget_bias=0.0, use_bias=False)
    assert "use_bias=True" in refusal(Recurrence(bare), {})
    assert "one direction" in refusal(recurrence("URLSTM", 1, True), {})


@pytest.mark.parametrize("name", ["weights.npz", "weights.safetensors", "weights.pt"])
def test_unreadable_files(tmp_path, name):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors", reason="an optional dependency")
    path, model = tmp_path / name, recurrence("LSTM")
    refusal(model, path)
    path.write_bytes(b"something else")
    assert name in refusal(model, path)
    if name.endswith(".pt"):
        with pytest.raises(UserError, match=r"\.safetensors"):
            export_weights(model, random_variables(model), path)


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    assert "pip install" in refusal(recurrence("LSTM"), path)


def test_variables_of_another_recurrence_are_refused():
    """Also those that fit in part: a layer too many would be left out without a word."""
    x = jnp.ones((1, 2, 3))
    one, two = (Recurrence(LSTMCell(4), num_layers=layers) for layers in (1, 2))
    of_one, of_two = (model.init(jax.random.key(0), x) for model in (one, two))
    seeds = jax.tree.map(lambda leaf: leaf[None], of_one)
    missing = (
        "are not those of a LSTMCell of 4 units in 1 layer: give {'params': ...} as its `init`"
    )
    for recurrence, variables, message in (
        (one, of_two, "a LSTMCell of 4 units in 1 layer has no layer_1, and the variables have"),
        (two, of_one, "are not those of a LSTMCell of 4 units in 2 layers"),
        (Recurrence(LSTMCell(5)), of_one, "input/kernel has shape (3, 16), but a LSTMCell of 5"),
        (one, seeds, "input/kernel has shape (1, 3, 16)"),
        (Recurrence(GRUCell(4)), of_one, "are not those of a GRUCell"),
        (one, of_one["params"], missing),
        (one, None, missing),
        (one, {"params": {"layer_0": "x"}}, missing),
        (LSTMCell(4), of_one, "the recurrence is of type LSTMCell: give lrd_jax.Recurrence"),
    ):
        with pytest.raises(UserError) as caught:
            export_weights(recurrence, variables)
        assert message in str(caught.value)
    with pytest.raises(UserError, match=r"prefix=3: must be a string"):
        export_weights(one, of_one, prefix=3)
