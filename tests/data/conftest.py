"""Source files for the data tests: a small imitation of MNIST, and the real one if it is there."""

import dataclasses
import gzip
import hashlib
import struct

import numpy as np
import pytest

from lrd_jax.data.builders import mnist


def idx_file(array):
    """The idx format, written independently of the parser."""
    return struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist_like(folder, *, train, test, packed, seed=0):
    """Writes four files with balanced labels; returns {name: contents}."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for count, images, labels in (
        (train, mnist.TRAIN_IMAGES, mnist.TRAIN_LABELS),
        (test, mnist.TEST_IMAGES, mnist.TEST_LABELS),
    ):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        classes = rng.permutation(np.arange(count, dtype=np.uint8) % 10)
        for name, array in ((images, pixels), (labels, classes)):
            data = idx_file(array)
            if packed:
                data = gzip.compress(data, mtime=0)
            name = name if packed else name.removesuffix(".gz")
            (folder / name).write_bytes(data)
            contents[name] = data
    return contents


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Makes the builder expect 100 + 20 images; yields the folder of their archives."""
    folder = tmp_path / "archives"
    contents = write_mnist_like(folder, train=100, test=20, packed=True)
    monkeypatch.setattr(mnist, "_NUM_EXAMPLES", {"train": 100, "test": 20})
    for builder in (mnist.LrdMnist, mnist.LrdFashionMnist):
        counts = {"train": (10,) * 10, "test": (2,) * 10}
        monkeypatch.setattr(builder, "LABEL_COUNTS", counts)
    sources = tuple(
        dataclasses.replace(
            source,
            url="http://127.0.0.1:9/" + source.name,  # the discard port: nobody listens
            sha256=hashlib.sha256(contents[source.name]).hexdigest(),
            unpacked_sha256=hashlib.sha256(gzip.decompress(contents[source.name])).hexdigest(),
        )
        for source in mnist.LrdMnist.SOURCES
    )
    monkeypatch.setattr(mnist.LrdMnist, "SOURCES", sources)
    return folder
