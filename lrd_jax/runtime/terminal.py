"""What a program shows, and how it ends: in one line and an exit status.

What is printed is a courtesy: nothing that happens to it ends a run.
"""

from __future__ import annotations

import io
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from lrd_jax.errors import Interrupted, RunError, UserError, one_line, out_of_memory

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


def status_of(
    action: Callable[[], object],
    *,
    interrupted: str = "interrupted: nothing was written",
    lower: Callable[[], str] = lambda: "",
) -> int:
    """Does what a program is for; every failure that a user can cause becomes one line.

    Args:
      action: what it does.
      interrupted: what is said where Ctrl-C ends it.
      lower: says what takes less memory, "" where nothing does.

    Returns:
      The exit status: 0 done; 1 it could not be done; 2 bad input; 128 + signal when interrupted.
    """
    try:
        action()
    except UserError as error:
        return _ended(str(error), 2)
    except RunError as error:
        return _ended(str(error), 1)
    except Interrupted as error:
        return 128 + error.signum
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except Exception as error:
        if not out_of_memory(error):
            raise
        less = lower()
        reason = one_line(str(error))[:200]
        said = f"out of memory{reason and f' ({reason})'}{less and f'; lower {less}'}"
        return _ended(said, 1)
    return 0


def _ended(message: str, status: int) -> int:
    print("lrd_jax: error:", one_line(message), file=sys.stderr)
    return status


def quiet(silent: Sequence[str] = ("absl", "fontTools")) -> None:
    """Silences the libraries, whose warnings say nothing to a user; this package's stay.

    Args:
      silent: loggers that say nothing at all; what goes wrong there comes as an exception too.
    """
    if not sys.warnoptions:  # python -W shows them
        warnings.simplefilter("ignore")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("lrd_jax: warning: %(message)s"))
    own = logging.getLogger("lrd_jax")
    own.handlers, own.propagate = [handler], False
    # It would warn of every NaN that a frozen seed has from then on; the loop tells of it once.
    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
    for name in silent:
        logging.getLogger(name).setLevel(logging.CRITICAL)


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
