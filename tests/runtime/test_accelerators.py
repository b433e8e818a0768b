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


def test_without_a_gpu_the_plugin_alone_is_none(machine):
    (machine / "nvidia0").unlink()
    assert not accelerators.uses_gpu({})


def test_a_gpu_without_a_plugin_is_not_used(machine, monkeypatch):
    (machine / "xla_cuda13").rmdir()
    assert not accelerators.uses_gpu({})
    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda name: None)
    assert not accelerators.uses_gpu({})


@pytest.mark.parametrize("used", [True, False])
def test_a_gpu_needs_no_restart_with_huge_pages(monkeypatch, tmp_path, used):
    switch = tmp_path / "enabled"
    switch.write_text("always [madvise] never\n", encoding="utf-8")
    started = []
    monkeypatch.setattr(huge_pages, "_SWITCH", str(switch))
    monkeypatch.setattr(huge_pages, "uses_gpu", lambda: used)
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    huge_pages.restart_with_huge_pages()
    assert len(started) == (not used)
