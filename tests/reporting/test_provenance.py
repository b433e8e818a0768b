import os
import platform
import re
import subprocess
import time

import flax
import jax
import pytest

from lrd_jax.reporting import provenance


def git(folder, *arguments):
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(folder, "init")
    return folder


def test_versions_are_those_imported():
    versions = provenance.versions()
    assert versions["jax"] == jax.__version__ and versions["flax"] == flax.__version__
    assert versions["python"] == platform.python_version()
    assert set(versions) == {
        "python", "jax", "jaxlib", "flax", "optax", "orbax", "numpy", "lrd_jax"
    }  # fmt: skip


def test_commit_of_a_clean_and_a_changed_checkout(package, monkeypatch):
    git(package, "add", "-A")
    git(package, "commit", "-m", "first")
    git(package, "tag", "v1")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a git hook
    clean = provenance.commit(package)
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    (package / "__init__.py").write_text("changed = True\n")
    assert provenance.commit(package) == f"{clean}-dirty"


def test_commit_is_unknown_outside_a_checkout(package, tmp_path):
    assert provenance.commit(tmp_path) == "unknown"
    assert provenance.commit(package) == "unknown"  # untracked, and no commit yet
    assert provenance.commit(tmp_path / "nowhere") == "unknown"


def test_commit_needs_no_git_and_waits_for_none(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit(package) == "unknown"
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 20\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    start = time.monotonic()
    assert provenance.commit(package) == "unknown"
    assert time.monotonic() - start < 3


def test_device_description_counts_the_devices():
    text = provenance.device_description()
    assert re.fullmatch(rf"{jax.device_count()} x .+ \({jax.default_backend()}\)", text)


@pytest.fixture
def inside(tmp_path):
    """A package in a folder of a checkout."""
    folder = tmp_path / "whole" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    git(folder.parent, "init")
    return folder


def test_what_the_history_holds(inside, tmp_path, monkeypatch):
    git(inside, "add", "-A")
    git(inside, "commit", "-m", "first")
    first = provenance.commit(inside)
    (inside / "__init__.py").write_text("changed = True\n", encoding="utf-8")
    git(inside, "commit", "-am", "second")
    second = provenance.commit(inside)
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a git hook
    assert provenance.without_history(inside) == ""
    assert provenance.in_history(first, inside) and provenance.in_history(second, inside)
    trees = [provenance.tree(commit, inside) for commit in (first, second)]
    assert all(re.fullmatch(r"[0-9a-f]{40}", tree) for tree in trees) and trees[0] != trees[1]
    monkeypatch.delenv("GIT_DIR")
    git(inside, "checkout", first)
    assert provenance.in_history(first, inside) and not provenance.in_history(second, inside)
    assert not provenance.in_history("0" * 40, inside)
    assert provenance.tree("0" * 40, inside) == "unknown"
    url = f"file://{inside.parent}"
    git(tmp_path, "clone", "--depth=1", url, "shallow")
    assert provenance.without_history(tmp_path / "shallow" / "package") == "a shallow clone"
    assert provenance.without_history(tmp_path) == "no git checkout"
    assert not provenance.in_history(first, tmp_path)


def test_the_tree_is_of_the_package_alone(inside):
    git(inside, "add", "-A")
    git(inside, "commit", "-m", "first")
    before = provenance.tree("HEAD", inside)
    (inside.parent / "README.md").write_text("more\n", encoding="utf-8")
    git(inside.parent, "add", "-A")
    git(inside, "commit", "-m", "second")
    assert provenance.tree("HEAD", inside) == before
