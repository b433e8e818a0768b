"""What is asked for before a program is compiled for a GPU that is not there."""

import importlib.machinery
import importlib.metadata

import pytest

from lrd_jax.errors import UserError
from lrd_jax.kernels import deviceless
from lrd_jax.kernels.targets import TARGETS


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Versions of packages, to be changed by a test, and an assembler that is there."""
    versions = dict.fromkeys(("jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt"), "0.12.0.1")
    versions["ptxas"] = "13.5"

    def version(package):
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    program = tmp_path / "cu13" / "bin" / "ptxas"
    program.parent.mkdir(parents=True)
    program.touch()
    spec = importlib.machinery.ModuleSpec("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(
        deviceless.importlib.util, "find_spec", lambda name: spec if "ptxas" in versions else None
    )
    return versions


def test_a_complete_installation_passes(installed, tmp_path):
    deviceless.check_installed()
    assert deviceless.assembler() == tmp_path / "cu13" / "bin" / "ptxas"


@pytest.mark.parametrize(
    ("package", "version", "message"),
    [
        ("jax-cuda13-plugin", None, "jax-cuda13-plugin is not installed"),
        ("jax-cuda13-pjrt", None, "jax-cuda13-pjrt is not installed"),
        ("jax-cuda13-plugin", "0.10.1", "same version, and are jaxlib 0.12.0.1, jax-cuda13-plugin"),
        ("ptxas", None, "assembler ptxas is not installed"),
    ],
)
def test_what_is_missing_is_told_in_one_line(installed, package, version, message):
    installed.pop(package) if version is None else installed.update({package: version})
    with pytest.raises(UserError, match=message) as caught:
        deviceless.devices(TARGETS["sm_90a"])
    assert "pip install 'lrd-jax[gpu-compile]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_jax_must_not_look_for_a_gpu_of_this_machine(installed, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(RuntimeError, match="JAX_PLATFORMS=cpu"):
        deviceless.devices(TARGETS["sm_90a"])


def test_the_names_of_targets_are_their_capabilities():
    for name, target in TARGETS.items():
        major, minor = target.capability
        assert name.removesuffix("a") == f"sm_{major}{minor}"
        assert f"major: {major} minor: {minor}" in target.description()
