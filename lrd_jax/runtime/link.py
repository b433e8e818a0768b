"""The line between the processes of a run: keys and values, and an end that all share.

What `processes` builds on; nothing else uses it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax

FAREWELL_S = 5  # how long to wait for a dying process's last words, or until all have heard ours


class Membership(NamedTuple):
    """This process among those that JAX's coordination service brought together."""

    index: int
    count: int
    client: Any


def membership() -> Membership:
    """Asks JAX; the only place that reaches into its private modules.

    The key-value store has no public name yet.
    """
    from jax._src import distributed

    state = distributed.global_state
    return Membership(state.process_id, state.num_processes, state.client)


class _Closed(Exception):
    """The line to the others was closed while a thread waited."""


class Link:
    """This process's line to the others."""

    def __init__(self, abort: AbortAnswer) -> None:
        self.index, self.count, self._client = membership()
        self._calls = 0  # numbers the keys of `share`; all processes make the same calls
        self._ending = threading.Lock()  # never released: whoever holds it ends the process
        self._abort = abort
        self._closing = threading.Event()
        self._listeners: list[threading.Thread] = []
        self.listen(self._hear_of_failure)

    # ---- Keys and values ----------------------------------------------------------------------

    def put(self, key: str, value: Any) -> None:
        """Sets a key; the first value that any process gives stays."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # it was set before
            self._client.key_value_set(f"lrd_jax/{key}", json.dumps(value))

    def get(self, key: str, seconds: float = float("inf")) -> Any:
        """Waits for a key; raises JaxRuntimeError if it does not come in time, or _Closed."""
        deadline = time.monotonic() + seconds
        while not self._closing.is_set():
            try:
                # In short pieces: a signal handler runs only between two of them.
                return json.loads(self._client.blocking_key_value_get(f"lrd_jax/{key}", 500))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > deadline:
                    raise
        raise _Closed

    def listen(self, wait: Callable[[], None]) -> None:
        """Runs a function that waits for keys in a thread of its own, until the line is closed."""

        def run() -> None:
            # The error: the service ended, and with it the run.
            with contextlib.suppress(jax.errors.JaxRuntimeError, _Closed):
                wait()

        thread = threading.Thread(target=run, daemon=True)
        self._listeners.append(thread)
        thread.start()

    def close(self) -> None:
        """Ends the threads: one that still waited in JAX's client at the end would crash there."""
        self._closing.set()
        for thread in self._listeners:
            thread.join()

    def share(self, value: Any, sources: range) -> list[Any]:
        """Gives this process's value, if it is a source, and returns those of all sources."""
        self._calls += 1
        if self.index in sources:
            self.put(f"shared/{self._calls}/{self.index}", value)
        return [self.get(f"shared/{self._calls}/{source}") for source in sources]

    # ---- Ends ---------------------------------------------------------------------------------

    def fail(self, status: int, message: str) -> NoReturn:
        """Ends all processes of the run, this one included, with a line and a status."""
        self._ending.acquire()
        self._say_why(status, message)
        self.put("failure", [self.index, status, message])
        self._leave(status)

    def _hear_of_failure(self) -> None:
        source, status, message = self.get("failure")
        if source != self.index:
            self._ending.acquire()
            self._say_why(status, f"process {source}: {message}" if source else message)
            self._leave(status)

    def _say_why(self, status: int, message: str) -> None:
        message = " ".join(message.split())
        print("lrd_jax: error:", message, file=sys.stderr, flush=True)
        # If JAX aborts meanwhile, its page of a message shall not be the last.
        self._abort.status, self._abort.message = status, message

    def _leave(self, status: int) -> NoReturn:
        """Ends this process without waiting for the others, the one that keeps the store last."""
        # All is said: what JAX logs when another process is faster to leave would bury it.
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())
        self.put(f"heard/{self.index}", True)
        if self.index == 0:  # the store ends with this process
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                deadline = time.monotonic() + FAREWELL_S
                for other in range(1, self.count):
                    self.get(f"heard/{other}", deadline - time.monotonic())
        # Not sys.exit: what Python and JAX do at the end would wait for the other processes.
        os._exit(status)


class AbortAnswer:
    """Makes a line and status 1 of the abort by which JAX's client ends a process.

    It does so when the others do not come, and when one of them is lost: it logs what it knows and
    calls abort(), in whatever thread. Its callback for a loss cannot be a Python function in any
    version (`std::bad_cast`), and a handler of Python's `signal` would only run after the end, so
    the handler is C's.
    """

    def __init__(self, message: str) -> None:
        """Answers from now on.

        Args:
          message: what to say; may be changed.
        """
        self.message = message
        self.status = 1
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
        self._handler = kind(self._end)  # kept: C holds no reference
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, kind), ctypes.c_void_p
        libc.signal(signal.SIGABRT, self._handler)

    def _end(self, _: int) -> None:
        os.write(2, f"lrd_jax: error: {self.message}\n".encode())
        os._exit(self.status)
