"""ResNets of torchvision, where the user has it: the recipe of the code of Arpit et al. (2019)."""

import importlib
from typing import Any

import numpy as np

from lrd_jax.data.encoders import DEFAULT, TORCHVISION
from lrd_jax.errors import UserError, one_line

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class TorchvisionResNet:
    """An `Encoder`: pictures in their own size, `layer4` pooled to a grid, and its mean."""

    batch_size = 1  # sizes differ

    def __init__(self, name: str, grid: int, model: Any = None) -> None:
        """Loads the network.

        Args:
            name: `torchvision:` and the name of a ResNet, e.g. `torchvision:resnet152`.
            grid: parts on a side.
            model: in the place of the network with its ImageNet weights.

        Raises:
            UserError: torch or torchvision is not installed, there is no such network, or its
                weights are neither here nor to be had.
        """
        if grid < 1:
            raise UserError(f"--grid={grid} must be at least 1")
        model = model or _load(name)
        torch = importlib.import_module("torch")
        self.name, self.weights = name, f"torch {torch.__version__}, {name}"
        self._torch, self._grid = torch, grid
        model.fc, model.avgpool = torch.nn.Identity(), torch.nn.Identity()
        self._model = model.eval()
        last = model.layer4[-1]
        norm = last.bn3 if hasattr(last, "bn3") else last.bn2
        self.fc_size: int = norm.num_features
        self.att_shape: tuple[int, int] = (grid * grid, self.fc_size)

    def read(self, picture: Any) -> np.ndarray:
        """Returns the picture in its own size, normalised as ImageNet, (3, height, width)."""
        pixels = np.asarray(picture, np.float32) / 255
        return ((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1)

    def encode(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Encoder.encode`."""
        torch = self._torch
        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(pictures))
            for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
                x = getattr(self._model, part)(x)
            fc = x.mean((2, 3))
            att = torch.nn.functional.adaptive_avg_pool2d(x, self._grid)
        att = att.permute(0, 2, 3, 1).reshape(len(x), *self.att_shape)
        return fc.numpy(), att.numpy()


def _load(name: str) -> Any:
    """The network with its weights, from the user's cache or torchvision's server."""
    ways_out = f"use --encoder={DEFAULT}, or bring features of your own with --features=DIR"
    try:
        models = importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        reason = one_line(str(error))
        raise UserError(f"{name} needs torch and torchvision ({reason}); {ways_out}") from error
    which = name.removeprefix(TORCHVISION)
    if not which.startswith(("resnet", "resnext", "wide_resnet")):
        raise UserError(f"{which!r} is no ResNet of torchvision, e.g. resnet152; {ways_out}")
    try:
        return models.get_model(which, weights="DEFAULT")
    except Exception as error:  # no such name, no connection, a damaged cache
        reason = one_line(str(error))
        raise UserError(f"{name} is not to be had ({reason}); {ways_out}") from error
