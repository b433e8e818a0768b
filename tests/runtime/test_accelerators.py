"""Whether a GPU will be used, as JAX will find it; and what is left out for one."""

import importlib.machinery
import os
import sys

import pytest

from lrd_jax.runtime import accelerators, huge_pages


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a GPU and JAX's plugin for it; a test may take either away."""
    spec = importlib.machinery.ModuleSpec("jax_plugins", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    (tmp_path / "xla_cuda13").mkdir()
    device = tmp_path / "nvidia0"
    device.touch()
    monkeypatch.setattr(accelerators, "_DEVICE_FILES", (str(device), str(tmp_path / "no")))
    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda name: spec)
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "used"),
    [
        ({}, True),
        ({"JAX_PLATFORMS": "cuda"}, True),
        ({"JAX_PLATFORMS": "gpu,cpu"}, True),
        ({"JAX_PLATFORMS": "cpu"}, False),
        ({"JAX_PLATFORMS": "cpu,cuda"}, False),
        ({"CUDA_VISIBLE_DEVICES": "1"}, True),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, False),
    ],
)
def test_the_environment_may_keep_jax_from_a_gpu(machine, environment, used):
    assert accelerators.uses_gpu(environment) == used


def test_what_a_gpu_needs_is_named(machine):
    assert accelerators.why_not({}) == ""
    assert "CUDA_VISIBLE_DEVICES" in accelerators.why_not({"CUDA_VISIBLE_DEVICES": ""})
    (machine / "xla_cuda13").rmdir()
    assert accelerators.WHEELS in accelerators.why_not({})
    (machine / "nvidia0").unlink()
    assert "no NVIDIA GPU" in accelerators.why_not({})


def test_without_a_gpu_the_plugin_alone_is_none(machine):
    (machine / "nvidia0").unlink()
    assert not accelerators.uses_gpu({})


def test_a_gpu_without_a_plugin_is_not_used(machine, monkeypatch):
    (machine / "xla_cuda13").rmdir()
    assert not accelerators.uses_gpu({})
    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda name: None)
    assert not accelerators.uses_gpu({})


MAIN = ["python", "-m", "lrd_jax.main", "--mode=eval"]


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What was executed, on a machine where huge pages help."""
    switch = tmp_path / "enabled"
    switch.write_text("always [madvise] never\n", encoding="utf-8")
    started = []
    monkeypatch.setattr(huge_pages, "_SWITCH", str(switch))
    monkeypatch.setattr(huge_pages, "uses_gpu", lambda: False)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "orig_argv", MAIN)
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    monkeypatch.setattr(os, "execve", lambda *command: started.append(command))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    return started


@pytest.mark.parametrize("used", [True, False])
def test_a_gpu_needs_no_restart_with_huge_pages(started, monkeypatch, used):
    monkeypatch.setattr(huge_pages, "uses_gpu", lambda: used)
    huge_pages.restart_with_huge_pages()
    assert len(started) == (not used)


def test_the_same_command_is_started_again_once(started, monkeypatch):
    huge_pages.restart_with_huge_pages()
    ((path, argv, environment),) = started
    assert (path, argv) == (sys.executable, [sys.executable, *MAIN[1:]])
    monkeypatch.setenv("GLIBC_TUNABLES", environment["GLIBC_TUNABLES"])
    huge_pages.restart_with_huge_pages()
    assert len(started) == 1


@pytest.mark.parametrize(
    ("argv", "module"),
    [
        (MAIN, "lrd_jax.main"),
        (["python", "-X", "dev", "-W", "m", "-um", "lrd_jax.main"], "lrd_jax.main"),
        (["python", "-Wignore", "-mlrd_jax.main"], "lrd_jax.main"),
        (["python", "--check-hash-based-pycs", "never", "-m", "lrd_jax.main"], "lrd_jax.main"),
        (["python", "/usr/bin/ipython", "-m", "lrd_jax.main"], ""),  # %run
        (["python", "-m", "pdb", "-m", "lrd_jax.main"], "pdb"),
        (["python", "-m", "cProfile", "-m", "lrd_jax.main"], "cProfile"),
        (["python", "/opt/debugpy/launcher", "-m", "lrd_jax.main"], ""),
        (["python", "lrd_jax/main.py", "-m"], ""),
        (["python", "-", "-m", "lrd_jax.main"], ""),  # a script on standard input
        (["python", "-uc", "m = 1", "-m", "lrd_jax.main"], ""),
        (["python"], ""),
    ],
)
def test_only_the_program_itself_is_replaced(started, monkeypatch, argv, module):
    assert huge_pages.started_module(argv) == module
    monkeypatch.setattr(sys, "orig_argv", argv)
    huge_pages.restart_with_huge_pages()
    assert len(started) == (module == "lrd_jax.main")


def test_a_debugger_keeps_its_state(started, monkeypatch):
    monkeypatch.setattr(sys, "gettrace", lambda: print)
    huge_pages.restart_with_huge_pages()
    assert not started


def test_a_python_that_cannot_be_started_again_goes_on(started, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "execve", refuse)
    huge_pages.restart_with_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == ""
