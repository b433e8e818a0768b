"""The pixel orders of the published experiments."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lrd_jax.data.images import to_sequences
from lrd_jax.data.permutations import make_permutation
from lrd_jax.errors import UserError

# ORC-28: name, length, first entries, last three entries, sum of i * p[i].
TABLE = [
    ("none", 784, [0, 1, 2], [781, 782, 783], 160322904),
    ("92916", 784, [319, 576, 323, 107, 355, 716, 197, 20, 625, 60], [102, 39, 346], 118652722),
    (
        "bitreverse",
        784,
        [0, 512, 256, 768, 128, 640, 384, 64, 576, 320],
        [255, 767, 511],
        120707268,
    ),
    ("seed:400", 784, [745, 491, 157, 422, 329], [318, 463, 348], 118717398),
    ("seed:250", 784, [664, 629, 338, 761, 706], None, None),
    ("seed:150", 784, [176, 32, 363, 605, 548], None, None),
    ("92916", 1024, [201, 389, 485], None, 263639814),
    ("bitreverse", 1024, [0, 512, 256], None, 269222144),
]


@pytest.mark.parametrize(("name", "length", "first", "last", "checksum"), TABLE)
def test_published_permutations(name, length, first, last, checksum):
    p = make_permutation(name, length)
    assert p[: len(first)].tolist() == first
    if last is not None:
        assert p[-3:].tolist() == last
    if checksum is not None:
        assert int(np.dot(np.arange(length), p)) == checksum
    assert sorted(p.tolist()) == list(range(length))


def test_images_are_gathered_not_scattered():
    # ORC-28: at 784 bit reversal is not its own inverse, so the two differ.
    p = make_permutation("bitreverse", 784)
    x = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    got = to_sequences(x, permutation="bitreverse", order="pixel", pixels_per_step=1)
    flat = x.reshape(2, 784)
    scattered = np.empty_like(flat)
    scattered[:, p] = flat
    np.testing.assert_array_equal(got[:, :, 0], [[row[j] for j in p] for row in flat])
    assert not np.array_equal(got[:, :, 0], scattered)


@example("bitreverse", 1)
@example("bitreverse", 256)
@example("bitreverse", 257)  # one more bit
@given(
    st.one_of(
        st.sampled_from(["none", "92916", "bitreverse"]),
        st.integers(0, 2**32 - 1).map("seed:{}".format),
    ),
    st.integers(1, 300),
)
def test_every_permutation_is_a_bijection(name, length):
    p = make_permutation(name, length)
    assert sorted(p.tolist()) == list(range(length))


@pytest.mark.parametrize(
    "name", ["", "92917", "seed:", "seed:-1", "seed:1.5", "seed:4294967296", "reverse", "seed:٣"]
)
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="use none, 92916, bitreverse, or seed:<n>"):
        make_permutation(name, 784)
