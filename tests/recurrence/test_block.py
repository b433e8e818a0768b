"""Residual and pre-norm blocks: layer by layer against single layers, on every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.recurrence import Recurrence
from tests.recurrence.recurrence_cases import (
    B,
    D,
    T,
    assert_close,
    build,
    cell_of,
    drawing,
    draws,
    inputs,
    weighted,
)

LENGTHS = (T, 5, 1)


def layer_norm(y, weights):
    y = y - y.mean(-1, keepdims=True)
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
    return y * weights["scale"] + weights["bias"]


@pytest.mark.parametrize("block", ["residual", "prenorm"])
def test_layers_above_the_first_add_to_what_they_read(block, x64):
    model, params = build("gru", num_layers=3, block=block)
    weights, x = params["params"], inputs()
    single, y = Recurrence(cell_of("gru")), inputs()
    for layer in range(3):
        read = y
        if layer and block == "prenorm":
            read = layer_norm(y, weights[f"norm_{layer}"])
        own = {"params": {"layer_0": weights[f"layer_{layer}"]}}
        out = single.apply(own, read).outputs
        y = y + out if layer else out
    found = model.apply(params, x)
    np.testing.assert_allclose(found.outputs, y, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.last, found.outputs[:, -1])

    def step_by_step(module, x):
        carries = module.initial_carry(B)
        for t in range(T):
            carries = module.advance(carries, x[:, t])
        return carries

    assert_close(model.apply(params, x, method=step_by_step), found.final, 1e-12)


def test_backends_agree_with_everything_else_in_force(x64):
    options = {"bidirectional": True, "num_layers": 2, "dropout": 0.3, "p_block": 0.4}
    options |= {"truncate_steps": 3, "zoneout_c": 0.2, "block": "prenorm"}
    found = []
    for backend in ("scan", "fused"):
        model, params = build("lstm", backend=backend, **options)

        def loss(params, model=model):
            out = drawing(model, params, inputs(), draws(2), lengths=jnp.array(LENGTHS))
            return weighted((out.outputs, out.last)), out

        gradient, out = jax.jit(jax.grad(loss, has_aux=True))(params)
        found.append(gradient)
        for row, length in enumerate(LENGTHS):
            ends = out.outputs[row, length - 1, :D], out.outputs[row, 0, D:]
            np.testing.assert_array_equal(out.last[row], jnp.concatenate(ends))
    assert_close(*found, 1e-10)
