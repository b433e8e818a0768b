"""What `on_gpu.py --part=check` runs: each job in a process that answers with JSON.

A job that fails has its reason in the place of numbers; one that takes its process with it (a bad
kernel does) ends with that, and the jobs after it go on in another process.
"""

from __future__ import annotations

import functools
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # a checkout that is not installed

import bench_worker  # noqa: E402
from bench_contenders import CELLS  # noqa: E402
from bench_contenders import Job as LoopJob  # noqa: E402

CALLS = 20  # timed, at most
SECONDS = 3.0  # of timed calls of one contender, about
TOLERANCE = 1.5  # of an error, over that of the default scan
NEGLIGIBLE = 1e-5  # an error, as norm of the difference over norm


class Shape(NamedTuple):
    """Runs side by side x time steps x examples x units."""

    members: int
    steps: int
    batch: int
    units: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


SHAPES = (
    Shape(1, 784, 64, 128),
    Shape(1, 784, 100, 100),
    Shape(10, 784, 100, 100),
    Shape(1, 1024, 16, 128),
    Shape(16, 320, 100, 128),
)
PARITY = (Shape(1, 17, 8, 128), Shape(3, 300, 100, 128), Shape(1, 784, 64, 64))
TINY = (Shape(2, 9, 12, 16),)
PRECISIONS = ("fp32", "tf32", "fp16")


class Job(NamedTuple):
    """One entry of the record.

    Attributes:
      process: "jax", "torch" or "deterministic" (JAX with `devices.deterministic`): jobs of the
        same one may share a process.
      what: a key of `WORK`.
      name: a contender; "ours-BACKEND-CELL" for ours.
      shape: of the recurrence.
    """

    process: str
    what: str
    name: str
    shape: Shape

    def __str__(self) -> str:
        process = " deterministic" if self.process == "deterministic" else ""
        return f"{self.what} {self.name} {self.shape}{process}"


def jobs(backends: list[str], tiny: bool = False) -> list[Job]:
    """Everything there is to check, the most telling first.

    Args:
      backends: rows of the table of backends that run these cells, the fastest first.
      tiny: a rehearsal, at small sizes.
    """
    small, shapes, parity = TINY[0], TINY if tiny else SHAPES, TINY if tiny else PARITY
    ours = [f"ours-{backend}-{cell}" for cell in CELLS for backend in backends]
    found = [Job("jax", "smoke", f"ours-{backend}-lstm", small) for backend in backends]
    chosen = ["auto", *(backend for backend in backends if backend == "kernel")]
    found += [Job("jax", "steps", f"ours-{backend}-urlstm", small) for backend in chosen]
    found += [Job("jax", "parity", name, shape) for shape in parity for name in ours]
    for shape in shapes:
        found += [Job("jax", "time", name, shape) for name in ours]
        found += [Job("jax", "time", name, shape) for name in ("flax-lstm", "cudnn-lstm")]
        if shape.members == 1 or tiny:  # PyTorch trains one at a time
            found += [Job("torch", "time", f"torch-lstm-{p}", shape) for p in PRECISIONS]
        if shape == shapes[0]:
            loops = [f"torch_eager-{cell}" for cell in ("hdetach", "urlstm")]
            found += [Job("torch", "time", name, shape) for name in loops]
            found += [Job("deterministic", "time", f"ours-{backends[0]}-lstm", shape)]
    return found


# ---- JAX ---------------------------------------------------------------------------------------


