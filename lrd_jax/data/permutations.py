"""Fixed orders in which the pixels of an image are read."""

import re

import numpy as np

from lrd_jax.errors import UserError

_MAX_SEED = 2**32 - 1  # of numpy's RandomState


def make_permutation(name: str, length: int) -> np.ndarray:
    """Returns a permutation `p`, to be used as a gather: `x_permuted[i] = x[p[i]]`.

    It depends on nothing but the arguments, so training, validation and test images, and runs of
    different seeds, are all read in the same order.

    - `none`: the identity.
    - `92916`: `numpy.random.RandomState(92916).permutation(length)`, the permuted MNIST of expRNN
      (Lezcano-Casado and Martínez-Rubio 2019, arXiv:1901.08428) and of the work that followed it.
    - `bitreverse`: the numbers below the next power of two in bit-reversed order, those below
      `length` kept; used with S4 (Gu et al. 2021, arXiv:2111.00396).
    - `seed:<n>`: `numpy.random.RandomState(n).permutation(length)`.

    Args:
        name: one of the above.
        length: number of positions, at least 1.

    Returns:
        int64 array (length,) holding each of 0 .. length-1 once.

    Raises:
        UserError: `name` is none of the above.
    """
    if name == "none":
        return np.arange(length)
    if name == "bitreverse":
        bits = (length - 1).bit_length()
        index = np.arange(2**bits)
        reverse = np.zeros_like(index)
        for bit in range(bits):
            reverse |= (index >> bit & 1) << (bits - 1 - bit)
        return reverse[reverse < length]
    match = re.fullmatch(r"(92916)|seed:(\d+)", name, re.ASCII)
    if match and (seed := int(match[1] or match[2])) <= _MAX_SEED:
        # RandomState, not Generator: numpy keeps its stream the same in every version.
        return np.random.RandomState(seed).permutation(length)
    raise UserError(
        f"unknown data.permutation {name!r}: use none, 92916, bitreverse, "
        f"or seed:<n> with n from 0 to {_MAX_SEED}"
    )
