"""The second way to launch a kernel: a handler of our own, built where there is g++."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax

from lrd_jax.errors import one_line
from lrd_jax.kernels.blocks import UnsupportedError

_TARGET = "lrd_jax_launch"


@functools.cache
def register() -> str:
    """Makes the handler known to XLA, and returns its name.

    Raises:
      UnsupportedError: it cannot be built.
    """
    handler = jax.ffi.pycapsule(build().LrdLaunch)
    jax.ffi.register_ffi_target(_TARGET, handler, platform="CUDA")
    return _TARGET


@functools.cache
def build() -> ctypes.CDLL:
    """Compiles the handler; the library stays loaded.

    Raises:
      UnsupportedError: there is no compiler, or it fails.
    """
    if not shutil.which("g++"):
        raise UnsupportedError("g++ is not installed, which builds our launcher")
    code = Path(__file__).parent / "cuda" / "launcher.cc"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "launcher.so")
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{jax.ffi.include_dir()}"]
        command += ["-o", str(library), str(code), "-ldl"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise UnsupportedError(f"our launcher does not compile: {one_line(done.stderr)}")
        return ctypes.CDLL(str(library))
