"""Networks that turn pictures into features; frozen, never trained here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lrd_jax.errors import UserError

DEFAULT = "efficientnet_lite0"
TORCHVISION = "torchvision:"


class Encoder(Protocol):
    """Turns pictures into features.

    Attributes:
        name: as `data.encoder` calls it.
        weights: what is known of them, e.g. their sha256.
        fc_size: F of `fc`.
        att_shape: (P, F) of `att`, of one picture.
        batch_size: pictures that it takes at a time.
    """

    name: str
    weights: str
    fc_size: int
    att_shape: tuple[int, int]
    batch_size: int

    def read(self, picture: Any) -> np.ndarray:
        """Returns what it wants of a `PIL.Image` in RGB, an array."""
        ...

    def encode(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns `fc` (pictures, F) and `att` (pictures, P, F), float32."""
        ...


def make_encoder(name: str, grid: int = 14) -> Encoder:
    """Makes an encoder by its name.

    Args:
        name: `efficientnet_lite0`, `pixels` (of the generated set), or `torchvision:` and the name
            of one of its ResNets.
        grid: torchvision: parts on a side.

    Raises:
        UserError: an unknown name, or one whose packages or weights are not there.
    """
    if name == DEFAULT:
        from lrd_jax.data.encoders import efficientnet_lite

        return efficientnet_lite.EfficientNetLite0()
    if name == "pixels":
        from lrd_jax.data.encoders import pixels

        return pixels.Pixels()
    if name.startswith(TORCHVISION):
        from lrd_jax.data.encoders import torchvision

        return torchvision.TorchvisionResNet(name, grid)
    raise UserError(
        f"{name!r} is no encoder that can look at pictures: use {DEFAULT}, or, e.g.,"
        f" {TORCHVISION}resnet152 where torch and torchvision are installed; features of your"
        " own come in with --features=DIR"
    )
