"""From prepared images to sequences: layouts, splits, and what is refused."""

import shutil

import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs.base import get_config
from lrd_jax.data import dataset_names, make_dataset, reads_text, varied_key
from lrd_jax.data.images import split_examples, to_images, to_sequences
from lrd_jax.data.permutations import make_permutation
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.registry import caption_names, find_builder, known_keys, prepared_names
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError

PIXEL = {"permutation": "none", "order": "pixel", "pixels_per_step": 1}


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


@pytest.fixture
def config(digits_dir):
    config = get_config()
    config.data.data_dir = str(digits_dir)
    return config


@pytest.mark.parametrize(
    "layout",
    [
        PIXEL,
        PIXEL | {"permutation": "bitreverse"},
        PIXEL | {"permutation": "seed:3", "pixels_per_step": 4},
        PIXEL | {"order": "row"},
    ],
)
def test_sequences_become_the_images_that_they_were(layout):
    images = random_images(3, 4, 6, 3)
    back = to_images(to_sequences(images, **layout), (4, 6, 3), layout["permutation"])
    np.testing.assert_array_equal(back, images)


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_pixel_ids_survive_unchanged():
    # ORC-22: ids are the stored bytes; recovering them from x / 255 by truncation is wrong.
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    inputs = to_sequences(images, **PIXEL)
    spec = DataSpec("classify", 256, 1, 10, scale=(1 / 255,))
    split = (inputs, np.zeros(1, np.int32))
    dataset = ArrayDataset(spec, {"train": split, "valid": split, "test": split}, 1, "ids")
    for batch in (dataset.train_batch(0, 0, slice(0, 1)), next(dataset.eval_batches("test", 1))):
        assert batch["inputs"].dtype == np.uint8
        assert batch["inputs"][0, :, 0].tolist() == list(range(256))
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    truncated = (scaled / np.float32(1 / 255)).astype(np.int32)
    assert np.sum(truncated != np.arange(256)) == 120


def test_grouping_comes_after_the_permutation():
    images = random_images(3, 28, 28, 1)
    p = make_permutation("92916", 784)
    got = to_sequences(images, permutation="92916", order="pixel", pixels_per_step=4)
    assert got.shape == (3, 196, 4)
    flat = images.reshape(3, 784)
    for step in (0, 1, 195):
        np.testing.assert_array_equal(got[:, step], flat[:, p[4 * step : 4 * step + 4]])


def test_rows_and_channels():
    gray, colour = random_images(2, 28, 28, 1), random_images(2, 4, 6, 3)
    row = {**PIXEL, "order": "row"}
    np.testing.assert_array_equal(to_sequences(gray, **row), gray[..., 0])
    assert to_sequences(colour, **row).shape == (2, 4, 18)
    pixels = to_sequences(colour, **PIXEL)
    np.testing.assert_array_equal(pixels[:, 7], colour[:, 1, 1])  # row-major, 3 channels a step
    assert to_sequences(colour, **{**PIXEL, "pixels_per_step": 2}).shape == (2, 12, 6)


@pytest.mark.parametrize(
    ("num_examples", "valid_split", "train", "valid"),
    [
        # ORC-30: h-detach; gating, MNIST and CIFAR; auxiliary losses.
        (60_000, "last:10000", range(50_000), range(50_000, 60_000)),
        (60_000, "last:6000", range(54_000), range(54_000, 60_000)),
        (50_000, "last:5000", range(45_000), range(45_000, 50_000)),
        (60_000, "first:6000", range(6_000, 60_000), range(6_000)),
    ],
)
def test_splits_are_disjoint_and_cover_the_training_set(num_examples, valid_split, train, valid):
    got_train, got_valid = split_examples(num_examples, valid_split)
    assert range(num_examples)[got_train] == train
    assert range(num_examples)[got_valid] == valid
    assert sorted([*train, *valid]) == list(range(num_examples))


@pytest.mark.parametrize("valid_split", ["10000", "last:0", "last:-5", "middle:3", "last:", "none"])
def test_other_spellings_of_a_split_are_refused(valid_split):
    with pytest.raises(UserError, match="use last:<n> or first:<n> with n at least 1"):
        split_examples(60_000, valid_split)


@pytest.mark.parametrize("valid_split", ["last:10", "first:11"])
def test_a_split_must_leave_training_examples(valid_split):
    with pytest.raises(UserError, match="leaves nothing of 10 training examples"):
        split_examples(10, valid_split)


def test_digits_are_those_of_scikit_learn(config):
    config.data.batch_size = 50
    dataset = make_dataset(config)
    sizes = {split: dataset.eval_size(split) for split in ("train", "valid", "test")}
    assert sizes == {"train": 1297, "valid": 250, "test": 250}
    assert dataset.num_train == 1297
    assert dataset.spec == DataSpec(
        *("classify", 64, 1, 10, (0.0,), (1 / 16,)), values=17, class_names=tuple("0123456789")
    )

    source = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    start = 0
    for split, size in sizes.items():
        batch = next(dataset.eval_batches(split, size))
        index = order[start : start + size]
        np.testing.assert_array_equal(batch["inputs"][..., 0], source.data[index])
        np.testing.assert_array_equal(batch["targets"], source.target[index])
        assert batch["inputs"].dtype == np.uint8
        start += size

    seen = [dataset.train_batch(0, step, slice(0, 50))["targets"] for step in range(26)]
    counts = np.bincount(np.concatenate(seen)[:1297])
    assert counts.tolist() == np.bincount(source.target[order[:1297]]).tolist()
    assert "1297 / 250 / 250" in dataset.describe()


