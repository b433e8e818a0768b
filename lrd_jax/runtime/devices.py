"""Devices: how many, the mesh over them, and where arrays live."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lrd_jax.config.members import members
from lrd_jax.errors import UserError, one_line
from lrd_jax.runtime import compilation, processes
from lrd_jax.runtime.accelerators import WHEELS, uses_gpu, why_not
from lrd_jax.runtime.cores import available_cores
from lrd_jax.runtime.memory import available_memory

_log = logging.getLogger(__name__)

# Flags of XLA for `devices.deterministic`. The first alone makes a scatter, such as the gradient of
# picking each label's logit, a loop over all rows in JAX before 0.12: 12 000 turns of 3 kernels for
# a batch of the copying task, where time is 120 turns of 10. The second sorts instead.
DETERMINISTIC = ("xla_gpu_deterministic_ops", "xla_gpu_enable_scatter_determinism_expander")
_THREADS_A_CORE = 16  # of NPROC, at most; each takes memory, and many answer no signal
AXIS = "data"  # the mesh axis that the batch, or the seeds, are split over


def choose_cpu_devices(
    requested: int, total: int, cores: int, what: str = "data.batch_size"
) -> int:
    """Number of CPU devices: as asked for, else the most cores that divide what is split.

    Args:
      requested: `devices.cpu_devices`; 0 = choose.
      total: what is split over them: examples of a batch, or members.
      cores: cores at hand.
      what: its name for messages.

    Raises:
      UserError: an explicit number that does not divide the total.
    """
    if requested == 0:
        return max(n for n in range(1, max(1, min(cores, total)) + 1) if total % n == 0)
    if requested < 0 or total % requested:
        raise UserError(
            f"devices.cpu_devices={requested} does not divide {what}={total};"
            " choose a divisor, or 0 to have one chosen"
        )
    return requested


def configure(config: Any, training: bool = True) -> None:
    """Sets up JAX's devices; call it before anything asks JAX for one.

    A collective on CPU devices blocks a thread of XLA's pool, and too small a pool deadlocks. Every
    thread beyond the cores slows the operations down, which XLA splits over all of them
    (`docs/speed.md`). So the pool has as many threads as there are cores, and at least one more
    than there are devices: enough where one program runs at a time (see `data_parallel`), and that
    with a single collective, as ours.
    Its size is read from NPROC when the CPU client is created; a value there that the user set is
    kept, unless it is smaller than the number of devices or far beyond the cores. Where a GPU is
    used, the CPU is left as JAX has it.

    Args:
      config: the run's config; reads `devices.*`, and the batch size or the number of runs that
        train side by side, whichever is split. The devices are those of this process, for its
        share of it.
      training: whether the devices must divide what is split. An evaluation splits its batches, and
        takes the most devices that divide these, up to `devices.cpu_devices`.

    Raises:
      UserError: a number that does not divide what is split; no device of the platform asked for.
    """
    requested, cores = config.devices.cpu_devices, available_cores()
    if not training:
        total, what = config.eval.batch_size or config.data.batch_size, "eval.batch_size"
        requested, cores = 0, requested or cores
    elif config.devices.split == "seeds":
        total, what = len(members(config)), "the number of seeds (times swept values)"
    elif (parts := config.train.accumulate) > 1:
        total, what = config.data.batch_size // parts, "data.batch_size / train.accumulate"
    else:
        total, what = config.data.batch_size, "data.batch_size"
    share, rest = divmod(total, processes.count())
    if rest:
        raise UserError(f"{what}={total} does not divide over {processes.count()} processes")
    if not uses_gpu():
        count = choose_cpu_devices(requested, share, cores, what)
        asked = os.environ.get("NPROC", "")
        most = max(count + 1, available_cores())
        known = asked.isdecimal() and len(asked) < 10  # longer ones mean as little
        if not known or int(asked) < count:
            os.environ["NPROC"] = str(most)
        elif int(asked) > _THREADS_A_CORE * most:
            os.environ["NPROC"] = str(most)
            _log.warning("NPROC=%s is far beyond the cores: %d threads are used", asked, most)
        jax.config.update("jax_num_cpu_devices", count)
    elif config.devices.cpu_devices:
        _log.warning("devices.cpu_devices has no effect: this run uses a GPU")
    if config.devices.deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        missing = [f"--{name}=true" for name in DETERMINISTIC if name not in flags]
        os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()
    if config.devices.compilation_cache:
        compilation.keep_in(config.devices.compilation_cache)
    if processes.count() == 1:  # several find theirs together, when all have read their configs
        find_devices()


def in_use() -> bool:
    """Whether JAX has its devices already, so that nothing of them can be chosen any more."""
    known: Any = jax.config
    before = known.jax_num_cpu_devices
    try:  # JAX refuses another number from then on
        jax.config.update("jax_num_cpu_devices", 2 if before != 2 else 3)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False


def find_devices() -> list[Any]:
    """Returns all devices of JAX, whose client is made if there is none yet.

    Raises:
      UserError: none of the platforms that JAX_PLATFORMS asks for is here.
    """
    wanted = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    gpu = wanted.split(",")[0].strip().lower() in ("cuda", "gpu")
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a GPU alone is asked for
        missing = why_not()
        reason = (gpu and missing) or one_line(str(error)).partition(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS={wanted} cannot be used here, where there is"
            f" {'cpu alone' if missing else 'cpu and cuda'}: {reason.rstrip('.')}"
            + ("" if WHEELS in reason else f" (GPUs of NVIDIA need {WHEELS})")
        ) from error
    if devices[0].platform == "cpu" and (gpu or (not wanted and uses_gpu())):
        reason = why_not() or "JAX could not start the GPU that is here, see its messages"
        _tell_once(f"no GPU is used, the CPU takes its place: {reason}")
    return devices


@functools.cache
def _tell_once(text: str) -> None:
    _log.warning("%s", text)


def make_mesh(devices: list[Any] | None = None) -> Mesh:
    """One axis, `data`, over the given devices (default all).

    The axis is of type Auto: with JAX's default, Explicit, gradients of `nn.scan` outside
    `shard_map` fail.
    """
    devices = find_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def check_split(split: str, batch_size: int, num_members: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises UserError unless the devices of `mesh` divide what is split over them.

    Args:
      split: `devices.split`.
      batch_size: of the global batch.
      num_members: runs side by side.
      mesh: the devices.
      parts: `train.accumulate`, of each of which a device has a share.
    """
    if split == "seeds" and jax.process_count() > 1:
        raise UserError("devices.split=seeds is for one process; use batch, or a launch a seed")
    if split == "seeds" and num_members % mesh.size:
        raise UserError(
            f"devices.split=seeds: {num_members} runs (num_seeds times the swept values) do not"
            f" divide over {mesh.size} devices; use a multiple of these, or devices.split=batch"
        )
    if split == "batch" and parts > 1 and batch_size % (parts * mesh.size):
        raise UserError(
            f"data.batch_size={batch_size} in train.accumulate={parts} parts does not divide over"
            f" {mesh.size} devices; use a multiple of {parts * mesh.size}, or fewer parts"
        )
    if split == "batch" and batch_size % mesh.size:
        raise UserError(
            f"data.batch_size={batch_size} does not divide over {mesh.size} devices;"
            f" the nearest that does is {max(1, round(batch_size / mesh.size)) * mesh.size}"
        )


