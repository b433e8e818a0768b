"""What made a result: versions, commit and device, written beside every number."""

import os
import pathlib
import platform
import subprocess
import time
from importlib import metadata

import lrd_jax

_PACKAGES = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "numpy": "numpy",
}
_GIT_SECONDS = 1.0  # budget of all git calls together: a slow file system must not delay a run


def versions() -> dict[str, str]:
    """Returns the versions of Python, lrd_jax and every library that shapes the numbers.

    A library without package metadata (a bare checkout, for instance) reads "unknown".
    """
    found = {"python": platform.python_version(), "lrd_jax": lrd_jax.__version__}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def commit(package: pathlib.Path | None = None) -> str:
    """Returns the git commit of the checkout this package runs from; never raises.

    Args:
      package: folder of the package; the installed `lrd_jax` unless given.

    Returns:
      The full hash, with "-dirty" after it where tracked files have changed, or "unknown":
      no git, no checkout, an untracked package (a virtual environment inside somebody else's
      repository), or no answer within a second.
    """
    folder = pathlib.Path(__file__).parents[1] if package is None else package
    deadline = time.monotonic() + _GIT_SECONDS
    # Inside a git hook GIT_DIR and friends point at whatever repository the hook runs for.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            encoding="utf-8",
            timeout=max(0.0, deadline - time.monotonic()),
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown"
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return "unknown"


def device_description() -> str:
    """Returns the devices JAX runs on in words, e.g. "1 x NVIDIA H200 (gpu)".

    Creates JAX's client if there is none yet, so the device settings must have been made.
    """
    import jax  # here, so that the versions of a broken installation can still be told

    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return f"{len(devices)} x {' / '.join(kinds)} ({devices[0].platform})"
