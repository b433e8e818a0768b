"""SIGINT and SIGTERM, for a program that may be stopped at any instant."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_once() -> None:
    """From now on either signal ends the process, quietly, with status 128 + signal.

    For everything outside the training loop, where nothing is lost: files are written so that even
    a kill leaves whole ones. An exception instead of the end would run into whoever turns every
    exception of a library into a message of its own; the default action would be no action in a
    container, where the program is process 1.
    """
    for signum in _SIGNALS:
        signal.signal(signum, _end)


class Caught:
    """Holds the signal that arrived, 0 if none."""

    signum = 0


@contextlib.contextmanager
def deferred() -> Iterator[Caught]:
    """Notes the first signal, for the caller to save and leave; a second one ends the process.

    Python handles a signal between two of its own instructions: what runs in compiled code
    (compiling, waiting for a device) must come to an end first.

    Yields:
      What arrived; look at it often.
    """
    caught = Caught()

    def note(signum: int, frame: Any) -> None:
        if caught.signum:
            _end(signum, frame)
        caught.signum = signum
        _say("stopping: saving a checkpoint first")

    before = {signum: signal.signal(signum, note) for signum in _SIGNALS}
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def call(argv: Sequence[str], cwd: str | os.PathLike[str] | None = None) -> int:
    """Runs another program to its end, through signals: it saves before it leaves.

    Ctrl-C reaches it without our help; SIGTERM, which may be sent to this process alone, is passed
    on.

    Args:
      argv: program and arguments.
      cwd: its working directory.

    Returns:
      Its exit status, 128 + signal where one killed it.
    """
    process = subprocess.Popen(argv, cwd=cwd)
    handlers = {
        signal.SIGINT: lambda *_: None,
        signal.SIGTERM: lambda *_: process.terminate(),
    }
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        status = process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return status if status >= 0 else 128 - status


def _end(signum: int, _: Any) -> None:
    _say(f"stopped by {signal.Signals(signum).name}; the same command goes on from what is saved")
    os._exit(128 + signum)


def _say(text: str) -> None:
    # Not print: the signal may have come in the middle of another print to the same stream.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
