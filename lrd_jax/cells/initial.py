"""Initialisers of the kernels of a cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lrd_jax.arrays import Array

Initializer = Callable[..., Array]  # (key, shape, dtype)


def _uniform_rsqrt(key: Array, shape: tuple[int, int], dtype: Any, hidden_size: int) -> Array:
    bound = 1 / math.sqrt(hidden_size)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _xavier_normal(key: Array, shape: tuple[int, int], dtype: Any, hidden_size: int) -> Array:
    # Each gate is a matrix of its own: fan_out is one block, not the packed width.
    return math.sqrt(2 / (shape[0] + hidden_size)) * jax.random.normal(key, shape, dtype)


def _truncated_normal(key: Array, shape: tuple[int, int], dtype: Any, hidden_size: int) -> Array:
    del hidden_size
    return jax.random.truncated_normal(key, -2, 2, shape, dtype) / math.sqrt(shape[0])


# Initialisers of both kernels, of shape (fan_in, packed width).
KERNEL_INITS: dict[str, Callable[[Array, tuple[int, int], Any, int], Array]] = {
    "uniform_rsqrt": _uniform_rsqrt,  # U(-1/sqrt d, 1/sqrt d), as torch.nn.LSTM
    "xavier": _xavier_normal,  # N(0, 2 / (fan_in + d))
    "trunc_normal": _truncated_normal,  # N(0, 1 / fan_in) cut at two standard deviations
}


def _identity(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    del key
    return jnp.eye(*shape, dtype=dtype)


# Initialisers of one block of the recurrent kernel, `(d, width of the block)`.
RECURRENT_INITS: dict[str, Initializer | None] = {
    "kernel_init": None,  # the whole kernel as `kernel_init` says
    "orthogonal": nn.initializers.orthogonal(),
    "identity": _identity,
}
