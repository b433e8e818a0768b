"""Compiling kernels at run time: the cache, what is missing, and, with the extra, every target."""

import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrd_jax.cells import make_cell
from lrd_jax.errors import UserError
from lrd_jax.kernels import deviceless, launcher, nvrtc, routes
from lrd_jax.kernels.blocks import UnsupportedError
from lrd_jax.kernels.source import CallCode, cell_code, for_gpu
from lrd_jax.kernels.targets import TARGETS
from lrd_jax.recurrence import Recurrence
from lrd_jax.recurrence.kernel import tell_once

PTX = ".version 9.0\n.entry kernel\n"


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """What was compiled by a compiler that always answers the same; the cache is empty."""
    calls = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(nvrtc, "_load", lambda: (None, "13.0"))
    monkeypatch.setattr(nvrtc, "_compile", lambda _, *what: calls.append(what) or PTX)
    nvrtc.compile_ptx.cache_clear()
    yield calls
    nvrtc.compile_ptx.cache_clear()


def again(text="x", architecture="sm_90"):
    nvrtc.compile_ptx.cache_clear()
    return nvrtc.compile_ptx(text, architecture)


def test_later_processes_find_what_was_compiled(compiled, tmp_path):
    first = again()
    assert first.startswith(PTX) and again() == first
    assert compiled == [("x", "compute_90")]
    (kept,) = (tmp_path / "lrd_jax" / "kernels").iterdir()
    assert kept.read_text(encoding="utf-8") == first
    again("y"), again("x", "sm_80")
    assert compiled[1:] == [("y", "compute_90"), ("x", "compute_80")]


@pytest.mark.parametrize("damage", [lambda t: t[:-9], lambda t: "", lambda t: "." + t])
def test_a_damaged_file_is_compiled_again(compiled, tmp_path, damage):
    whole = again()
    (kept,) = (tmp_path / "lrd_jax" / "kernels").iterdir()
    kept.write_text(damage(whole), encoding="utf-8")
    assert again() == whole and len(compiled) == 2
    assert kept.read_text(encoding="utf-8") == whole


def test_where_nothing_can_be_written_it_stays_in_memory(compiled, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert again() == nvrtc.compile_ptx("x", "sm_90")
    assert len(compiled) == 1


def test_a_kernel_that_does_not_compile_is_left_to_the_fused_path(compiled, monkeypatch, caplog):
    def fails(*_):
        raise UnsupportedError("the compiler has a bad day")

    tell_once.cache_clear()
    monkeypatch.setattr(nvrtc, "_compile", fails)
    cell = make_cell({"cell": "gru", "hidden_size": 3})
    models = [Recurrence(cell, backend=backend) for backend in ("kernel", "fused")]
    x = jnp.ones((2, 3, 1))
    params = models[0].init(jax.random.key(0), x)
    caplog.clear()
    tell_once.cache_clear()
    with routes.use(routes.Route("ptx", "sm_90")):
        found = [model.apply(params, x).last for model in models]
    np.testing.assert_array_equal(*found)
    assert caplog.messages == [
        "model.backend=kernel: the compiler has a bad day; fused takes its place"
    ]


def test_without_the_compiler_that_is_the_reason(monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(["libnone.so"]))
    nvrtc._load.cache_clear()
    with pytest.raises(UnsupportedError, match="nvidia-cuda-nvrtc"):
        nvrtc._load()


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ({"compute_capability": "7.5"}, "the GPU has compute capability 7.5, and it wants 8.0"),
        ({"compute_capability": "gfx90a"}, "the GPU is not one of NVIDIA's"),
        ({}, "the GPU is not one of NVIDIA's"),
    ],
)
def test_gpus_that_cannot_run_it(monkeypatch, device, why):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [type("Device", (), device)()])
    routes._of_device.cache_clear()
    assert routes._of_device() == why
    routes._of_device.cache_clear()


def test_the_second_launcher_stands_in_for_the_first(monkeypatch):
    """Tried in this order, each by a small kernel; both failing is a reason, told once."""
    tried = []

    def attempt(route):
        tried.append(route)
        if route.way == failing or failing == "both":
            raise RuntimeError(f"no {route.way}\nhere")

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = type("Device", (), {"compute_capability": "12.0"})()
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(routes, "_try", attempt)
    for failing, found in (  # noqa: B007 - `attempt` reads it
        ("", routes.Route("ptx", "sm_120")),
        ("ptx", routes.Route("ffi", "sm_120")),
        ("both", "a small kernel does not run here (ptx: no ptx here; ffi: no ffi here)"),
    ):
        routes._of_device.cache_clear()
        assert routes._of_device() == routes._of_device() == found
    assert [route.way for route in tried] == ["ptx", "ptx", "ffi", "ptx", "ffi"]
    routes._of_device.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_the_second_launcher_builds():
    assert launcher.build().LrdLaunch


# ---- With the compiler ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def assembler():
    """NVIDIA's assembler, which tells what a kernel takes; skips where the extra is missing."""
    try:
        nvrtc._load()
        return deviceless.assembler()
    except (UnsupportedError, UserError) as error:
        pytest.skip(f"cannot compile for a GPU here: {error}")


def taken(assembler, architecture, folder, call=CallCode(784, 64), **cell):  # noqa: B008
    """Registers and spilled bytes of both kernels."""
    code = cell_code(make_cell({"hidden_size": 128, "chrono_t_max": 784, **cell}))
    path = folder / "kernel.ptx"
    ptx = nvrtc.compile_ptx(for_gpu(code, call)[0], architecture.rstrip("a"))
    path.write_text(ptx, encoding="utf-8")
    command = [assembler, "-v", f"-arch={architecture}", path, "-o", folder / "out"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    registers = re.findall(r"Used (\d+) registers", done.stderr)
    return [*map(int, registers)], [int(a) + int(b) for a, b in spills]


@pytest.mark.parametrize("cell", ["lstm", "urlstm", "gru", "rnn"])
@pytest.mark.parametrize("narrow", [0, 1])
def test_weights_of_128_units_stay_in_registers(assembler, tmp_path, cell, narrow):
    call = CallCode(784, 64, skips=True, narrow=narrow)
    registers, spilled = taken(assembler, "sm_90a", tmp_path, call, cell=cell)
    assert len(registers) == 2 and max(registers) <= 128 and max(spilled) <= 16


@pytest.mark.parametrize("architecture", TARGETS)
def test_every_target(assembler, tmp_path, architecture):
    call = CallCode(784, 64, controls=31, skips=True, every=3, bias=True, narrow=4)
    registers, _ = taken(assembler, architecture, tmp_path, call, cell="lstm")
    assert len(registers) == 2 and max(registers) <= 128
