"""MNIST and Fashion-MNIST: four gzip files in the idx format, parsed with NumPy."""

import struct
from pathlib import Path
from typing import ClassVar

import numpy as np

from lrd_jax.data.builders.base import Examples, ImageBuilder
from lrd_jax.data.builders.sources import SourceFile, read_gzip_sources
from lrd_jax.errors import UserError

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

_NUM_EXAMPLES = {"train": 60_000, "test": 10_000}
_FILES = {"train": (TRAIN_IMAGES, TRAIN_LABELS), "test": (TEST_IMAGES, TEST_LABELS)}

_UNSIGNED_BYTE = 0x08  # the third byte of an idx file: the type of its elements


def parse_idx(data: bytes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Parses an idx file of unsigned bytes and checks that it holds what is expected.

    The format: two zero bytes, the type, the number of dimensions, each dimension as a big-endian
    32-bit number, then the elements.

    Args:
        data: contents of the file.
        name: of the file, for messages.
        shape: expected dimensions.

    Returns:
        Read-only uint8 array of `shape`.

    Raises:
        UserError: another type, other dimensions or another size.
    """
    header = struct.pack(f">HBB{len(shape)}I", 0, _UNSIGNED_BYTE, len(shape), *shape)
    if data[:4] != header[:4]:
        raise UserError(
            f"{name} is not an idx file of {len(shape)}-dimensional bytes: "
            f"it starts with {data[:4].hex()}, not {header[:4].hex()}"
        )
    if data[: len(header)] != header:
        count = min(len(data) - 4, 4 * len(shape)) // 4
        found = struct.unpack_from(f">{count}I", data, 4)
        raise UserError(f"{name} has the dimensions {found}, not {shape}")
    expected = len(header) + int(np.prod(shape))
    if len(data) != expected:
        raise UserError(f"{name} is cut off or too long: {len(data)} bytes, not {expected}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


class LrdMnist(ImageBuilder):
    """70 000 handwritten digits of 28x28 pixels (LeCun, Cortes and Burges)."""

    IMAGE_SHAPE = (28, 28, 1)
    CLASS_NAMES = tuple(str(digit) for digit in range(10))
    DESCRIPTION = "The MNIST database of handwritten digits."
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    LABEL_COUNTS: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    }
    """Examples of each class."""

    # URL, size and checksums of the archives as in tensorflow_datasets/url_checksums/mnist.txt.
    _URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
    SOURCES = (
        SourceFile(
            TRAIN_IMAGES,
            _URL + TRAIN_IMAGES,
            sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            unpacked_sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            size=9_912_422,
            unpacked_size=47_040_016,
        ),
        SourceFile(
            TRAIN_LABELS,
            _URL + TRAIN_LABELS,
            sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            unpacked_sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            size=28_881,
            unpacked_size=60_008,
        ),
        SourceFile(
            TEST_IMAGES,
            _URL + TEST_IMAGES,
            sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            unpacked_sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            size=1_648_877,
            unpacked_size=7_840_016,
        ),
        SourceFile(
            TEST_LABELS,
            _URL + TEST_LABELS,
            sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            unpacked_sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            size=4_542,
            unpacked_size=10_008,
        ),
    )

    @classmethod
    def read(cls, source_dir: Path | None) -> dict[str, Examples]:
        """Reads the four files; what no checksum vouches for still has the right label counts."""
        assert source_dir is not None
        contents = read_gzip_sources(cls.SOURCES, source_dir)
        return {split: cls._read_split(contents, split) for split in _FILES}

    @classmethod
    def _read_split(cls, contents: dict[str, bytes], split: str) -> Examples:
        """Reads images and labels of a split; UserError where they are corrupt."""
        images_name, labels_name = _FILES[split]
        num_examples = _NUM_EXAMPLES[split]
        shape = (num_examples, *cls.IMAGE_SHAPE[:2])
        images = parse_idx(contents[images_name], images_name.removesuffix(".gz"), shape)
        labels_name_unpacked = labels_name.removesuffix(".gz")
        labels = parse_idx(contents[labels_name], labels_name_unpacked, (num_examples,))
        counts = tuple(np.bincount(labels, minlength=len(cls.CLASS_NAMES)).tolist())
        if counts != cls.LABEL_COUNTS[split]:
            raise UserError(
                f"{labels_name_unpacked} is corrupt: it counts {list(counts[:16])} labels of each "
                f"class, not {list(cls.LABEL_COUNTS[split])}"
            )
        return images[..., None], labels


class LrdFashionMnist(LrdMnist):
    """70 000 pictures of clothes in the format of MNIST (Xiao et al. 2017, arXiv:1708.07747)."""

    CLASS_NAMES = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    DESCRIPTION = "Fashion-MNIST: article images of Zalando."
    HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
    LABEL_COUNTS: ClassVar[dict[str, tuple[int, ...]]] = {
        "train": (6_000,) * 10,
        "test": (1_000,) * 10,
    }

    # As in tensorflow_datasets/url_checksums/fashion_mnist.txt, which has none of unpacked files.
    _URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    SOURCES = (
        SourceFile(
            TRAIN_IMAGES,
            _URL + TRAIN_IMAGES,
            sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            size=26_421_880,
            unpacked_size=47_040_016,
        ),
        SourceFile(
            TRAIN_LABELS,
            _URL + TRAIN_LABELS,
            sha256="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            size=29_515,
            unpacked_size=60_008,
        ),
        SourceFile(
            TEST_IMAGES,
            _URL + TEST_IMAGES,
            sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            size=4_422_102,
            unpacked_size=7_840_016,
        ),
        SourceFile(
            TEST_LABELS,
            _URL + TEST_LABELS,
            sha256="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            size=5_148,
            unpacked_size=10_008,
        ),
    )
