"""The forms of cells: what each leaves to its author, and that it cannot be mistaken (fault B1)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import (
    CELLS,
    AdditiveCell,
    HiddenCarry,
    LinearCell,
    LSTMCarry,
    PointwiseCell,
    RecurrentCell,
)
from lrd_jax.cells.base import FORMS
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Recurrence
from lrd_jax.streams import StepContext

B, T, N, D = 2, 5, 3, 4


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def values(seed=0, shape=(B, T, N)):
    return jnp.array(np.random.default_rng(seed).standard_normal(shape))


def random(shapes, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.array(0.5 * rng.standard_normal(p.shape), p.dtype), shapes)


def close(actual, expected, tolerance=1e-12):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance)


# ---- B1: a wrong form cannot be written ------------------------------------------------------


def advance(self, carry, *parts):
    """A step that reads zx and zh apart, as of a GRU; `AdditiveCell` would be the wrong form."""
    zx, zh = parts
    return HiddenCarry(jnp.tanh(zx * nn.sigmoid(zh)))


@pytest.mark.parametrize(
    ("form", "members"),
    [
        (RecurrentCell, {"update": advance}),  # forgets that it is not additive, as it once could
        (RecurrentCell, {"additive": False, "step": advance}),
        (RecurrentCell, {"pointwise": False, "step": advance}),
        (RecurrentCell, {"has_memory": False, "step": advance}),
        (PointwiseCell, {"additive": False, "update": advance}),
        (PointwiseCell, {"step": advance, "update": advance}),  # the fast path would not see it
        (PointwiseCell, {"project": advance, "update": advance}),
        (PointwiseCell, {"recur": advance, "update": advance}),
        (AdditiveCell, {"update": advance}),
        (CELLS["lstm"], {"update": advance}),  # derived from a cell, not from a form
        (LinearCell, {"step": advance}),
        (LinearCell, {"recurrent_inputs": ("h",)}),
    ],
)
def test_the_old_way_and_mixed_forms_are_refused(form, members):
    with pytest.raises(UserError) as error:
        carry = {} if form is LinearCell else {"carry_type": HiddenCarry}
        type("OldCell", (form,), {**carry, **members})
    message = str(error.value)
    assert "\n" not in message
    assert FORMS in message and "OldCell" in message
    assert any(repr(name) in message for name in members)


def test_a_mixin_does_not_get_round_it():
    class Old:
        def update(self, carry, zx, zh):
            return carry

    with pytest.raises(UserError, match="update"):
        type("OldCell", (Old, AdditiveCell), {})


def test_a_carry_is_named_and_has_an_h():
    class Without(NamedTuple):
        c: jax.Array

    for members in ({}, {"carry_type": Without}):
        cell = type("SomeCell", (AdditiveCell,), members)
        with pytest.raises(UserError, match="SomeCell needs a class attribute carry_type"):
            cell(4)


def test_only_time_and_context_can_be_asked_for():
    def step(self, carry, zx, h, *, position):
        return carry

    with pytest.raises(UserError, match=r"'position'.*context and time"):
        type("SomeCell", (RecurrentCell,), {"step": step, "carry_type": HiddenCarry})


class GatedCell(PointwiseCell):
    """Reads zx and zh apart: the cell of fault B1, in the form that says so."""

    carry_type = HiddenCarry

    @nn.nowrap
    def blocks(self):
        return {"z": self.hidden_size}

    @nn.nowrap
    def update(self, carry, zx, zh):
        return HiddenCarry(jnp.tanh(zx * nn.sigmoid(zh)) + 0.5 * carry.h)


def test_parts_read_apart_have_the_right_gradient(x64):
    """Fault B1 was a gradient of the recurrent kernel that is 99.8 % wrong, on the fast path."""
    cell = GatedCell(D, param_dtype=jnp.float64)
    models = [Recurrence(cell, backend=backend) for backend in ("auto", "scan")]
    params = random(models[0].init(jax.random.key(0), values()))
    fused, scan = (
        jax.grad(lambda p, m=model: (m.apply(p, values()).outputs ** 2).sum())(params)
        for model in models
    )
    close(fused, scan)
    assert jnp.abs(scan["params"]["layer_0"]["recurrent_kernel"]).max() > 0.1


# ---- Several leaves in the product: coRNN ----------------------------------------------------


class PairCarry(NamedTuple):
    z: jax.Array
    h: jax.Array


class CoRNNCell(AdditiveCell):
    """z' = z + D (tanh(W [x, z, h] + b) - gamma h - epsilon z), h' = h + D z'."""

    dt: float = 0.076
    gamma: float = 0.4
    epsilon: float = 8.0

    carry_type = PairCarry
    recurrent_inputs = ("z", "h")

    @nn.nowrap
    def blocks(self):
        return {"u": self.hidden_size}

    @nn.nowrap
    def advance(self, carry, z):
        force = jnp.tanh(z) - self.gamma * carry.h - self.epsilon * carry.z
        new = carry.z + self.dt * force
        return PairCarry(z=new, h=carry.h + self.dt * new)


