"""How a kernel comes into a JAX program: on a GPU, for one elsewhere, or emulated."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from lrd_jax.errors import one_line
from lrd_jax.kernels import emulate, launcher, nvrtc, source
from lrd_jax.kernels.blocks import UnsupportedError
from lrd_jax.kernels.source import CallCode, CellCode

_OLDEST = (8, 0)  # has the products that the kernels are made of
_CUSTOM_CALL = "__gpu$xla.gpu.ptx"


class Route(NamedTuple):
    """How kernels run.

    Attributes:
      way: `ptx`: XLA's own custom call; `ffi`: our launcher, built on demand; `emulated`: on the
        CPU.
      architecture: of the GPU, such as `sm_90`.
      order: of the emulated threads, see run.h.
    """

    way: str
    architecture: str = ""
    order: int = 0


_Compiled = dict[str, str]  # suffix of the kernels' names -> PTX
_chosen: contextvars.ContextVar[tuple[Route, _Compiled] | None] = contextvars.ContextVar(
    "route", default=None
)


@contextlib.contextmanager
def use(route: Route) -> Iterator[_Compiled]:
    """What is traced inside goes this way, whatever devices there are.

    Yields:
      What is compiled on the way: suffix of the kernels' names -> PTX.
    """
    compiled: _Compiled = {}
    token = _chosen.set((route, compiled))
    try:
        yield compiled
    finally:
        _chosen.reset(token)


def current() -> Route:
    """How kernels run in what is traced now.

    Raises:
      UnsupportedError: there is no GPU that can run them.
    """
    chosen = _chosen.get()
    found = chosen[0] if chosen else _of_device()
    if isinstance(found, str):
        raise UnsupportedError(found)
    return found


@functools.cache
def _of_device() -> Route | str:
    """The first way in which a small kernel gives the right numbers on this GPU, or why none."""
    if jax.default_backend() != "gpu":
        return f"JAX runs on the {jax.default_backend()}, and it is for a GPU"
    device = jax.local_devices()[0]
    capability = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
    if capability is None:
        return "the GPU is not one of NVIDIA's"
    major, minor = map(int, capability.groups())
    if (major, minor) < _OLDEST:
        return f"the GPU has compute capability {major}.{minor}, and it wants 8.0"
    reasons = []
    for way in ("ptx", "ffi"):
        route = Route(way, f"sm_{major}{minor}")
        try:
            _try(route)
            return route
        except Exception as error:  # whatever compiler, driver or XLA raise
            reasons.append(f"{way}: {one_line(str(error))[:200]}")
    return f"a small kernel does not run here ({'; '.join(reasons)})"


_TRIAL = """
extern "C" __global__ void lrd_trial(const float* x, float* y) {
  y[threadIdx.x] = 2.f * x[threadIdx.x];
}
"""


def _try(route: Route) -> None:
    """Runs a small kernel, also where this is called while something else is traced."""
    ptx = nvrtc.compile_ptx(_TRIAL, route.architecture)
    x = np.arange(32, dtype=np.float32)
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)

    def double(x: Any) -> Any:
        return _on_gpu(route.way, "lrd_trial", ptx, (1, 1), 32, 0, [x], [shape], {})[0]

    found = jax.jit(double).lower(shape).compile()(x)
    if not np.array_equal(np.asarray(found), 2 * x):
        raise UnsupportedError("wrong numbers")


def _on_gpu(
    way: str,
    name: str,
    ptx: str,
    grid: tuple[int, int],
    threads: int,
    shared: int,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    in_place: Mapping[int, int],
) -> list[Any]:
    """A kernel in the program: parameters are its inputs and then its outputs."""
    if way == "ffi":
        target = launcher.register()
        call = jax.ffi.ffi_call(target, tuple(outputs), input_output_aliases={**in_place})
        return list(call(*inputs, name=name, code=ptx, grid=grid, threads=threads, shared=shared))
    number = np.int32
    places = tuple(number(len(inputs) + i) for i in range(len(outputs)))
    attributes: dict[str, Any] = {f"grid_{a}": number(n) for a, n in zip("xy", grid, strict=True)}
    attributes |= {"grid_z": number(1), "block_x": number(threads)}
    attributes |= {"block_y": number(1), "block_z": number(1), "shared_mem_bytes": number(shared)}
    # `source` in JAX 0.10 and 0.11, `kernel_data` in 0.12; each leaves the other alone.
    attributes |= {"name": name, "source": ptx, "kernel_data": ptx, "kernel_type": "ptx"}
    call = jax.ffi.ffi_call(_CUSTOM_CALL, tuple(outputs), input_output_aliases={**in_place})
    return list(call(*inputs, output_indices=places, **attributes))


def prepare(route: Route, code: CellCode, call: CallCode) -> tuple[str, str]:
    """Compiles the kernels of a call, so that what fails does so here.

    Returns:
      PTX and the suffix of the kernels' names; the source for a CPU where they are emulated.

    Raises:
      UnsupportedError: the compiler is not there, or refuses them.
    """
    if route.way == "emulated":
        return source.for_cpu(code), ""
    text, suffix = source.for_gpu(code, call)
    ptx = nvrtc.compile_ptx(text, route.architecture)
    if chosen := _chosen.get():
        chosen[1][suffix] = ptx
    return ptx, suffix


def run(
    route: Route,
    code: CellCode,
    call: CallCode,
    backward: bool,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    in_place: Mapping[int, int],
) -> list[Any]:
    """A kernel in the program that is traced; under `vmap` all members in one launch.

    Args:
      route: how.
      code: of the cell.
      call: what the call is like.
      backward: which kernel.
      inputs: its arrays, by `source.names`, members first.
      outputs: shape and dtype of the results of one member.
      in_place: index of an input -> of the result that takes its place in memory. A thread reads
        every number of it before it writes the one in its place; nothing that is kept depends on
        another's reading it.
    """
    ptx, suffix = prepare(route, code, call)

    def launch(*arrays: Any) -> list[Any]:
        members = len(arrays[0])
        results = [jax.ShapeDtypeStruct((members, *o.shape), o.dtype) for o in outputs]
        if route.way == "emulated":

            def emulated(*arrays: Any) -> tuple[Any, ...]:
                return tuple(
                    emulate.run(code, call, backward, arrays, results, in_place, route.order)
                )

            return list(jax.pure_callback(emulated, tuple(results), *arrays))
        name = f"recurrence_{'backward' if backward else 'forward'}_{suffix}"
        grid, shared = (call.tiles, members), code.shared_bytes(call, backward)
        threads = code.threads
        return _on_gpu(route.way, name, ptx, grid, threads, shared, arrays, results, in_place)

    @custom_vmap
    def one(*arrays: Any) -> list[Any]:
        return launch(*arrays)

    @one.def_vmap
    def _(size: int, batched: Sequence[bool], *arrays: Any) -> tuple[list[Any], list[bool]]:
        whole = [
            a if has else jnp.broadcast_to(a, (size, *a.shape))
            for a, has in zip(arrays, batched, strict=True)
        ]
        found = one(*(a.reshape(-1, *a.shape[2:]) for a in whole))
        return [f.reshape(size, -1, *f.shape[1:]) for f in found], [True] * len(found)

    return one(*inputs)
