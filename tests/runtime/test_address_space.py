"""`ulimit -v`: a limit under which JAX cannot start is one line, before it loads."""

import subprocess
import sys

import pytest

from lrd_jax.errors import UserError
from lrd_jax.runtime import address_space

resource = pytest.importorskip("resource")


@pytest.mark.parametrize(("gib", "told"), [(1.9, True), (2.49, True), (2.5, False), (64, False)])
def test_a_limit_too_low_is_refused(monkeypatch, gib, told):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (int(gib * 2**30), -1))
    if told:
        with pytest.raises(UserError, match=rf"limited to {gib:.2f} GiB \(ulimit -v\)"):
            address_space.check()
    else:
        address_space.check()


def test_without_a_limit_nothing_is_said(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, -1))
    address_space.check()


@pytest.mark.parametrize("words", ["probe memory", "data.prepare digits"])
def test_programs_end_before_jax_loads(words):
    module, argument = words.split()
    program = f"ulimit -v {2 * 10**9 // 1024}; exec {sys.executable} -m lrd_jax.{module} {argument}"
    done = subprocess.run(
        ["sh", "-c", program],  # not preexec_fn: it forks a process that has JAX's threads
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("lrd_jax: error: the address space of this process is limited")
