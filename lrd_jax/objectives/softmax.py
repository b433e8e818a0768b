"""Softmax cross-entropy over a vocabulary so large that not all logits may exist at once."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.models.language import Readout

MOST_LOGITS = 2**26  # at once: 256 MiB in float32


def cross_entropy(features: Array, readout: Readout, targets: Array, weights: Array) -> Array:
    """Weighted sum of -log softmax(logits)[target] over tokens.

    The tokens are taken in chunks of at most `MOST_LOGITS` logits. When it is differentiated, the
    gradient of a chunk is made together with its loss, so that its logits are neither stored for
    the backward pass nor computed again in it.

    Args:
      features: `(tokens, features)`.
      readout: makes logits of them.
      targets: `(tokens,)` int32.
      weights: `(tokens,)`, 0 for padding; not differentiated.

    Returns:
      The sum, `()`.
    """
    tokens, vocabulary = len(features), len(readout.kernel)
    chunks = min(tokens, math.ceil(tokens * vocabulary / MOST_LOGITS))
    size = math.ceil(tokens / chunks)

    def chunked(x: Array) -> Array:
        x = jnp.pad(x, [(0, chunks * size - tokens)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(chunks, size, *x.shape[1:])

    return _chunked_sum(chunked(features), readout, chunked(targets), chunked(weights))


def _sum(readout: Readout, features: Array, targets: Array, weights: Array) -> Array:
    """The sum over one chunk."""
    # The target's logit from its row of the kernel: its gradient then touches few rows, where that
    # of an element of the logits would be another array of the size of all of them.
    right = (features * readout.kernel[targets]).sum(-1)
    if readout.bias is not None:
        right += readout.bias[targets]
    losses = jax.nn.logsumexp(readout.logits(features), axis=-1) - right
    return (losses * weights).sum()


@jax.custom_vjp
def _chunked_sum(features: Array, readout: Readout, targets: Array, weights: Array) -> Array:
    def step(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return total + _sum(readout, *chunk), None

    zero = jnp.zeros((), features.dtype)
    return lax.scan(step, zero, (features, targets, weights))[0]


def _forward(
    features: Array, readout: Readout, targets: Array, weights: Array
) -> tuple[Array, tuple[Array, Readout]]:
    """The sum and, chunk by chunk, its gradients; nothing `(rows, classes)` outlives a chunk."""
    value_and_grad = jax.value_and_grad(_sum, argnums=(0, 1))

    def step(sums: tuple[Array, Readout], chunk: tuple[Array, Array, Array]):
        total, (d_readout, d_features) = value_and_grad(readout, *chunk)
        return jax.tree.map(jnp.add, sums, (total, d_readout)), d_features

    zeros = jnp.zeros((), features.dtype), jax.tree.map(jnp.zeros_like, readout)
    (total, d_readout), d_features = lax.scan(step, zeros, (features, targets, weights))
    return total, (d_features, d_readout)


def _backward(gradients: tuple[Array, Readout], d_total: Array):
    d_features, d_readout = jax.tree.map(functools.partial(jnp.multiply, d_total), gradients)
    return d_features, d_readout, None, None


_chunked_sum.defvjp(_forward, _backward)
