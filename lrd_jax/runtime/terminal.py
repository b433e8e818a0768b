"""What is printed is a courtesy: nothing that happens to it ends a run."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

_NAMES = {1: "standard output", 2: "standard error"}


def be_courteous() -> None:
    """From now on printing never fails, whatever stands behind standard output and error.

    A character that the terminal's encoding does not have is printed as a replacement. What a pipe
    whose reader has left (`| head -1`), a full disk or a lost terminal does not take is dropped,
    which the other of the two streams tells once. A stream that is closed from the start (`>&-`)
    becomes the null device: the next file that is opened would otherwise get its number, and with
    it all that libraries print.

    For programs, as early as can be; a library leaves the streams to whoever embeds it.
    """
    for descriptor in (0, 1, 2):  # the lowest free number is what `open` gives
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
    sys.stdout = _courteous(1, sys.stdout, "replace")
    sys.stderr = _courteous(2, sys.stderr, "backslashreplace")


def _courteous(descriptor: int, stream: TextIO | None, errors: str) -> TextIO:
    """Returns a text stream like the one given, if it is that of the descriptor."""
    if stream is None:
        return open(descriptor, "w", encoding="utf-8", errors=errors, closefd=False)
    try:
        if stream.fileno() != descriptor:
            return stream
    except (OSError, ValueError):  # somebody's object: a test's, a notebook's
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Dropping(descriptor)),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=getattr(stream, "line_buffering", True) or descriptor == 2,
        write_through=getattr(stream, "write_through", False),
    )


class _Dropping(io.FileIO):
    """A file descriptor that takes whatever is written, and drops what it cannot write."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._told = False

    def write(self, data: Any) -> int:
        try:
            while (count := super().write(data)) is None:  # made non-blocking by whoever shares it
                select.select([], [self.fileno()], [])
            return count
        except OSError as error:
            self._tell(error)
            return len(data)

    def _tell(self, error: OSError) -> None:
        """Says once, on the other stream, that this one takes no more."""
        if self._told:
            return
        self._told = True
        own, other = self.fileno(), 3 - self.fileno()
        line = (
            f"lrd_jax: warning: {_NAMES[own]} takes no more ({error.strerror}); what would be"
            " printed there is dropped, the rest goes on\n"
        )
        try:
            os.write(other, line.encode())
        except OSError:
            pass  # then nobody is there to be told
