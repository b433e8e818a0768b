"""Compiling for a GPU on a machine without one: with the wheels of the extra `gpu-compile`.

XLA's compiler for GPUs is in the wheel of JAX's CUDA plugin, and asks NVIDIA's assembler for the
last step; neither wants a device, only a description of one. What differs from a compilation beside
a GPU: nothing is timed or asked of cuBLAS, so for a product XLA takes a default kernel of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from lrd_jax.errors import UserError
from lrd_jax.kernels.targets import Target

_HOW = "pip install 'lrd-jax[gpu-compile]', best into an environment of its own"


def check_installed() -> None:
    """Raises UserError where the compiler or the assembler is missing or does not fit.

    JAX must not look at the machine's own GPU: `JAX_PLATFORMS` has to be `cpu` before it starts.
    With the plugin but without CUDA's libraries it would log a traceback, and leave the plugin out.
    """
    if os.environ.get("JAX_PLATFORMS") != "cpu":
        raise RuntimeError("set JAX_PLATFORMS=cpu before JAX is imported")
    versions = {}
    for package in ("jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(f"{package} is not installed, which compiles for a GPU: {_HOW}") from (
                error
            )
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{name} {version}" for name, version in versions.items())
        raise UserError(f"these must have the same version, and are {found}: {_HOW}")
    assembler()


def assembler() -> Path:
    """The program `ptxas` of the installed wheels.

    Raises:
      UserError: there is none.
    """
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*/bin/ptxas")):
            return path
    raise UserError(f"NVIDIA's assembler ptxas is not installed (nvidia-cuda-nvcc): {_HOW}")


def devices(target: Target, count: int = 1) -> Sequence[Any]:
    """Devices that JAX can lower and compile for, and not compute on.

    Args:
      target: which GPU.
      count: of these, in one machine.

    Raises:
      UserError: the extra is not installed.
    """
    check_installed()
    topology = topologies.get_topology_desc(
        target.name, "cuda", target_config=target.description(), topology=f"1x1x{count}"
    )
    return topology.devices


def compile_and_dump(
    lowered: jax.stages.Lowered, folder: Path, flags: Sequence[str] = ()
) -> jax.stages.Compiled:
    """Compiles a program for the devices it was lowered for; XLA writes its results to a folder.

    Args:
      lowered: for what `devices` returned.
      folder: empty; `report` reads it.
      flags: of XLA, to be set.
    """
    options: dict[str, str | bool] = dict.fromkeys(flags, True)
    options |= {"xla_dump_to": str(folder), "xla_dump_emitter_re": "ptx"}
    if "xla_gpu_deterministic_ops" in options and jax.__version_info__ >= (0, 12):
        # Products go to cuBLAS then, whose choices only a GPU can list; Triton's stand for them.
        option = "xla_gpu_experimental_deterministic_ops_triton"
        options[option] = "DETERMINISTIC_OPS_TRITON_MODE_UNCHECKED"
    return lowered.compile(compiler_options=options)
