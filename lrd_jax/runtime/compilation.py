"""Compiled programs that are kept for the next start: JAX's persistent compilation cache."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import jax

from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError

_log = logging.getLogger(__name__)


def keep_in(folder: str) -> Path | None:
    """Has JAX keep every program that it compiles in a folder, and look there first.

    A program is found by all that it was compiled from: its code, flags, versions of JAX and XLA,
    kind of device. So runs of any config may share a folder; nothing is ever removed from it. A
    damaged entry is compiled anew.

    Args:
      folder: made if need be; `~` is expanded. Where it cannot be written, a warning says so, and
        nothing is kept.

    Returns:
      The folder; None where nothing is kept.
    """
    try:
        path = expand_user(folder, "--config.devices.compilation_cache=DIR").absolute()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile("w+b", dir=path):
            pass
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        _log.warning("devices.compilation_cache=%s cannot be used (%s)", folder, reason)
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Also the dozens of small programs, which together take as long as a large one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path
