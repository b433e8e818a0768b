"""Signals that ask a program to stop, which may come at any instant.

Ctrl-C and `kill`, and what a cluster or a lost terminal sends before it takes a machine away:
SIGUSR1 and SIGUSR2 (schedulers' warnings), SIGXCPU (the time limit) and SIGHUP. What was chosen
otherwise stays so: a signal that was ignored at the start (`nohup`, jobs in the background), and
one that another program, which runs us inside itself, has a handler of its own for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_INSISTING = (signal.SIGINT, signal.SIGTERM)
SIGNALS = (*_INSISTING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)

Handler = Callable[[int, Any], None]


def handle(handler: Handler) -> dict[signal.Signals, Any]:
    """Puts a handler in for every one of `SIGNALS` about which nobody chose anything.

    In a thread other than the main one nothing is done: Python lets only that one handle signals.

    Returns:
      What was there before, for `signal.signal`.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    unchosen = (signal.SIG_DFL, signal.default_int_handler, _end)
    return {s: signal.signal(s, handler) for s in SIGNALS if signal.getsignal(s) in unchosen}


def end_at_once() -> None:
    """From now on each of the signals ends the process, quietly, with status 128 + signal.

    For everything outside the training loop, where nothing is lost: files are written so that even
    a kill leaves whole ones. An exception instead of the end would run into whoever turns every
    exception of a library into a message of its own; the default action would be no action in a
    container, where the program is process 1.
    """
    handle(_end)


class Caught:
    """Holds the signal that arrived, 0 if none."""

    signum = 0


@contextlib.contextmanager
def deferred() -> Iterator[Caught]:
    """Notes the first signal, for the caller to save and leave.

    A second SIGINT or SIGTERM ends the process. The others may well come in numbers: the shell and
    the kernel both tell of a lost terminal, and SIGXCPU comes every second. In a thread other than
    the main one no signal is seen.

    Python handles a signal between two of its own instructions: what runs in compiled code
    (compiling, waiting for a device) must come to an end first.

    Yields:
      What arrived; look at it often.
    """
    caught, insisted = Caught(), 0

    def note(signum: int, frame: Any) -> None:
        nonlocal insisted
        if signum == signal.SIGHUP:
            _leave_lost_terminal()
        insisted += signum in _INSISTING
        if insisted == 2:
            _end(signum, frame)
        if not caught.signum:
            caught.signum = signum
            _say("stopping: saving a checkpoint first")

    before = handle(note)
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def call(argv: Sequence[str], cwd: str | os.PathLike[str] | None = None) -> int:
    """Runs another program to its end, through signals: it saves before it leaves.

    Ctrl-C reaches it without our help; the others, which may be sent to this process alone, are
    passed on.

    Args:
      argv: program and arguments.
      cwd: its working directory.

    Returns:
      Its exit status, 128 + signal where one killed it.
    """
    process = subprocess.Popen(argv, cwd=cwd)

    def pass_on(signum: int, _: Any) -> None:
        if signum != signal.SIGINT:
            process.send_signal(signum)

    before = handle(pass_on)
    try:
        status = process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return status if status >= 0 else 128 - status


def _leave_lost_terminal() -> None:
    """Lets what is still printed go nowhere if the terminal is gone: writing to it would fail."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISCHR(kind) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _end(signum: int, _: Any) -> None:
    _say(f"stopped by {signal.Signals(signum).name}; the same command goes on from what is saved")
    os._exit(128 + signum)


def _say(text: str) -> None:
    # Not print: the signal may have come in the middle of another print to the same stream.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
