"""Locks on files, so that two programs never write to one place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lrd_jax.errors import UserError

logger = logging.getLogger(__name__)

_IN_USE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Takes the kernel's lock (`flock`) on an open file; it ends with the process, even if killed.

    Some file systems of networks and containers have no locks. There it goes on without one, with a
    warning: nobody could tell whether another program is at work.

    Args:
      file: keeps the lock until it is closed.
      wait: whether to wait for who holds it.

    Returns:
      False if another program holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _IN_USE:
            return False
        _tell_lockless(os.path.dirname(file.name), error.strerror or str(error))
    return True


@functools.cache  # once for each place
def _tell_lockless(folder: str, reason: str) -> None:
    logger.warning(
        "%s cannot be locked (%s): see to it yourself that no two runs use it", folder, reason
    )


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if need be; the lock of a killed process is free.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): choose another data_dir"
        ) from error
    with file:
        lock(file, wait=True)
        yield
