"""Whether JAX will use a GPU, told before JAX loads: what only helps on a CPU is left out then."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

# A driver's: of a machine, of a container, of Windows' Linux. JAX looks for the same.
_DEVICE_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
WHEELS = "pip install -e '.[cuda12]', or '.[cuda13]'"


def uses_gpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a GPU, a plugin of JAX for it, and nothing that keeps JAX from it.

    Args:
      environment: of this process.
    """
    first = environment.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if first not in ("", "cuda", "gpu"):
        return False
    if environment.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    return _has_device() and _has_plugin()


def why_not(environment: Mapping[str, str] = os.environ) -> str:
    """Says what `uses_gpu` misses, and how to come by it; "" where it finds a GPU.

    Args:
      environment: of this process.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    if not _has_device():
        return "this machine, or container, shows no NVIDIA GPU"
    if not _has_plugin():
        return f"JAX's GPU wheels are missing: {WHEELS}"
    return ""


def _has_device() -> bool:
    return any(map(os.path.exists, _DEVICE_FILES))


def _has_plugin() -> bool:
    spec = importlib.util.find_spec("jax_plugins")
    folders = (spec and spec.submodule_search_locations) or ()
    return any(any(Path(folder).glob("xla_cuda*")) for folder in folders)