def prefers_loops(mesh: Mesh) -> bool:
    """Whether the members of a device had better train one by one than side by side."""
    return mesh.devices.flat[0].platform == "cpu"


def memory_of(device: Any) -> tuple[int, str]:
    """Bytes that arrays on a device may take, 0 where that is not known, and whose they are.

    Of a CPU what is free: programs that run beside this one keep theirs.
    """
    if device.platform == "cpu":
        return available_memory(), "this machine"
    try:
        stats = device.memory_stats() or {}
    except (NotImplementedError, jax.errors.JaxRuntimeError):  # a device that is only described
        stats = {}
    return stats.get("bytes_limit", 0), device.device_kind


def over_members(function: Callable[..., Any], one_by_one: bool) -> Callable[..., Any]:
    """Maps over the leading axis, of members, of all arguments and results.

    Side by side, the seeds fill up a GPU that a single one leaves idle. A CPU is busy with one, and
    XLA's products with a batch axis are slower there than one after the other. A single seed loses
    its axis: even one of size 1 makes slower code on a CPU.

    Args:
      function: of one member.
      one_by_one: whether they take turns, in a loop, or are vmapped; see `prefers_loops`.
    """

    def mapped(*args: Any) -> Any:
        if len(jax.tree.leaves(args)[0]) == 1:
            result = function(*jax.tree.map(lambda a: a[0], args))
            return jax.tree.map(lambda a: a[None], result)
        if one_by_one:
            return lax.map(lambda each: function(*each), args)
        return jax.vmap(function)(*args)

    return mapped


def local_rows(batch_size: int, mesh: Mesh) -> slice:
    """Rows of a global batch that the devices of this process hold.

    Args:
      batch_size: examples over all devices.
      mesh: from `make_mesh`.

    Raises:
      UserError: the processes have different numbers of devices.
    """
    owners = [device.process_index for device in mesh.devices.flat]
    own = owners.count(jax.process_index())
    first = owners.index(jax.process_index())
    # What `place` relies on: equal shares, each in one piece.
    if owners != sorted(owners) or {owners.count(owner) for owner in owners} != {own}:
        raise UserError(
            "the processes of this run have different numbers of devices; give each the same"
            " (on a CPU: devices.cpu_devices)"
        )
    each = batch_size // mesh.size
    return slice(first * each, (first + own) * each)


class _OneAtATime:
    """A compiled function that returns when its results are there."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.lower = function.lower

    def __call__(self, *args: Any) -> Any:
        return jax.block_until_ready(self._function(*args))


def data_parallel(
    step: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any, donate: tuple[int, ...]
) -> Callable[..., Any]:
    """Compiles a per-device function over the mesh: `jit(shard_map(step))`.

    `check_vma=False` is part of the maths: with the check on, the gradient of replicated
    parameters is already summed over the devices, and the step's own `psum` would count it once
    for each.

    On several CPU devices a call returns when it is done. Calls that JAX dispatched ahead of each
    other deadlock there in a pool as small as `configure` makes it.

    Args:
      step: per-device function; reduces over the axis `data` itself.
      mesh: from `make_mesh`.
      in_specs: a PartitionSpec per argument (prefix trees allowed).
      out_specs: the same for the results.
      donate: arguments whose buffers the results may reuse.
    """
    mapped = jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    compiled = jax.jit(mapped, donate_argnums=donate)
    several_cpus = mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
    return _OneAtATime(compiled) if several_cpus else compiled


def gather(tree: Any) -> Any:
    """Brings device arrays to the host, whole, from all processes."""
    return multihost_utils.process_allgather(tree, tiled=True)


def place(tree: Any, mesh: Mesh, spec: P) -> Any:
    """Puts host arrays onto the mesh.

    Args:
      tree: arrays; of what is split, each process brings its own `local_rows`.
      mesh: the devices.
      spec: how the axes are split over them.
    """
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )
