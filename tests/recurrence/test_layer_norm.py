"""LayerNorm inside the recurrence: against a loop in NumPy, and where it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import make_cell
from lrd_jax.errors import UserError
from lrd_jax.interchange import export_weights
from lrd_jax.recurrence import Recurrence
from lrd_jax.recurrence.unroll import choose_backend
from tests.recurrence.recurrence_cases import B, D, N, T, draws, inputs, random_tree


def normalised(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm(p, x):
    """The LayerNorm-LSTM of Ba et al.: h at all steps, `(batch, time, d)`."""
    h = c = np.zeros((B, D))
    outputs = []
    for t in range(T):
        z = p["recurrent_gain"] * normalised(h @ p["recurrent_kernel"]) + p["bias"]
        z = z + p["input_gain"] * normalised(x[:, t] @ p["input"]["kernel"])
        f, i, o, u = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(p["memory_gain"] * normalised(c) + p["memory_bias"])
        outputs.append(h)
    return np.stack(outputs, axis=1)


def normalising(name, **options):
    cell = make_cell({"cell": name, "hidden_size": D, "layer_norm": True, "chrono_t_max": 20})
    return Recurrence(cell.clone(param_dtype=jnp.float64), **options)


def test_lstm_is_the_one_of_the_paper(x64):
    model = normalising("lstm", p_block=0.5, truncate_steps=3)
    drawn = model.init(jax.random.key(0), jnp.zeros((B, T, N)))
    for name in ("input_gain", "recurrent_gain", "memory_gain"):
        np.testing.assert_array_equal(drawn["params"]["layer_0"][name], 1)
    params, x = random_tree(drawn, 0, 0.7), inputs()
    weights = jax.tree.map(np.asarray, params["params"]["layer_0"])
    found = model.apply(params, x, masks=model.draw(draws(), T, B)).outputs
    np.testing.assert_allclose(found, lstm(weights, np.asarray(x)), rtol=0, atol=1e-10)
    gradient = jax.grad(lambda p: model.apply(p, x, deterministic=True).outputs.sum())(params)
    leaves = jax.tree.leaves(gradient)
    assert len(leaves) == 7 and all(np.abs(leaf).max() > 1e-6 for leaf in leaves)


@pytest.mark.parametrize("name", ["rnn", "gru", "urlstm", "onlstm"])
def test_every_pointwise_cell_has_it_on_the_scan_path(name, x64):
    model = normalising(name)
    assert choose_backend("auto", model.cell) == "scan"
    with pytest.raises(
        UserError, match=r"cannot run .*gains of layer_norm.*use model\.backend=scan"
    ):
        choose_backend("fused", model.cell)
    # What is normalised does not know the scale of its kernel.
    params = random_tree(model.init(jax.random.key(0), jnp.zeros((B, T, N))), 0, 3.0)
    scaled = jax.tree_util.tree_map_with_path(
        lambda path, p: 1e3 * p if path[-1].key in ("kernel", "recurrent_kernel") else p, params
    )
    outputs = [model.apply(p, inputs()).outputs for p in (params, scaled)]
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-3)
    assert np.abs(outputs[0]).max() > 0.1


def test_pytorch_has_no_form_of_it():
    model = Recurrence(make_cell({"cell": "lstm", "hidden_size": D, "layer_norm": True}))
    with pytest.raises(UserError, match="layer_norm"):
        export_weights(model, model.init(jax.random.key(0), jnp.zeros((B, T, N))))
