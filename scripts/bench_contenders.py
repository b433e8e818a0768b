"""The contenders of `bench_recurrence.py`, each in a process of its own: what a worker calls."""

from __future__ import annotations

import pathlib
import platform
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import bench_worker

from lrd_jax.reporting import provenance

ROOT = pathlib.Path(__file__).resolve().parents[1]

CELLS: dict[str, tuple[dict[str, Any], float]] = {  # model options, p_block
    "lstm": ({"cell": "lstm"}, 0.0),
    "hdetach": ({"cell": "lstm"}, 0.5),
    "urlstm": ({"cell": "urlstm"}, 0.0),
    "gru": ({"cell": "gru"}, 0.0),
}


class Job(NamedTuple):
    """What one worker process measures."""

    contender: str
    steps: int
    batch: int
    units: int
    inputs: int


class Calls(NamedTuple):
    """What a worker offers; `peak` is in bytes, over what the process held before."""

    train: Callable[[], None]
    forward: Callable[[], None]
    peak: Callable[[], int]
    device: Callable[[], str]
    versions: dict[str, str]


def resident() -> int:
    """Largest resident memory of this process so far, bytes."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib if sys.platform == "darwin" else kib * 1024


def jax_calls(job: Job) -> Calls:
    """Ours and Flax's: `jit(shard_map)` over all devices, gradients averaged once."""
    from configs import base
    from lrd_jax.runtime import devices

    config: Any = base.get_config()
    config.data.batch_size = job.batch
    config.devices.deterministic = False
    devices.configure(config)

    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import PartitionSpec as P

    from lrd_jax.cells import bfloat16_dot, make_cell
    from lrd_jax.recurrence import Recurrence
    from lrd_jax.streams import StepContext

    kind, *path, cell = job.contender.split("-")
    if kind == "products":
        init, last, gradients = products(job)
    elif kind == "flax":
        rnn: Any = nn.RNN(nn.OptimizedLSTMCell(job.units))

        def last(params, x, context):
            return rnn.apply(params, x)[:, -1]

        init = rnn.init
    else:
        options, p_block = CELLS[cell]
        rounded: dict[str, Any] = {"dot": bfloat16_dot} if path == ["bfloat16"] else {}
        model: Any = Recurrence(
            make_cell({"hidden_size": job.units, **options}).clone(**rounded),
            p_block=p_block,
            backend="scan" if path == ["scan"] else "fused",
            recompute=path == ["recompute"],
        )

        def last(params, x, context):
            masks = model.draw(context, x.shape[1], x.shape[0])
            return model.apply(params, x, masks=masks).last

        init = model.init

    mesh = devices.make_mesh()

    def gradient(params, x, step):
        local = x.shape[0]
        first = jax.lax.axis_index(devices.AXIS) * local
        context = StepContext(jax.random.fold_in(jax.random.key(0), step), step, first)

        def loss(params):
            return (last(params, x, context) ** 2).sum() / local

        grads = gradients(params, x) if kind == "products" else jax.grad(loss)(params)
        return jax.lax.pmean(grads, devices.AXIS)

    split = P(devices.AXIS)
    train = devices.data_parallel(gradient, mesh, (P(), split, P()), P(), ())
    forward = devices.data_parallel(
        lambda params, x: last(params, x, None), mesh, (P(), split), split, ()
    )
    x = np.random.default_rng(0).standard_normal((job.batch, job.steps, job.inputs), np.float32)
    params = jax.jit(init)(jax.random.key(0), jnp.zeros((1, 2, job.inputs)))
    params, x = devices.place(params, mesh, P()), devices.place(x, mesh, split)
    count = 0

    def run_train():
        nonlocal count
        count += 1
        jax.block_until_ready(train(params, x, np.int32(count)))

    device = jax.devices()[0]
    before = resident()

    def peak() -> int:
        if device.platform == "cpu":
            return resident() - before
        return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)

    return Calls(
        run_train,
        lambda: jax.block_until_ready(forward(params, x)),
        peak,
        provenance.device_description,
        provenance.versions(),
    )


