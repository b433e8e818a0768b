"""Writing a prepared data set, and what is said of one that cannot be read."""

import contextlib
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from lrd_jax.errors import UserError

# What a disk says that takes no more; ArrayRecord tells it as a RuntimeError, in words alone.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class DamagedError(UserError):
    """A data set was prepared, and cannot be read."""


def damaged(folder: str | Path, error: object) -> DamagedError:
    """Returns the error for a prepared data set that cannot be read."""
    reason = " ".join(str(error).split())[:200]
    return DamagedError(f"the prepared data set in {folder} is damaged ({reason}): delete it")


def generate(builder: Any, downloads: Path, source_dir: Path) -> None:
    """Lets TFDS write a data set, without its bars in log files and its lines on stdout.

    Raises:
        OSError: the disk is full, or fails.
    """
    tfds.display_progress_bar(bool(builder.SOURCES) and sys.stderr.isatty())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(manual_dir=source_dir),
            )
    except RuntimeError as error:
        for code in _REFUSALS:
            if f"failed: {os.strerror(code)}" in str(error):
                raise OSError(code, os.strerror(code)) from error
        raise
