"""What stands in for data has its shapes, types and sizes, and reads none of it."""

import numpy as np
import pytest

from lrd_jax.config import defaults
from lrd_jax.data import make_dataset
from lrd_jax.data.stand_in import make_stand_in
from lrd_jax.errors import UserError

IMAGES = {"data.permutation": "92916", "data.pixels_per_step": 4}


def config(data_dir, **overrides):
    made = defaults.get_config()
    made.data.data_dir = str(data_dir)
    made.data.batch_size = 6
    made.update_from_flattened_dict(overrides)
    return made


def assert_same_shapes(made):
    stand_in, real = make_stand_in(made), make_dataset(made)
    assert stand_in.spec == real.spec
    batch, expected = (d.train_batch(3, 1, slice(None)) for d in (stand_in, real))
    assert batch.keys() == expected.keys()
    for name, array in expected.items():
        assert (batch[name].shape, batch[name].dtype) == (array.shape, array.dtype)
    assert stand_in.num_train >= made.data.batch_size
    for name in ("inputs", "targets"):
        assert batch[name].min() >= 0 and len(np.unique(batch[name])) > 1
        assert not stand_in.spec.values or batch["inputs"].max() < stand_in.spec.values


@pytest.mark.parametrize("overrides", [{}, IMAGES, {"data.order": "row"}])
def test_images(digits_dir, overrides):
    assert_same_shapes(config(digits_dir, **overrides))


def test_noise_takes_no_memory_and_is_the_same_again():
    made = config("none", **{"data.name": "mnist"})
    first, second = make_stand_in(made), make_stand_in(made)
    images = first._splits["train"][0]
    assert images.shape == (50_000, 784, 1)
    assert images.base is not None  # a view: 39 MB otherwise
    for name, array in first.train_batch(1, 2, slice(None)).items():
        np.testing.assert_array_equal(array, second.train_batch(1, 2, slice(None))[name])


@pytest.mark.slow
def test_mnist(mnist_dir):
    assert_same_shapes(config(mnist_dir, **{"data.name": "mnist"}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            {"data.name": "copy", "data.preset": "hdetach", "data.delay": 5}, marks=pytest.mark.slow
        ),
        {"data.name": "copy", "data.preset": "gu", "data.delay": 5},
        {"data.name": "adding", "data.length": 9},
    ],
)
def test_drawn_sequences(tmp_path, overrides):
    made = config(tmp_path, **overrides)
    make_stand_in(made).train_batch(0, 0, slice(None))
    assert not list(tmp_path.iterdir())
    assert_same_shapes(made)


@pytest.mark.parametrize(("name", "words"), [("wikitext2", 33_278), ("wikitext103", 267_735)])
def test_words_are_as_many_as_published(tmp_path, name, words):
    made = config(tmp_path / "none", **{"data.name": name, "data.length": 7})
    stand_in = make_stand_in(made)
    batch = stand_in.train_batch(0, 0, slice(None))
    assert stand_in.spec.kind == "language" and stand_in.spec.classes == words
    assert batch["inputs"].shape == (6, 7) and batch["inputs"].dtype == np.int32
    assert 0 <= batch["inputs"].min() < batch["inputs"].max() < words


def test_a_text_of_ones_own_is_read(tmp_path):
    (tmp_path / "own.txt").write_text("abcab" * 20, encoding="utf-8")
    made = config(tmp_path, **{"data.name": "text", "data.text_dir": str(tmp_path)})
    made.data.length = 4
    stand_in = make_stand_in(made)
    assert stand_in.spec.classes == 3
    assert stand_in.train_batch(0, 0, slice(None))["inputs"].shape == (6, 4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.name": "minst"}, "did you mean mnist"),
        ({"data.pixels_per_step": 7}, "must be a divisor of the 64 pixels"),
        ({"data.name": "copy", "data.preset": "hdetach"}, "delay=0 must be at least 1"),
        ({"data.name": "text"}, "name a folder of .txt files"),
    ],
)
def test_bad_values_are_refused_as_by_the_data_itself(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        make_stand_in(config(tmp_path, **overrides))
