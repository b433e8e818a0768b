"""How much memory this process can have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lrd_jax.runtime import control_groups

_UNLIMITED = 2**60  # bytes; the first version of control groups writes a number beyond for no limit


def available_memory(root: str | os.PathLike[str] = "/") -> int:
    """Returns the bytes that a process may come to have, 0 where that is not known.

    What the machine has free, with what it would give up of its caches and can swap, and no more
    than the control groups of a container or a job grant.

    Args:
      root: where `proc` and `sys` lie.
    """
    found = [*_of_machine(Path(root)), *_limits(Path(root))]
    return min(found, default=0)


def _of_machine(root: Path) -> Iterator[int]:
    """Yields the bytes that the machine has free, where that is known."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="utf-8")
    except OSError:  # another system
        if "SC_PHYS_PAGES" in os.sysconf_names and str(root) == "/":
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return
    known = {name: int(size) * 1024 for name, size in re.findall(r"(\w+): +(\d+) kB", text)}
    if "MemAvailable" in known:
        yield known["MemAvailable"] + known.get("SwapFree", 0)


def _limits(root: Path) -> Iterator[int]:
    """Yields the limits of this process's control groups and of those around them."""
    for folder, first_version in control_groups.folders(root, "memory"):
        file = folder / ("memory.limit_in_bytes" if first_version else "memory.max")
        try:
            limit = int(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none; "max"
            continue
        if 0 < limit < _UNLIMITED:
            yield limit
