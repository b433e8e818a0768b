"""A first-order linear recurrence along an axis, all of it at once."""

from __future__ import annotations

from jax import lax

from lrd_jax.arrays import Array


def prefix(a: Array, b: Array, axis: int = 0, reverse: bool = False) -> Array:
    r"""All values of $s_t = a_t s_{t-1} + b_t$ from zero, by one associative scan.

    Args:
      a: the factors; the first one meets nothing.
      b: what is added, of the same shape.
      axis: along which t runs.
      reverse: from the end backwards, $s_t = a_t s_{t+1} + b_t$.
    """

    def join(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * then[0], then[0] * first[1] + then[1]

    return lax.associative_scan(join, (a, b), reverse=reverse, axis=axis)[1]
