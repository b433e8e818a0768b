"""Weights as people hold them: arrays and tensors by name, in memory or in a file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lrd_jax.errors import UserError

Arrays = dict[str, np.ndarray]


def named(source: Any) -> Mapping[str, Any]:
    """Returns name -> array or tensor, from a mapping or a file; raises UserError for others."""
    if isinstance(source, str | os.PathLike):
        return _read(source)
    if not isinstance(source, Mapping) or not all(isinstance(name, str) for name in source):
        raise UserError(
            f"weights are a dict of names and arrays, or a file of one, not a"
            f" {type(source).__name__}: give the state_dict() of a module, or dict(...) of pairs"
        )
    return source


def real(name: str, value: Any) -> np.ndarray:
    """Returns an array or a tensor in double precision, in which sums of biases are rounded once.

    Raises:
      UserError: its values cannot be had, or are no real numbers.
    """
    try:
        if hasattr(value, "detach"):  # PyTorch's: NumPy knows neither its gradients nor bfloat16
            value = value.detach().cpu()
            if not value.is_complex():
                value = value.double().numpy()
        array = np.asarray(value)
        # Kind V: the types that JAX adds to NumPy, for instance bfloat16, and NumPy's raw bytes.
        if array.dtype.kind in "fiub" or jnp.issubdtype(array.dtype, jnp.floating):
            return array.astype(np.float64)
        reason = f"its type is {array.dtype}"
    except Exception as error:  # whatever PyTorch raises for tensors without data, of odd layouts
        reason = " ".join(str(error).split())[:120]
    raise UserError(f"{name} cannot be read as real numbers ({reason}); give it as float32")


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            "safetensors files need the package safetensors: pip install 'lrd-jax[interchange]'"
        ) from error
    return safetensors


# What their files call the types; NumPy's reader in safetensors itself refuses bfloat16.
_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
}


def _read_safetensors(path: pathlib.Path) -> Arrays:
    """Reads a file; what is of another type stays bytes: of a larger model it may be left alone."""
    arrays = {}
    for name, tensor in _safetensors().deserialize(path.read_bytes()):
        if tensor["dtype"] in _TYPES:
            flat = np.frombuffer(tensor["data"], jnp.dtype(_TYPES[tensor["dtype"]]))
            arrays[name] = flat.reshape(tensor["shape"])
        else:
            arrays[name] = np.frombuffer(tensor["data"], "V1")
    return arrays


def _read(source: str | os.PathLike[str]) -> Arrays:
    """Reads the arrays of a file by name; UserError where it is damaged or of another kind."""
    path = pathlib.Path(source)
    _check_kind(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and safetensors all raise types of their own
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a readable {path.suffix} file: {reason}") from error


def write(path: pathlib.Path, arrays: Arrays) -> None:
    """Writes an `.npz` or `.safetensors` file; raises UserError where it cannot."""
    _check_kind(path)
    try:
        if path.suffix == ".safetensors":
            path.write_bytes(_safetensors().numpy.save(arrays))
        else:
            np.savez(path, **arrays)  # pyright: ignore[reportArgumentType] - names, not options
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _check_kind(path: pathlib.Path) -> None:
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{path} is neither an .npz nor a .safetensors file; weights are those")
