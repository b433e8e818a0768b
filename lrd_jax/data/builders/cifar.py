"""CIFAR-10: the official binary archive, read with NumPy; nothing is unpacked onto the disk."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
from absl import logging

from lrd_jax.data.builders.base import Examples, ImageBuilder
from lrd_jax.data.builders.sources import SourceFile, check_size, wrong_checksum
from lrd_jax.errors import UserError

ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_NAMES = [name for split in FILES.values() for name in split]

_NUM_EXAMPLES = 10_000  # in each file


class LrdCifar10(ImageBuilder):
    """60 000 colour photographs of 32x32 pixels (Krizhevsky 2009)."""

    IMAGE_SHAPE = (32, 32, 3)
    CLASS_NAMES = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    DESCRIPTION = "Krizhevsky (2009), Learning multiple layers of features from tiny images."
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
    # As in the code around S4 (Gu et al. 2021, arXiv:2111.00396).
    MEAN = (0.4914, 0.4822, 0.4465)
    STD = (0.247, 0.243, 0.261)

    # URL, size and checksum as in tensorflow_datasets/url_checksums/cifar10.txt.
    SOURCES = (
        SourceFile(
            ARCHIVE,
            "https://www.cs.toronto.edu/~kriz/" + ARCHIVE,
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            size=170_052_171,
        ),
    )

    @classmethod
    def read(cls, source_dir: Path | None) -> dict[str, Examples]:
        """Reads the archive, or its unpacked `.bin` files, which no checksum vouches for.

        These may lie in `source_dir` or in its folder `cifar-10-batches-bin`, and have the right
        size and as many labels of each class. Where both are there and the archive is broken, they
        are read.
        """
        assert source_dir is not None
        archive = source_dir / ARCHIVE
        try:
            if archive.is_file():
                try:
                    contents = cls._read_archive(archive)
                except UserError as error:
                    if _lacking(source_dir):
                        raise
                    logging.warning("%s; the unpacked files are read instead", error)
                    contents = _read_unpacked(source_dir)
            else:
                contents = _read_unpacked(source_dir)
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
        return {split: cls._parse(contents, split) for split in FILES}

    @classmethod
    def _read_archive(cls, archive: Path) -> dict[str, bytes]:
        """Returns the contents of the wanted members; all others are left alone."""
        expected = cls.SOURCES[0].sha256
        check_size(archive, cls.SOURCES[0].size)
        with archive.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            raise wrong_checksum(archive, expected, actual)
        wanted = {f"{FOLDER}/{name}": name for names in FILES.values() for name in names}
        contents = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                # Regular files of the right size alone: a link could point anywhere, and a size
                # that is checked first cannot fill the memory.
                if member.name in wanted and member.isreg() and member.size == _file_size():
                    file = tar.extractfile(member)
                    assert file is not None  # it is a regular file
                    contents[wanted[member.name]] = file.read()
        if missing := set(wanted.values()) - contents.keys():
            raise UserError(f"{archive} lacks {', '.join(sorted(missing))} in the right size")
        return contents

    @classmethod
    def _parse(cls, contents: dict[str, bytes], split: str) -> Examples:
        """Returns the examples of a split.

        An example is a byte for the label, then the 1 024 bytes of each channel, row by row.
        """
        height, width, channels = cls.IMAGE_SHAPE
        data = np.frombuffer(b"".join(contents[name] for name in FILES[split]), np.uint8)
        examples = data.reshape(-1, 1 + height * width * channels)
        labels = examples[:, 0]
        counts = np.bincount(labels, minlength=len(cls.CLASS_NAMES)).tolist()
        per_class = len(labels) // len(cls.CLASS_NAMES)
        if counts != [per_class] * len(cls.CLASS_NAMES):
            raise UserError(
                f"the {split} files of CIFAR-10 are corrupt or mixed up: they count "
                f"{counts[:16]} labels of each class, not {per_class}"
            )
        images = examples[:, 1:].reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        return images, labels


def _file_size() -> int:
    return _NUM_EXAMPLES * (1 + 3 * 32 * 32)


def _folder(source_dir: Path) -> Path:
    """Returns where the unpacked files are looked for."""
    return source_dir / FOLDER if (source_dir / FOLDER).is_dir() else source_dir


def _lacking(source_dir: Path) -> list[str]:
    """Returns the unpacked files that are not there."""
    return [name for name in _NAMES if not (_folder(source_dir) / name).is_file()]


def _read_unpacked(source_dir: Path) -> dict[str, bytes]:
    """The unpacked files by name; UserError where one is missing or of another size."""
    folder = _folder(source_dir)
    if missing := _lacking(source_dir):
        raise UserError(f"{source_dir} lacks {ARCHIVE}, or unpacked from it {', '.join(missing)}")
    contents = {}
    for name in _NAMES:
        if (size := (folder / name).stat().st_size) != _file_size():
            raise UserError(
                f"{folder / name} is cut off or too long: {size} bytes, not {_file_size()}"
            )
        contents[name] = (folder / name).read_bytes()
    logging.warning(
        "%s: not verified, the checksums of the unpacked files are not known; only their sizes and "
        "labels are checked",
        folder,
    )
    return contents