def test_digits_in_other_layouts(config):
    config.data.order = "row"
    assert make_dataset(config).spec.length == 8
    config.data.order = "pixel"
    config.data.pixels_per_step = 4
    config.data.permutation = "bitreverse"
    dataset = make_dataset(config)
    assert (dataset.spec.length, dataset.spec.features) == (16, 4)
    batch = next(dataset.eval_batches("train", 1))
    first = load_digits().data[np.random.default_rng(0).permutation(1797)[0]]
    p = make_permutation("bitreverse", 64)
    np.testing.assert_array_equal(batch["inputs"].reshape(-1), first[p])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "digit", "unknown data.name='digit': did you mean digits[?] use one of adding"),
        ("name", "imagenet-22k", "unknown data.name='imagenet-22k': use one of adding"),
        ("order", "column", "unknown data.order 'column': use pixel or row"),
        ("pixels_per_step", 0, "pixels_per_step=0 must be a divisor of the 64 pixels"),
        ("pixels_per_step", 5, "pixels_per_step=5 must be a divisor of the 64 pixels"),
        ("permutation", "shuffle", "unknown data.permutation 'shuffle'"),
        ("valid_split", "0.1", "data.valid_split='0.1': use last:<n>"),
        ("batch_size", 0, "data.batch_size=0"),
    ],
)
def test_bad_values_are_refused(config, key, value, message):
    config.data[key] = value
    with pytest.raises(UserError, match=message):
        make_dataset(config)


@pytest.mark.parametrize(("key", "value"), [("permutation", "92916"), ("pixels_per_step", 2)])
def test_rows_go_with_nothing_else(config, key, value):
    config.data.order = "row"
    config.data[key] = value
    with pytest.raises(UserError, match=r"data\.order=row reads whole rows"):
        make_dataset(config)


def test_digits_need_no_place_to_write(config, tmp_path):
    # A path below a file can be made by nobody, not even by root.
    blocker = tmp_path / "file"
    blocker.touch()
    config.data.data_dir = str(blocker / "below")
    assert make_dataset(config).num_train == 1297


def test_a_damaged_prepared_set_is_named(config, digits_dir, tmp_path):
    make_dataset(config)  # prepares it if this test runs alone
    shutil.copytree(digits_dir / "lrd_digits", tmp_path / "lrd_digits")
    config.data.data_dir = str(tmp_path)
    records = next(tmp_path.glob("lrd_digits/1.0.0/*train.array_record*"))
    records.write_bytes(records.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{records.parent} is damaged .*: delete it"):
        make_dataset(config)


def test_every_builder_is_a_data_set():
    others = {"text", "shapes", "sequences", "tfds:", *caption_names()}
    assert set(prepared_names()) == set(dataset_names()) - others
    assert all(find_builder(name).name == f"lrd_{name}" for name in prepared_names())


def test_a_data_set_knows_its_keys():
    everywhere = {"name", "data_dir", "batch_size"}
    image = {"permutation", "order", "pixels_per_step", "valid_split", "normalise"}
    drawn = everywhere | {"steps_per_epoch"}
    expected = {
        "digits": everywhere | image,
        "copy": drawn | {"preset", "delay", "encoding"},
        "adding": drawn | {"length"},
        "text": everywhere | {"text_dir", "unit", "length"},
        "wikitext2": everywhere | {"length"},
    }
    assert {name: known_keys(name) for name in expected} == expected
    every = set().union(*map(known_keys, dataset_names()))
    assert every | {"class_weights"} == set(get_config().data)  # of labels, whatever the data set
    assert [name for name in dataset_names() if reads_text(name)] == [
        *("text", "wikitext103", "wikitext2")
    ]
    varied = {name: key for name in dataset_names() if (key := varied_key(name))}
    assert varied == {"copy": "delay", "tracking": "length", "selective_copy": "length"}
    with pytest.raises(UserError, match=r"unknown data\.name='digitz': did you mean digits"):
        known_keys("digitz")


@pytest.mark.slow
def test_mnist(mnist_dir, config):
    config.data.name = "mnist"
    config.data.data_dir = str(mnist_dir)
    dataset = make_dataset(config)
    sizes = {split: dataset.eval_size(split) for split in ("train", "valid", "test")}
    assert sizes == {"train": 50_000, "valid": 10_000, "test": 10_000}
    names = tuple("0123456789")
    assert dataset.spec == DataSpec(
        "classify", 784, 1, 10, (0.0,), (1 / 255,), values=256, class_names=names
    )
    test = next(dataset.eval_batches("test", 10_000))
    assert test["inputs"].mean() == pytest.approx(33.7912, abs=1e-4)  # of the official file
    assert np.bincount(test["targets"]).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    # Stored in the order of the source: its first labels are well known.
    assert test["targets"][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    train = next(dataset.eval_batches("train", 10))
    assert train["targets"].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
