"""How many devices, and what is refused."""

import jax
import pytest

from lrd_jax.errors import UserError
from lrd_jax.training.devices import check_batch, choose_cpu_devices, make_mesh


@pytest.mark.parametrize(
    ("requested", "batch_size", "cores", "expected"),
    [
        (0, 64, 2, 2),
        (0, 50, 4, 2),
        (0, 50, 8, 5),
        (0, 7, 4, 1),
        (0, 7, 8, 7),
        (0, 1, 8, 1),
        (4, 64, 2, 4),
        (1, 7, 8, 1),
    ],
)
def test_number_of_cpu_devices(requested, batch_size, cores, expected):
    assert choose_cpu_devices(requested, batch_size, cores) == expected


def test_an_explicit_number_must_divide_the_batch():
    with pytest.raises(UserError, match="devices=3 does not divide data"):
        choose_cpu_devices(3, 64, 8)


def test_the_batch_must_divide_over_the_mesh():
    mesh = make_mesh(jax.devices()[:4])
    check_batch(8, mesh)
    for size, nearest in ((10, 8), (1, 4), (15, 16)):
        with pytest.raises(UserError, match=f"nearest that does is {nearest}$"):
            check_batch(size, mesh)
