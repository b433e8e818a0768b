"""Huge memory pages for the arrays of a CPU run."""

import contextlib
import os
import platform
import re
import sys
from collections.abc import Sequence

from lrd_jax.runtime.accelerators import uses_gpu

_SWITCH = "/sys/kernel/mm/transparent_hugepage/enabled"
_TUNABLE = "glibc.malloc.hugetlb=1"
_SWITCHES = "[bBdEhiIOPqRsSuvVx]*"  # options of Python without a value, which may be joined


def restart_with_huge_pages() -> None:
    """Restarts this Python with a malloc that asks the kernel for huge pages; returns if it cannot.

    A training step of a recurrent network on a CPU allocates its stacked states afresh, hundreds of
    megabytes, and touching them in pages of 4 KiB is a good part of its time. glibc reads the
    switch only when a process starts. Where a GPU holds the arrays, where huge pages are always on,
    or off, or glibc is older than 2.35, nothing is done; a GLIBC_TUNABLES that already speaks of
    huge pages is left alone, so this restarts at most once. A process that does more than run
    `python -m lrd_jax.main` is never replaced: IPython, a debugger, a script on standard input
    would be lost.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables or uses_gpu():
        return
    if sys.gettrace() or not sys.executable or started_module(sys.orig_argv) != "lrd_jax.main":
        return
    try:
        with open(_SWITCH, encoding="utf-8") as file:
            asked_for = "[madvise]" in file.read()
    except OSError:
        return
    library, version = platform.libc_ver()
    known = version.split(".")[:2]
    if not asked_for or library != "glibc" or not all(part.isdigit() for part in known):
        return
    if tuple(map(int, known)) < (2, 35):
        return
    environment = os.environ | {"GLIBC_TUNABLES": ":".join(filter(None, [tunables, _TUNABLE]))}
    with contextlib.suppress(OSError):  # a Python that cannot be started again runs as it is
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def started_module(argv: Sequence[str]) -> str:
    """Returns the module of `python [options] -m MODULE ...`, "" where Python runs anything else.

    >>> started_module(["python", "-X", "dev", "-um", "lrd_jax.main", "--mode=eval"])
    'lrd_jax.main'
    >>> started_module(["python", "-m", "pdb", "-m", "lrd_jax.main"])
    'pdb'

    Args:
      argv: what the interpreter was started with, `sys.orig_argv`.
    """
    words = iter(argv[1:])
    for word in words:
        if match := re.fullmatch(rf"-{_SWITCHES}m(.*)", word, re.DOTALL):
            return match[1] or next(words, "")
        if re.fullmatch(rf"-{_SWITCHES}[WX]|--check-hash-based-pycs", word):
            next(words, "")  # its value
        elif word == "-" or not word.startswith("-") or re.match(rf"-{_SWITCHES}c", word):
            return ""  # a script
    return ""
