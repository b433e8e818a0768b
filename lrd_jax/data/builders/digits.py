"""The handwritten digits that come with scikit-learn: no download."""

from pathlib import Path

import numpy as np

from lrd_jax.data.builders.base import Examples, ImageBuilder

SPLIT_SIZES = {"train": 1297, "validation": 250, "test": 250}


class LrdDigits(ImageBuilder):
    """1 797 images of 8x8 pixels with values 0 .. 16.

    The source has no split into training and test images; ours is fixed once and for all by
    `numpy.random.default_rng(0).permutation(1797)`: the first 1297 train, then 250 validate and
    250 test.
    """

    IMAGE_SHAPE = (8, 8, 1)
    PIXEL_MAX = 16
    CLASS_NAMES = tuple(str(digit) for digit in range(10))
    DESCRIPTION = "Optical recognition of handwritten digits, the test set of the UCI repository."
    HOMEPAGE = "https://archive.ics.uci.edu/dataset/80"

    @classmethod
    def read(cls, source_dir: Path | None) -> dict[str, Examples]:
        """Reads the copy that scikit-learn carries; `source_dir` is not used."""
        # Here, since it takes a second to import and is needed once only.
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = images.astype(np.uint8).reshape(-1, *cls.IMAGE_SHAPE)
        order = np.random.default_rng(0).permutation(len(images))
        borders = np.cumsum(list(SPLIT_SIZES.values()))[:-1]
        parts = np.split(order, borders)
        return {
            split: (images[part], labels[part])
            for split, part in zip(SPLIT_SIZES, parts, strict=True)
        }