def products(job: Job) -> tuple[Callable[..., Any], ...]:
    """The products of an LSTM over time alone: one a step forward, one a step back, one after.

    Returns what `jax_calls` calls `init` and `last`, and the stand-in for a gradient.
    """
    import jax
    import jax.numpy as jnp

    units = job.units

    def init(key, x):
        # The states go through the first block, which keeps their size at any number of steps.
        keeping = jax.nn.initializers.orthogonal()(key, (units, units))
        return jnp.concatenate([keeping, jax.random.normal(key, (units, 3 * units))], axis=1)

    def forward(kernel, x):
        def step(h, _):
            z = h @ kernel
            return z[:, :units], (h, z)

        start = jnp.broadcast_to(x[:, 0, :1], (x.shape[0], units))
        return jax.lax.scan(step, start, None, length=x.shape[1])

    def gradients(kernel, x):
        last, (states, z) = forward(kernel, x)

        def step(d, z):
            dz = jnp.concatenate([d, z[:, units:]], axis=1)
            return dz @ kernel.T, dz

        _, dz = jax.lax.scan(step, last, z, reverse=True)
        return states.reshape(-1, units).T @ dz.reshape(-1, 4 * units)

    return init, lambda kernel, x, draws: forward(kernel, x)[0], gradients


def torch_calls(job: Job) -> Calls:
    """PyTorch's own modules, and loops over cells it has not, eager, scripted or compiled."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    way, cell = job.contender.split("-")
    steps, batch, units = job.steps, job.batch, job.units
    x = torch.randn(steps, batch, job.inputs, device=device)

    if way == "torch":
        module = getattr(torch.nn, cell.upper())(job.inputs, units).to(device)
        parameters = list(module.parameters())

        def last():
            return module(x)[0][-1]

    else:
        bound = units**-0.5
        shapes = ((job.inputs, 4 * units), (units, 4 * units), (4 * units,))
        wx, wh, b = parameters = [
            torch.empty(shape, device=device).uniform_(-bound, bound).requires_grad_()
            for shape in shapes
        ]
        loop = torch_loop(cell, way.removeprefix("torch_"))
        zero = torch.zeros(batch, units, device=device)
        p_block = CELLS[cell][1]

        def last():
            bias = b
            if cell == "urlstm":  # the refine gate, second, is shifted by minus the forget bias
                bias = b - torch.nn.functional.pad(b[:units], (units, 2 * units))
            zs = (torch.matmul(x, wx) + bias).unbind(0)
            blocked = (torch.rand(steps) < p_block).tolist()
            return loop(list(zs), zero, zero, wh, blocked)

    def wait():
        if cuda:
            torch.cuda.synchronize()

    def train():
        for parameter in parameters:
            parameter.grad = None
        (last() ** 2).sum().div(batch).backward()
        wait()

    def forward():
        with torch.no_grad():
            last()
        wait()

    before = resident()
    name = f"{torch.cuda.get_device_name()} (cuda)" if cuda else platform.machine()
    return Calls(
        train,
        forward,
        lambda: torch.cuda.max_memory_allocated() if cuda else resident() - before,
        lambda: f"{name}, {torch.get_num_threads()} threads",
        {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())},
    )


def torch_loop(cell: str, way: str) -> Callable[..., Any]:
    """The loop over time, `(list of (batch, 4 d), h, c, W_h, blocked) -> last h`."""
    import torch  # pyright: ignore[reportMissingImports]
    import torch_cells  # beside this file

    step, loop = {
        "hdetach": (torch_cells.lstm_step, torch_cells.lstm_loop),
        "urlstm": (torch_cells.urlstm_step, torch_cells.urlstm_loop),
    }[cell]
    if way == "script":
        return torch.jit.script(loop)
    if way == "eager":
        return loop
    # The step, not the loop: that would be compiled unrolled, for minutes.
    step = torch.compile(step)

    def compiled(zs, h, c, wh, blocked):
        for z, stop in zip(zs, blocked, strict=True):
            h, c = step(z, h.detach() if stop else h, c, wh)
        return h

    return compiled


def work(job: Job) -> None:
    """A worker: answers each line of stdin with a line of JSON on stdout."""
    answer = bench_worker.answers()
    calls = (torch_calls if job.contender.startswith("torch") else jax_calls)(job)

    def timed(call: Callable[[], None]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    answer(compile_s=timed(calls.train), compile_forward_s=timed(calls.forward))
    for line in sys.stdin:
        if line.strip() == "end":
            answer(peak_bytes=calls.peak(), device=calls.device(), versions=calls.versions)
            return
        answer(seconds=timed(calls.train if line.strip() == "train" else calls.forward))