def test_cornn_is_that_of_its_authors(x64):
    """YAR-02: every weight 0.5, bias 0.1, x = 1, -0.5, 2 from zero."""
    cell = CoRNNCell(1, param_dtype=jnp.float64)
    x = jnp.array([1, -0.5, 2.0]).reshape(1, 3, 1)
    model = Recurrence(cell)
    shapes = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: jnp.full_like(p, 0.5 if p.ndim > 1 else 0.1), shapes)
    out = model.apply(params, x)
    close(out.final[0], (0.063303571251, 0.008386335976), 1e-11)
    shapes = jax.eval_shape(Recurrence(CoRNNCell(256)).init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 131_584


def test_h_detach_stops_all_that_enters_the_product(x64):
    """Fast path and scan agree, and at p = 1 the rest of the step is still attached."""
    cell = CoRNNCell(D, param_dtype=jnp.float64)
    params = random(Recurrence(cell).init(jax.random.key(0), values()))

    def gradient(backend, p_block, params=params):
        model = Recurrence(cell, backend=backend, p_block=p_block)
        masks = model.draw(StepContext(jax.random.key(2)), T, B)
        return jax.jit(jax.grad(lambda p: (model.apply(p, values(), masks=masks).last ** 2).sum()))(
            params
        )

    for p_block in (0.5, 1.0):
        close(gradient("fused", p_block), gradient("scan", p_block))

    def stopped(params):
        """All paths through the product blocked, written out."""
        p = params["params"]["layer_0"]
        z = h = jnp.zeros((B, D))
        for x in jnp.moveaxis(values(), 1, 0):
            seen = jax.lax.stop_gradient(jnp.concatenate([z, h], -1))
            u = x @ p["input"]["kernel"] + p["bias"] + seen @ p["recurrent_kernel"]
            z = z + 0.076 * (jnp.tanh(u) - 0.4 * h - 8 * z)
            h = h + 0.076 * z
        return (h**2).sum()

    close(gradient("fused", 1.0), jax.grad(stopped)(params))


# ---- Any step: parameters, the index, a context ----------------------------------------------


class NormedCell(RecurrentCell):
    """An Elman network whose recurrent part is normalised, with a gain of its own."""

    carry_type = HiddenCarry

    def setup(self):
        super().setup()
        self.gain = self.param("gain", nn.initializers.ones, (self.hidden_size,), self.param_dtype)

    @nn.nowrap
    def blocks(self):
        return {"h": self.hidden_size}

    def step(self, carry, zx, h):
        zh = self.recur(h)
        return HiddenCarry(jnp.tanh(zx + self.gain * (zh - zh.mean(-1, keepdims=True))))


def test_a_step_may_have_parameters(x64):
    cell = NormedCell(D, param_dtype=jnp.float64)
    rnn, model = nn.RNN(cell), Recurrence(cell)
    params = random(model.init(jax.random.key(0), values()))
    theirs = {"params": {"cell": params["params"]["layer_0"]}}
    close(model.apply(params, values()).outputs, rnn.apply(theirs, values()))
    gradient = jax.grad(lambda p: (model.apply(p, values()).outputs ** 2).sum())(params)
    assert jnp.abs(gradient["params"]["layer_0"]["gain"]).min() > 1e-3
    with pytest.raises(UserError, match=r"fused cannot run NormedCell.*=scan"):
        model.clone(backend="fused").check()


class WrongNormedCell(AdditiveCell):
    """Its `advance` has a gain, which the gradient of the fast path would not see."""

    carry_type = HiddenCarry

    def setup(self):
        super().setup()
        self.gain = self.param("gain", nn.initializers.ones, (self.hidden_size,), self.param_dtype)

    @nn.nowrap
    def blocks(self):
        return {"h": self.hidden_size}

    def advance(self, carry, z):
        return HiddenCarry(jnp.tanh(self.gain * z))


def test_parameters_in_a_form_without_them_are_refused():
    x = jnp.zeros((B, T, N))
    with pytest.raises(UserError, match=r"WrongNormedCell may not read parameters \(.*gain"):
        Recurrence(WrongNormedCell(D)).init(jax.random.key(0), x)


class AttentionCell(RecurrentCell):
    """An LSTM-like step that looks into a memory at every step, and fades with time."""

    carry_type = LSTMCarry

    @nn.nowrap
    def blocks(self):
        return {"u": self.hidden_size}

    def step(self, carry, zx, h, *, time, context):
        scores = jnp.einsum("bd,bmd->bm", carry.h, context["keys"])  # attached, not the stopped h
        seen = jnp.einsum("bm,bmd->bd", jax.nn.softmax(scores), context["values"])
        c = 0.5 * carry.c + jnp.tanh(zx + self.recur(h) + seen) / (1 + time[:, None])
        return LSTMCarry(c=c, h=jnp.tanh(c))


def attention(**options):
    model = Recurrence(AttentionCell(D, param_dtype=jnp.float64), **options)
    context = {"keys": values(1, (B, 3, D)), "values": values(2, (B, 3, D))}
    params = random(model.init(jax.random.key(0), values(), context=context))
    return model, params, context


def test_a_step_sees_its_index_and_the_context(x64):
    """Against the step written out; the context has a gradient, each example its own."""
    model, params, context = attention()
    p = params["params"]["layer_0"]

    def written_out(context):
        c = h = jnp.zeros((B, D))
        outputs = []
        for t, x in enumerate(jnp.moveaxis(values(), 1, 0)):
            scores = jnp.einsum("bd,bmd->bm", h, context["keys"])
            seen = jnp.einsum("bm,bmd->bd", jax.nn.softmax(scores), context["values"])
            z = x @ p["input"]["kernel"] + p["bias"] + h @ p["recurrent_kernel"] + seen
            c = 0.5 * c + jnp.tanh(z) / (1 + t)
            h = jnp.tanh(c)
            outputs.append(h)
        return jnp.stack(outputs, 1)

    def outputs(context):
        return model.apply(params, values(), context=context).outputs

    close(outputs(context), written_out(context))
    ours, theirs = (
        jax.grad(lambda c, f=f: (f(c) ** 2).sum())(context) for f in (outputs, written_out)
    )
    close(ours, theirs)


@pytest.mark.slow
def test_the_index_goes_on_where_a_window_does(x64):
    """`first_step`, single steps, windows run again, and from 0 after a reset."""
    model, params, context = attention(truncate_steps=3)
    whole = model.apply(params, values(), context=context)
    head = model.apply(params, values()[:, :2], context=context)
    tail = model.apply(params, values()[:, 2:], context=context, initial=head.final, first_step=2)
    close(tail.outputs, whole.outputs[:, 2:])
    carries = head.final
    for t in range(2, T):
        asked = {"time": jnp.full(B, t), "context": context}
        carries = model.apply(params, carries, values()[:, t], method="advance", **asked)
    close(carries, whole.final)
    drawn = model.draw(None, T, B)
    args = (jnp.concatenate([values()[:, 0:2], values()[:, 2:4]]), whole, jnp.array([0, 2]), drawn)
    again = model.apply(params, *args, context=context, method="rerun")
    close(again.outputs, jnp.concatenate([whole.outputs[:, 0:2], whole.outputs[:, 2:4]]))
    resets = jnp.zeros((B, T), bool).at[:, 2].set(True)
    packed = model.apply(params, values(), context=context, resets=resets)
    close(packed.outputs[:, 2:], model.apply(params, values()[:, 2:], context=context).outputs)


def test_what_is_asked_for_must_be_given_and_the_other_way_round():
    x = jnp.zeros((B, T, N))
    with pytest.raises(UserError, match="AttentionCell sees a context"):
        Recurrence(AttentionCell(D)).init(jax.random.key(0), x)
    with pytest.raises(UserError, match="RNNCell does not ask"):
        Recurrence(CELLS["rnn"](D)).init(jax.random.key(0), x, context=x)
    with pytest.raises(UserError, match="AttentionCell needs context and time"):
        nn.RNN(AttentionCell(D)).init(jax.random.key(0), x)
