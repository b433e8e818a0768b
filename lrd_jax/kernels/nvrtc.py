"""NVIDIA's run-time compiler, through ctypes: CUDA C++ to PTX, which a driver takes. No GPU needed.

The library is among the wheels of the extras `cuda12`, `cuda13` and `gpu-compile`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrd_jax.kernels.blocks import UnsupportedError

_log = logging.getLogger(__name__)
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12")


@functools.cache
def compile_ptx(text: str, architecture: str) -> str:
    """Compiles a source, or takes what an earlier process compiled of it.

    Args:
      text: CUDA C++.
      architecture: as NVIDIA calls it, `sm_90`.

    Raises:
      UnsupportedError: there is no compiler, or it refuses the source.
    """
    library, version = _load()
    virtual = architecture.replace("sm_", "compute_")
    key = hashlib.sha256(f"{version} {virtual}\n{text}".encode()).hexdigest()[:32]
    path = cache_folder() / f"{key}.ptx"
    try:
        found = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        found = ""
    if ".entry" in found and found.endswith(_end(found)):
        return found
    found = _compile(library, text, virtual)
    found += _end(found)
    _keep(path, found)
    return found


def cache_folder() -> Path:
    """Where compiled kernels are kept for later processes."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lrd_jax" / "kernels"


def _end(text: str) -> str:
    """The last line of a whole file: a damaged one has another."""
    body = text.rpartition("// sha256 ")[0] or text
    return f"// sha256 {hashlib.sha256(body.encode()).hexdigest()}\n"


def _keep(path: Path, text: str) -> None:
    """Writes a file whole or not at all; where that cannot be, it stays in memory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, suffix=".new", delete=False
        ) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as error:
        _log.info("compiled kernels are not kept for later processes: %s", error)


@functools.cache
def _load() -> tuple[Any, str]:
    """The library and its version.

    Raises:
      UnsupportedError: it is not installed.
    """
    for path in _candidates():
        try:
            for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return library, f"{major.value}.{minor.value}"
    raise UnsupportedError(
        "NVIDIA's run-time compiler (nvidia-cuda-nvrtc) is not installed:"
        " pip install 'lrd-jax[cuda13]'"
    )


def _candidates() -> Iterator[str]:
    """Where the library may be: in wheels, then wherever the system finds libraries."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in _NAMES:
            yield from map(str, sorted(Path(folder).glob(f"*/lib/{name}")))
    yield from _NAMES


def _compile(library: Any, text: str, virtual: str) -> str:
    """Compiles a text to PTX by NVIDIA's library.

    Args:
      library: as loaded by ctypes.
      text: CUDA C++.
      virtual: architecture, such as `compute_90`.

    Raises:
      UnsupportedError: the compiler does not start, or refuses the text.
    """
    program = ctypes.c_void_p()
    source = text.encode()
    if library.nvrtcCreateProgram(ctypes.byref(program), source, b"kernel.cu", 0, None, None):
        raise UnsupportedError("NVIDIA's run-time compiler does not start")
    options = [f"--gpu-architecture={virtual}".encode(), b"--std=c++17", b"-default-device"]
    size = ctypes.c_size_t()
    try:
        array = (ctypes.c_char_p * len(options))(*options)
        if library.nvrtcCompileProgram(program, len(options), array):
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, log)
            raise UnsupportedError(
                f"NVIDIA's run-time compiler refuses it for {virtual}: {log.value.decode()}"
            )
        library.nvrtcGetPTXSize(program, ctypes.byref(size))
        ptx = ctypes.create_string_buffer(size.value)
        library.nvrtcGetPTX(program, ptx)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx.value.decode()
