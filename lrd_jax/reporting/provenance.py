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
    deadline = time.monotonic() + _GIT_SECONDS
    try:
        _git(package, deadline, "ls-files", "--error-unmatch", "__init__.py")
        how = ("--always", "--dirty", "--abbrev=40", "--exclude=*")
        return _git(package, deadline, "describe", *how) or "unknown"
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return "unknown"


def tree(revision: str, package: pathlib.Path | None = None) -> str:
    """Returns git's hash of the package's files at a commit, "unknown" where git cannot tell.

    Equal hashes are equal files, down to the byte, also in another history.

    Args:
      revision: a commit.
      package: see `commit`.
    """
    deadline = time.monotonic() + _GIT_SECONDS
    try:
        return _git(package, deadline, "rev-parse", "--verify", f"{revision}:./")
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return "unknown"


def without_history(package: pathlib.Path | None = None) -> str:
    """Returns why this copy cannot tell which commits are in its history, "" where it can."""
    deadline = time.monotonic() + _GIT_SECONDS
    try:
        if _git(package, deadline, "rev-parse", "--is-shallow-repository") != "false":
            return "a shallow clone"
        _git(package, deadline, "ls-files", "--error-unmatch", "__init__.py")
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return "no git checkout"
    return ""


def in_history(revision: str, package: pathlib.Path | None = None) -> bool:
    """Tells whether a commit is the one that is checked out, or came before it."""
    deadline = time.monotonic() + _GIT_SECONDS
    try:
        _git(package, deadline, "merge-base", "--is-ancestor", revision, "HEAD")
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return False
    return True


def _git(package: pathlib.Path | None, deadline: float, *arguments: str) -> str:
    """Runs git in the package's folder; raises where it fails or is not done by the deadline."""
    # Inside a git hook GIT_DIR and friends point at whatever repository the hook runs for.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(
        ["git", "--no-optional-locks", *arguments],
        cwd=pathlib.Path(__file__).parents[1] if package is None else package,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        encoding="utf-8",
        timeout=max(0.0, deadline - time.monotonic()),
    ).stdout.strip()


def device_description() -> str:
    """Returns the devices JAX runs on in words, e.g. "1 x NVIDIA H200 (gpu)".

    Creates JAX's client if there is none yet, so the device settings must have been made.
    """
    import jax  # here, so that the versions of a broken installation can still be told

    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return f"{len(devices)} x {' / '.join(kinds)} ({devices[0].platform})"
