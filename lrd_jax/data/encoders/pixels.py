"""The features of the generated set: pixels, without a network."""

from typing import Any

import numpy as np

from lrd_jax.data import shapes


class Pixels:
    """See `shapes.encode`; other pictures are made as small as its own."""

    name = "pixels"
    weights = "none"
    fc_size: int = 768
    att_shape: tuple[int, int] = (16, 200)
    batch_size = 64

    def read(self, picture: Any) -> np.ndarray:
        """Returns the picture in 32 x 32 pixels."""
        return np.asarray(picture.resize((shapes.SIZE, shapes.SIZE)))

    def encode(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `shapes.encode`."""
        return shapes.encode(pictures)
