"""How many cores this process may keep busy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lrd_jax.runtime import control_groups


def available_cores(root: str | os.PathLike[str] = "/") -> int:
    """Returns the whole cores that this process may keep busy, at least 1.

    Those that it is bound to, and no more than the control groups grant it: a container with a
    quota of 2.5 cores sees all of its machine's, and is put to sleep when it uses more than its
    share; a device that sleeps holds all others up.

    Args:
      root: where `proc` and `sys` lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, *(int(quota) for quota in _quotas(Path(root)))))


def _quotas(root: Path) -> Iterator[float]:
    """Yields the quotas, in cores, of this process's control groups and of those around them."""
    yield float(2**31)  # where none is set
    for folder, first_version in control_groups.folders(root, "cpu"):
        yield from _quota(folder, first_version)


def _quota(folder: Path, first_version: bool) -> Iterator[float]:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if first_version else ("cpu.max",)
    try:
        words = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
        quota, period = map(int, words)
    except (OSError, ValueError):  # none; "max"; what the kernel of a sandbox makes of it
        return
    if quota > 0 and period > 0:  # -1 = none
        yield quota / period