def gradients(name: str, shape: Shape) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The last state of every run and the gradients of a loss on it, with their arguments.

    As in `bench_recurrence.py`, a training step is the loss of the last state, forward and backward
    to all parameters; nothing is updated.
    """
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    from jax.experimental import rnn

    from lrd_jax.cells import make_cell
    from lrd_jax.recurrence import Recurrence
    from lrd_jax.recurrence.kernel import tell_once
    from lrd_jax.streams import StepContext

    who, *path, cell = name.split("-")
    members, steps, batch, units = shape
    if who == "flax":
        model: Any = nn.RNN(nn.OptimizedLSTMCell(units))
        init = model.init

        def last(params: Any, x: Any, key: Any) -> Any:
            return model.apply(params, x)[:, -1]

    elif who == "cudnn":
        zero = jnp.zeros((1, batch, units))
        lengths = jnp.full(batch, steps, jnp.int32)

        def init(key: Any, x: Any) -> Any:
            return rnn.init_lstm_weight(key, 1, units, 1, False)

        def last(params: Any, x: Any, key: Any) -> Any:
            found: Any = rnn.lstm(x, zero, zero, params, lengths, 1, units, 1, 0.0, False)
            return found[1][0]

    else:
        options, p_block = CELLS[cell]
        cell_module = make_cell({"hidden_size": units, **options})
        tell_once.cache_clear()  # every job hears it
        model = Recurrence(cell_module, p_block=p_block, backend=path[0])
        init = model.init

        def last(params: Any, x: Any, key: Any) -> Any:
            masks = model.draw(StepContext(key), steps, batch)
            return model.apply(params, x, masks=masks).last

    def one(params: Any, x: Any, key: Any) -> Any:
        def loss(params: Any) -> Any:
            h = last(params, x, key)
            return (h**2).sum() / batch, h

        grads, h = jax.grad(loss, has_aux=True)(params)
        return h, grads

    keys = jax.random.split(jax.random.key(0), members)
    x = jax.random.normal(jax.random.key(1), (members, batch, steps, 1))
    params = jax.vmap(lambda key: init(key, x[0, :, :2]))(keys)
    # cuDNN's call has no rule for `vmap`.
    mapped: Any = (
        jax.vmap(one) if who != "cudnn" else lambda *args: jax.lax.map(lambda a: one(*a), args)
    )
    return jax.jit(mapped), (params, x, keys)


def errors(found: Any, reference: Any) -> float:
    """The largest norm of a difference over the norm, of last states and every gradient."""
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
    relative = [
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in (tuple(np.asarray(leaf, np.float64).ravel() for leaf in pair) for pair in pairs)
        if np.linalg.norm(b) > 0
    ]
    return max(relative)


def smoke(job: Job) -> dict[str, Any]:
    """Whether it runs at all, beside the scan."""
    import jax

    function, arguments = gradients(job.name, job.shape)
    reference, _ = gradients(_scan(job.name), job.shape)
    began = time.perf_counter()
    found = jax.block_until_ready(function(*arguments))
    return {
        "first_call_s": time.perf_counter() - began,
        "error": errors(found, reference(*arguments)),
    }


def parity(job: Job) -> dict[str, Any]:
    """Its error and that of the default scan against the scan of all 23 bits; whether it repeats.

    `ok`: at most `TOLERANCE` times the scan's, whose products a GPU rounds to TF32.
    """
    import jax
    import numpy as np

    function, arguments = gradients(job.name, job.shape)
    reference, scan = _reference(_scan(job.name), job.shape)
    first, second = (jax.device_get(function(*arguments)) for _ in range(2))
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    error = errors(first, reference)
    return {
        "error": error,
        "scan_error": scan,
        "ok": error <= max(TOLERANCE * scan, NEGLIGIBLE),
        "repeats": all(np.array_equal(a, b) for a, b in pairs),
    }


@functools.lru_cache(maxsize=1)
def _reference(scan: str, shape: Shape) -> tuple[Any, float]:
    """What the scan computes with all 23 bits, and the error that it has by default."""
    import jax

    function, arguments = gradients(scan, shape)
    by_default = jax.device_get(function(*arguments))
    with jax.default_matmul_precision("highest"):
        reference = jax.device_get(gradients(scan, shape)[0](*arguments))
    return reference, errors(by_default, reference)


def _scan(name: str) -> str:
    return f"ours-scan-{name.rpartition('-')[2]}"


def steps(job: Job) -> dict[str, Any]:
    """Whether training in calls of eight steps equals single ones, and the time of a step of each.

    On noise, with two seeds and h-detach.
    """
    import jax
    import numpy as np

    from configs import base
    from lrd_jax.data.stand_in import make_stand_in
    from lrd_jax.training.program import make_program

    config: Any = base.get_config()
    config.update_from_flattened_dict(
        {
            "num_seeds": 2,
            "data.name": "digits",
            "data.batch_size": job.shape.batch,
            "model.cell": "urlstm",
            "model.backend": job.name.split("-")[1],
            "model.hidden_size": job.shape.units,
            "detach.p_block": 0.25,
            "train.num_steps": 24,
        }
    )
    states, seconds = [], {}
    for at_once in (1, 8):
        config.train.steps_per_call = at_once
        program = make_program(config, make_stand_in(config))
        state = program.init()
        for start in range(0, 24, at_once):
            stretch = program.stretch(range(start, start + at_once))
            began = time.perf_counter()
            state = jax.block_until_ready(program.advance(state, stretch, 0, at_once))
            seconds[at_once] = (time.perf_counter() - began) / at_once  # the last ones count
        states.append(jax.device_get(state))
    pairs = zip(*map(jax.tree.leaves, states), strict=True)
    return {
        "equal": all(np.array_equal(a, b) for a, b in pairs),
        "step_s": seconds[1],
        "step_s_in_eights": seconds[8],
    }


def timing(job: Job) -> dict[str, Any]:
    """The time of forward and backward, in calls that are waited for."""
    if job.process == "torch":
        return _timed(torch_call(job), job.shape)
    import jax

    function, arguments = gradients(job.name, job.shape)
    return _timed(lambda: jax.block_until_ready(function(*arguments)), job.shape)


def _timed(call: Callable[[], Any], shape: Shape) -> dict[str, Any]:
    """Times of a call, in seconds: median, least, first; and how many were counted."""

    def once() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    first, _ = once(), once()
    times = [once()]
    while len(times) < CALLS and sum(times) < SECONDS:
        times.append(once())
    median = statistics.median(times)
    found = {"median_s": median, "us_per_time_step": 1e6 * median / shape.steps}
    return found | {"best_s": min(times), "calls": len(times), "first_call_s": first}


# ---- PyTorch -----------------------------------------------------------------------------------


def torch_call(job: Job) -> Callable[[], None]:
    """Forward and backward of `torch.nn.LSTM` in a precision, or of a loop over a cell."""
    import torch  # pyright: ignore[reportMissingImports]

    way, *rest = job.name.split("-")
    steps, batch, units = job.shape[1:]
    if way != "torch":
        import bench_contenders

        loop = LoopJob(job.name, steps, batch, units, 1)
        return bench_contenders.torch_calls(loop).train
    precision = rest[-1]
    cuda = torch.cuda.is_available()
    if not cuda and precision != "fp32":
        raise ValueError(f"PyTorch sees no GPU, and {precision} is one's")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    kind = {
        "device": "cuda" if cuda else "cpu",
        "dtype": torch.float16 if precision == "fp16" else torch.float32,
    }
    module = torch.nn.LSTM(1, units).to(**kind)
    x = torch.randn(steps, batch, 1, **kind)

    def call() -> None:
        module.zero_grad(set_to_none=True)
        (module(x)[1][0] ** 2).sum().div(batch).backward()
        if cuda:
            torch.cuda.synchronize()

    return call


# ---- The process -------------------------------------------------------------------------------

WORK = {"smoke": smoke, "parity": parity, "steps": steps, "time": timing}


def where(process: str) -> dict[str, Any]:
    """Device and versions."""
    if process == "torch":
        import platform

        import torch  # pyright: ignore[reportMissingImports]

        cuda = torch.cuda.is_available()
        device = f"{torch.cuda.get_device_name()} (cuda)" if cuda else f"{platform.machine()} (cpu)"
        return {
            "device": device,
            "versions": {
                "torch": torch.__version__,
                "cudnn": str(torch.backends.cudnn.version()),
            },
        }
    from lrd_jax.reporting import provenance

    return {"device": provenance.device_description(), "versions": provenance.versions()}


def main(process: str, names: list[list[Any]]) -> None:
    """Does jobs of one process; answers where it is, then `begin` and the record of each."""
    from configs import base
    from lrd_jax.errors import one_line

    answer = bench_worker.answers()
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("lrd_jax.recurrence").addHandler(handler)
    if process != "torch":
        from lrd_jax.runtime import devices

        config: Any = base.get_config()
        config.devices.deterministic = process == "deterministic"
        config.devices.cpu_devices = 1
        devices.configure(config)
    answer(where=where(process))
    for what, name, shape in names:
        job = Job(process, what, name, Shape(*shape))
        answer(begin=name)
        told.clear()
        try:
            found = WORK[what](job)
        except Exception as error:  # whatever a library of the contender raises
            found = {"failed": one_line(f"{type(error).__name__}: {error}")[:200]}
        if told:  # another backend took the place of the one that the record names
            found["told"] = "; ".join(told)
        answer(done=name, record=found)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
