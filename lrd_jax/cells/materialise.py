"""A value computed once for all that read it, where the compiler would compute it for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def materialise(tree: Any) -> Any:
    """Returns its argument, which XLA's CPU compiler then holds in memory.

    That compiler fuses a value into everything that reads it, which computes it anew there. On a
    GPU every barrier between fusions is one more kernel to launch, at every step of time, and
    costs more than the arithmetic: there this is the identity. Which of the two it is follows from
    the platform that a program is lowered for, not from the devices of the process, so that a
    program compiled for a GPU elsewhere is the one a GPU runs.

    Args:
      tree: arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _materialise(leaves))


def _materialise(leaves: Sequence[Any]) -> list[Any]:
    return _primitive.bind(*leaves)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    return _materialise(primals), _materialise([*map(ad.instantiate_zeros, tangents)])


def _transpose(cotangents: Sequence[Any], *primals: Any) -> list[Any]:
    del primals
    return _materialise([*map(ad.instantiate_zeros, cotangents)])


def _batch(leaves: Sequence[Any], axes: Sequence[Any]) -> tuple[list[Any], Sequence[Any]]:
    return _materialise(leaves), axes


# A primitive, since `lax.platform_dependent` is a conditional: to differentiate it, and to read its
# jaxpr, is more than an identity should cost. Its rules are those of `lax.optimization_barrier`.
_primitive = Primitive("materialise")
_primitive.multiple_results = True
_primitive.def_impl(lambda *leaves: list(leaves))  # outside jit nothing is fused
_primitive.def_abstract_eval(lambda *leaves: list(leaves))
ad.primitive_jvps[_primitive] = _jvp
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch
mlir.register_lowering(_primitive, lambda context, *leaves: leaves)
mlir.register_lowering(
    _primitive,
    mlir.lower_fun(lambda *leaves: jax.lax.optimization_barrier(leaves), multiple_results=True),
    platform="cpu",
)
