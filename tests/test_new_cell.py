"""The code of docs/new_cell.md, run as it is printed there."""

import re
import runpy
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrd_jax.cells import CELLS, make_cell
from lrd_jax.config import command_line
from lrd_jax.models import make_recurrence

PAGE = Path(__file__).parents[1] / "docs" / "new_cell.md"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Every block of the page, in the file that its first line names."""
    blocks = re.findall(r"^```python (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    names = ["janet.py", "configs/janet_pdigits.py", "check.py", "mingru.py", "check_linear.py"]
    assert [name for name, _ in blocks] == names
    for name, code in blocks:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("janet", "my_mingru"):
        CELLS.pop(name, None)
        sys.modules.pop(name, None)


def test_check(files):
    """Scan equals fused, and the gradient is right: the page's own check."""
    runpy.run_path(str(files / "check.py"))


@pytest.mark.slow
def test_linear(files):
    """The parallel scan equals single steps: the page's own check, and the authors' number."""
    runpy.run_path(str(files / "check_linear.py"))
    import mingru  # pyright: ignore[reportMissingImports] - written by the fixture

    from lrd_jax.recurrence import Recurrence

    model = Recurrence(mingru.MinGRUCell(1))
    x = jnp.array([1, -0.5, 2.0]).reshape(1, 3, 1)
    kernel = jnp.array([[0.3, 0.5]])  # YAR-05: W_z, W_h, no biases
    params = {"layer_0": {"input": {"kernel": kernel}, "bias": jnp.zeros(2)}}
    assert model.apply({"params": params}, x).last[0, 0] == pytest.approx(1.149641481, abs=1e-6)


def test_inside_stock_flax(files):
    """`nn.RNN` steps the cell itself; `Recurrence` gives the same."""
    import janet  # pyright: ignore[reportMissingImports] - written by the fixture

    rnn = nn.RNN(janet.JANETCell(5))
    x = jax.random.normal(jax.random.key(0), (2, 6, 3))
    variables = rnn.init(jax.random.key(1), x)
    from lrd_jax.recurrence import Recurrence

    ours = {"params": {"layer_0": variables["params"]["cell"]}}
    outputs = Recurrence(janet.JANETCell(5)).apply(ours, x).outputs
    np.testing.assert_allclose(outputs, rnn.apply(variables, x), rtol=0, atol=1e-6)


def test_config_trains_it(files):
    """The config registers the cell and sets its key; a few steps through `Recurrence` learn."""
    config = command_line.load_config(f"{files / 'configs' / 'janet_pdigits.py'}:quick")
    with config.unlocked():
        config.model.beta = 0.25
    assert make_cell(config.model).beta == 0.25

    model = make_recurrence(config, length=8)
    x = jax.random.normal(jax.random.key(0), (32, 8, 2))
    target = x[:, 2, 0]  # to be remembered to the end
    variables = model.init(jax.random.key(1), x)
    tx = optax.adam(0.03)

    @jax.jit
    def step(variables, state):
        def loss(variables):
            return jnp.mean((model.apply(variables, x).last[:, 0] - jnp.tanh(target)) ** 2)

        value, gradient = jax.value_and_grad(loss)(variables)
        updates, state = tx.update(gradient, state, variables)
        return optax.apply_updates(variables, updates), state, value

    state, losses = tx.init(variables), []
    for _ in range(60):
        variables, state, value = step(variables, state)
        losses.append(float(value))
    assert losses[-1] < 0.3 * losses[0]
