"""Runs the kernels' own source on a CPU, for tests: threads as fibers, in adversarial orders."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.kernels import source
from lrd_jax.kernels.source import CallCode, CellCode

# By number, backwards, shuffled, and each pair of warps as far ahead as barriers let it.
ORDERS = (0, 1, 2, -1, -2, -3)


def why_not() -> str:
    """Why nothing can be emulated here, "" if it can."""
    return "" if shutil.which("g++") else "g++ is not installed"


@functools.cache
def build(text: str) -> Any:
    """Compiles a text of `source.for_cpu`; the library stays loaded."""
    with tempfile.TemporaryDirectory() as folder:
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        code, library = Path(folder, "kernel.cc"), Path(folder, f"{name}.so")
        code.write_text(text, encoding="utf-8")
        flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-w"]
        subprocess.run(["g++", *flags, "-o", str(library), str(code)], check=True)
        return ctypes.CDLL(str(library))


def run(
    code: CellCode,
    call: CallCode,
    backward: bool,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    in_place: Mapping[int, int],
    order: int = 0,
    text: str = "",
) -> list[np.ndarray]:
    """Runs a kernel.

    Args:
      code: of the cell.
      call: what the call is like.
      backward: which kernel.
      inputs: its arrays, by `source.names`, members first.
      outputs: shape and dtype of each result.
      in_place: index of an input -> of the result that takes its place in memory.
      order: of the threads, see run.h.
      text: another source than the cell's.
    """
    arrays = [np.ascontiguousarray(array) for array in inputs]
    results = [np.full(o.shape, np.nan, o.dtype) for o in outputs]
    for given, taken in in_place.items():
        arrays[given] = results[taken]
        arrays[given][:] = inputs[given]
    pointers = [array.ctypes.data for array in (*arrays, *results)]
    numbers = [int(number) for number in call]
    build(text or source.for_cpu(code)).run(
        int(backward),
        (ctypes.c_void_p * len(pointers))(*pointers),
        len(arrays[0]),
        code.shared_bytes(call, backward),
        order,
        (ctypes.c_int * 9)(*numbers, int(code.bfloat16)),
    )
    return results
