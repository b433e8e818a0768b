"""Huge memory pages for the arrays of a CPU run."""

import os
import platform
import sys

from lrd_jax.runtime.accelerators import uses_gpu

_SWITCH = "/sys/kernel/mm/transparent_hugepage/enabled"
_TUNABLE = "glibc.malloc.hugetlb=1"


def restart_with_huge_pages() -> None:
    """Restarts this Python with a malloc that asks the kernel for huge pages; returns if it cannot.

    A training step of a recurrent network on a CPU allocates its stacked states afresh, hundreds of
    megabytes, and touching them in pages of 4 KiB is a good part of its time. glibc reads the
    switch only when a process starts. Where a GPU holds the arrays, where huge pages are always on,
    or off, or glibc is older than 2.35, nothing is done; a GLIBC_TUNABLES that already speaks of
    huge pages is left alone, so this restarts at most once.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables or uses_gpu():
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
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, _TUNABLE]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
