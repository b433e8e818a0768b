"""The control groups of Linux that this process is in: where a container or job has its limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yields where a controller of this process's groups, and of those around them, may be.

    Args:
      root: where `proc` and `sys` lie.
      controller: `cpu` or `memory`.

    Returns:
      Folders, which need not exist, and whether each is of the first version of control groups.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:  # number:controllers:/path; without controllers in version 2
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        group = PurePosixPath("/") / name
        # In a container the path may be the host's, of which the mount shows the end alone: the
        # group itself is at the top.
        mounts = dict.fromkeys((controllers, controller)) if controllers else ("", "unified")
        for folder in (group, *group.parents):
            for mount in mounts:
                place = root / "sys/fs/cgroup" / mount / folder.relative_to("/")
                yield place, bool(controllers)
