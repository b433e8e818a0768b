"""The limit on a process's address space, `ulimit -v`, which JAX needs more of than it uses."""

from __future__ import annotations

import sys

try:
    import resource
except ImportError:  # no such limits on this system
    resource = None

from lrd_jax.errors import UserError

# With 2 cores 2.5 GiB are just enough to start: libraries, stacks of threads, arenas of malloc.
# Below, loading them hangs, or ends somewhere inside.
_LEAST = 5 * 2**29


def check() -> None:
    """Refuses a limit under which JAX cannot start; call it before JAX loads.

    Raises:
      UserError: the limit is lower than that.
    """
    if resource is None:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _LEAST:
        raise UserError(
            f"the address space of this process is limited to {limit / 2**30:.2f} GiB (ulimit -v),"
            f" and JAX needs {_LEAST / 2**30:.2f} to start: raise it with `ulimit -v unlimited`,"
            " and limit the resident memory instead, by a control group for instance"
        )


def check_or_exit() -> None:
    """Does the same for a program whose imports load JAX: ends it in a line, with status 2."""
    try:
        check()
    except UserError as error:
        print(f"lrd_jax: error: {error}", file=sys.stderr)
        sys.exit(2)
