"""The network as compiled programs that need JAX and nothing of this package: StableHLO.

The parameters are inside, and so are the scaling of inputs and the softmax. Batch and length are
symbolic, so one program serves all sizes; it is lowered for CPU and CUDA at once. Time is unrolled
by `nn.scan`, which takes any length; a parallel scan of a linear cell needs a known one, so such a
cell has its step form here.
"""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from lrd_jax.arrays import Array
from lrd_jax.errors import UserError
from lrd_jax.inference.forward import Network, State
from lrd_jax.inference.model import Model

PLATFORMS = ("cpu", "cuda")


def serialised(exported: export.Exported) -> bytes:
    """The bytes of a program's file; UserError where flatbuffers is missing."""
    try:
        return bytes(exported.serialize())
    except ModuleNotFoundError as error:
        raise UserError(
            "model.stablehlo is written by flatbuffers: pip install 'lrd-jax[export]'"
        ) from error


def whole(model: Model) -> export.Exported:
    """`(inputs, lengths)` to what is said of whole sequences, see `Network.whole`.

    Inputs are `(batch, time, n)` (of text `(batch, time)`), lengths `(batch,)` int32.
    """
    network, params = _with_scan(model), _params(model)

    def run(inputs: Array, lengths: Array) -> Array:
        return network.whole(params, inputs, lengths)

    batch, time = export.symbolic_shape("batch, time")
    shapes = (_inputs(model, batch, time), jax.ShapeDtypeStruct((batch,), jnp.int32))
    return export.export(jax.jit(run), platforms=PLATFORMS)(*shapes)


def step(model: Model) -> export.Exported:
    """`(state, x, begins)` to the state after one more step, and what is said then.

    The state is a tuple of arrays `(batch, ...)`; where `begins`, `(batch,)` bool, is true, the
    initial state takes its place. So zeros will do for a first one.

    Raises:
      UserError: the network reads from both ends.
    """
    network, params = _with_scan(model), _params(model)
    # Rows first, also of an ensemble.
    seeds = 1 if network.seeds else 0

    def turned(state: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, seeds, 0), state)

    def run(leaves: tuple[Array, ...], x: Array, begins: Array) -> tuple[Any, Array]:
        initial = turned(network.start(params, x.shape[0]))
        before: State = jax.tree.unflatten(jax.tree.structure(initial), leaves)

        def entering(new: Array, old: Array) -> Array:
            return jnp.where(begins.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        state = jax.tree.map(entering, initial, before)
        state = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, seeds), state)
        state, said = network.step(params, state, x)
        return tuple(jax.tree.leaves(turned(state))), said

    (batch,) = export.symbolic_shape("batch")
    known = jax.eval_shape(lambda: turned(network.start(params, 1)))
    leaves = tuple(
        jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)
        for leaf in jax.tree.leaves(known)
    )
    like = _inputs(model, batch, 1)
    x = jax.ShapeDtypeStruct((batch, *like.shape[2:]), like.dtype)
    begins = jax.ShapeDtypeStruct((batch,), jnp.bool_)
    return export.export(jax.jit(run), platforms=PLATFORMS)(leaves, x, begins)


def _params(model: Model) -> Any:
    """Arrays of JAX, as a traced token can be looked up in them alone."""
    return jax.tree.map(jnp.asarray, model.params)


def _with_scan(model: Model) -> Network:
    """The same network, whose time is unrolled in the one way that takes any length."""
    task = copy.copy(model.network.task)
    recurrence = task.model.recurrence.clone(backend="scan")
    task.model = task.model.clone(recurrence=recurrence)
    return Network(task, model.network.seeds)


def _inputs(model: Model, batch: Any, time: Any) -> jax.ShapeDtypeStruct:
    spec = model.spec
    if spec.kind == "language":
        return jax.ShapeDtypeStruct((batch, time), jnp.int32)
    width = 1 if spec.one_hot else spec.features
    ids = spec.one_hot or model.config.model.embedding == "table"
    return jax.ShapeDtypeStruct((batch, time, width), jnp.int32 if ids else jnp.float32)
