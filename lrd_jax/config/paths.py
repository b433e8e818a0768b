"""Paths as they are given: folders and files of this machine."""

import os
import pathlib
import re
import sys

from lrd_jax.errors import UserError

_NAME_MAX, _PATH_MAX = 255, 4095  # bytes; what Linux and its usual file systems allow


class NoHomeError(UserError):
    """A path begins with `~`, and nothing says where that is; see `expand_user`."""


def expand_user(path: str | os.PathLike[str], key: str = "") -> pathlib.Path:
    """Returns a path with `~` and `~name` resolved.

    Args:
      path: of this machine.
      key: what the path is the value of, for the message.

    Raises:
      NoHomeError: `~` means nothing here: HOME is not set, and the user no entry among the
        system's, as in a container that was started under a number.
      UserError: it is no path, or an empty one; there is no such user; it is a URL, or no file
        system could hold it.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise UserError(f"{path!r} is of type {type(path).__name__}, and must be a path")
    if not text.strip():
        raise UserError(
            f"{text!r} is no path: name a folder or a file" + (f" with {key}" if key else "")
        )
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):  # pathlib makes one slash of two
        raise UserError(
            f"{text!r} is a URL, and only folders of this machine are read and written: mount it,"
            " or copy it"
        )
    try:
        os.path.abspath(text).encode("utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{text!r}: the current folder is gone; change into another, or give a whole path"
        ) from error
    except UnicodeEncodeError as error:
        shown = os.path.abspath(text).encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"'{shown}' has letters that this locale cannot tell"
            f" ({sys.getfilesystemencoding()}): set PYTHONUTF8=1 or LC_ALL=C.UTF-8, or give a path"
            " of ASCII letters"
        ) from error
    if "\0" in text:
        raise UserError(f"{text!r} is no path: it holds a zero byte")
    try:
        expanded = pathlib.Path(text).expanduser()
    except RuntimeError as error:
        if re.match("~(/|$)", text):
            raise NoHomeError(
                f"{text!r}: this user has no home folder here (HOME is not set); give a whole path"
                + (f" with {key}" if key else "")
            ) from error
        raise UserError(f"{text!r}: there is no such user on this machine") from error
    for part, limit in (*((part, _NAME_MAX) for part in expanded.parts), (expanded, _PATH_MAX)):
        if (size := len(os.fsencode(part))) > limit:
            raise UserError(
                f"'{os.fspath(part)[:40]}...' is too long for a name: {size} bytes, and {limit} are"
                " the most; choose a shorter one"
            )
    return expanded


def split_spec(spec: str) -> tuple[str, str, str]:
    """Returns the file, the colon and the argument of a value of `--config`.

    The colon after the file's `.py` parts them: a folder may have one in its name.

    >>> split_spec("10:30/mine.py:H6,quick")
    ('10:30/mine.py', ':', 'H6,quick')
    """
    match = re.fullmatch(r"(.*?\.py)(?:(:)(.*))?", spec, re.DOTALL)
    file, colon, argument = match.groups("") if match else spec.partition(":")
    return file, colon, argument
