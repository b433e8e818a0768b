"""`Recurrence` refuses, in one line, what it cannot work with, and takes lists as arrays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import LSTMCarry, LSTMCell
from lrd_jax.errors import UserError
from lrd_jax.recurrence import Masks, Recurrence

B, T, D = 2, 4, 3
X = jnp.ones((B, T, 2))
PLAIN = Recurrence(LSTMCell(D))
PARAMS = PLAIN.init(jax.random.key(0), X)


def refused(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"p_block": 2.0}, r"p_block=2.0 is a probability; use a value in \[0, 1\]"),
        ({"p_block": -0.1}, "p_block=-0.1 is a probability"),
        ({"p_block": float("nan")}, "p_block=nan: must be a finite number"),
        ({"p_block": "0.5"}, "p_block='0.5': must be a finite number"),
        ({"c_block": 1.5}, "c_block=1.5 is a probability"),
        ({"mask_scope": "x"}, "unknown mask_scope='x': use one of batch, example"),
        ({"mask_scope": "exmaple"}, "did you mean example"),
        ({"stack_mask": "layer"}, "unknown stack_mask='layer'"),
        ({"truncate_steps": -3}, "truncate_steps=-3 must be 0"),
        ({"truncate_steps": 2.0}, "truncate_steps=2.0: must be a whole number"),
        ({"truncate_from": "middle"}, "unknown truncate_from='middle'"),
        ({"dropout": 1.0}, r"dropout=1.0 is a rate; use a value in \[0, 1\)"),
        ({"dropout": True}, "dropout=True: must be a finite number"),
        ({"num_layers": 0}, "num_layers=0 must be 1 or more"),
        ({"num_layers": "2"}, "num_layers='2': must be a whole number"),
        ({"bidirectional": 1}, "bidirectional=1: must be True or False"),
        ({"recompute": "yes"}, "recompute='yes': must be True or False"),
        ({"cell": LSTMCell}, "cell is the class LSTMCell: give one"),
        ({"cell": nn.LSTMCell(3)}, "flax.linen.RNN unrolls Flax's own"),
        ({"cell": "lstm"}, "cell is of type str"),
    ],
)
def test_attributes(attributes, message):
    refused(lambda: Recurrence(**({"cell": LSTMCell(D)} | attributes)), message)


def test_a_backend_that_is_none():
    refused(
        lambda: PLAIN.clone(backend="fats").init(jax.random.key(0), X),
        "unknown model.backend='fats'",
    )


C = jnp.zeros((B, D))
GOOD = (LSTMCarry(C, C),)
KEEP = jnp.ones((B, T, D), bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": [5, 3]}, r"lengths=\[5, 3\]: must be from 0 to the 4 steps of x"),
        ({"lengths": [4, -1]}, r"lengths=\[4, -1\]: must be from 0"),
        ({"lengths": [4.0, 3.0]}, r"lengths is float32\[2\], and must be int\[2\]"),
        ({"lengths": np.array([4, 3], bool)}, r"lengths is bool\[2\]"),
        ({"lengths": 3}, r"lengths is int32\[\], and must be int\[2\]"),
        ({"lengths": [3]}, r"lengths is int32\[1\]"),
        ({"lengths": [[4], [3]]}, r"lengths is int32\[2, 1\]"),
        ({"lengths": jnp.ones((B, T), bool)}, r"lengths is bool\[2, 4\]"),
        ({"lengths": "all"}, "lengths is of type str, and must be an array"),
        ({"lengths": [4, None]}, "lengths is of type list"),
        ({"x": X[0]}, r"x is float32\[4, 2\], and must be real numbers \(batch, time, features\)"),
        ({"x": X[..., None]}, "and must be real numbers"),
        ({"x": X.astype(complex)}, "x is complex64"),
        ({"x": None}, "x is of type NoneType"),
        ({"resets": jnp.ones((B, T))}, r"resets is float32\[2, 4\], and must be bool"),
        ({"resets": jnp.ones((T, B), bool)}, r"resets is bool\[4, 2\]"),
        ({"initial": GOOD[0]}, r"give a tuple of 1 LSTMCarry\(c float32\[2, 3\], h float32"),
        ({"initial": ((C, C),)}, "initial does not fit"),
        ({"initial": GOOD * 2}, "initial does not fit"),
        ({"initial": (LSTMCarry(C[:1], C[:1]),)}, "initial does not fit"),
        ({"initial": (LSTMCarry(C, C[:, :2]),)}, "initial does not fit"),
        ({"initial": (LSTMCarry(C.astype(int), C),)}, "initial does not fit"),
        ({"initial": 0}, "initial does not fit"),
        ({"context": C}, "context is given, and the step of LSTMCell does not ask"),
        ({"first_step": 1.5}, "first_step is float32"),
        ({"first_step": -1}, "first_step=-1: must be 0 or more"),
        ({"first_step": [0, 1, 2]}, r"first_step is int32\[3\], and must be int\[2\]"),
        ({"masks": Masks((None,) * 2, (None,), (None,))}, "masks do not fit 1 layers, 4 steps"),
        ({"masks": Masks((jnp.ones(3, bool),), (None,), (None,))}, "masks do not fit"),
        ({"masks": Masks((jnp.ones(T),), (None,), (None,))}, "masks do not fit"),
        ({"masks": Masks((None,), (None,), (KEEP[:, 1:],))}, "masks do not fit"),
        ({"deterministic": "yes"}, "deterministic is of type str"),
        ({"deterministic": jnp.array(True)}, "under jit a static argument"),
    ],
)
def test_arguments_of_a_call(arguments, message):
    arguments = {"x": X} | arguments
    refused(lambda: PLAIN.apply(PARAMS, arguments.pop("x"), **arguments), message)


def test_lists_are_arrays():
    wanted = PLAIN.apply(PARAMS, X, lengths=jnp.array([4, 3]), initial=GOOD).last
    lists = [LSTMCarry(np.zeros((B, D), np.float32), np.zeros((B, D), np.float32))]
    found = PLAIN.apply(PARAMS, X.tolist(), lengths=[4, 3], initial=lists).last
    np.testing.assert_array_equal(found, wanted)


def test_under_jit_shapes_are_checked_and_values_are_not():
    """Traced lengths have no values yet; their shape is known all the same."""
    run = jax.jit(lambda lengths: PLAIN.apply(PARAMS, X, lengths=lengths).last)
    jax.eval_shape(run, jnp.array([5, 3]))
    refused(lambda: jax.eval_shape(run, jnp.ones((B, T), bool)), r"lengths is bool\[2, 4\]")
    static = jax.jit(lambda x: PLAIN.apply(PARAMS, x, lengths=[5, 3]).last)
    refused(lambda: jax.eval_shape(static, X), "from 0 to the 4 steps")
