"""Which file and row a work directory was made from; a file of the user's own, imported again."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import logging
import os
import pathlib
import shlex
import sysconfig
from collections.abc import Collection, Iterator
from typing import Any

import lrd_jax
from lrd_jax.config import defaults
from lrd_jax.config.command_line import load_config, load_module
from lrd_jax.config.paths import split_spec
from lrd_jax.config.record import flatten, load_workdir, read_json
from lrd_jax.errors import UserError, one_line

logger = logging.getLogger(__name__)

_PACKAGE = pathlib.Path(lrd_jax.__file__).resolve().parent
_STOCK = _PACKAGE.parent / "configs"  # the config files of a checkout
_imported: set[tuple[str, str]] = set()  # paths and digests of files of the user's own


def made_from(spec: str) -> dict[str, Any]:
    """Returns what `config.json` says of it; empty where no file was named.

    Args:
      spec: the value of `--config`, "FILE.py" or "FILE.py:ARGUMENT".
    """
    if not spec:
        return {}
    name, _, argument = split_spec(spec)
    # With its folder, but not where that is: the checkout may be moved, or another one be used.
    file = "/".join(pathlib.Path(name).resolve().parts[-2:])
    return {"made_from": {"file": file, "argument": argument}}


def check_made_from(workdir: str | os.PathLike[str], spec: str) -> None:
    """Refuses a file or row that a work directory was not made from.

    Values may differ: runs are trained with changes on the command line, and `quick` is one. A
    directory of before this was recorded takes any.

    Args:
      workdir: holds a whole `config.json`.
      spec: as in `made_from`.

    Raises:
      UserError: it is another file, or another row.
    """
    content = read_json(pathlib.Path(workdir, "config.json"), "bring it back")
    known = content.get("made_from")
    if not spec or known is None:
        return
    parts = dict(known) if isinstance(known, dict) else {}
    file, argument = (parts.get(name) for name in ("file", "argument"))
    if not isinstance(file, str) or not isinstance(argument, str):
        raise UserError(
            f"config.json in {os.fspath(workdir)} is damaged (made_from: {known!r}): leave out"
            " --config"
        )
    now = made_from(spec)["made_from"]
    if file == now["file"] and _same_row(spec, argument, now["argument"]):
        return
    old = ":".join(filter(None, (file, argument)))
    raise UserError(
        f"the run in {os.fspath(workdir)} was made from {old}, not from {spec}: leave out --config,"
        " or give the --workdir of a run of that"
    )


def _same_row(spec: str, *arguments: str) -> bool:
    """Whether two arguments of a config file name one row, which may have several names."""
    rows = [
        ",".join(word for word in argument.split(",") if word != "quick") for argument in arguments
    ]
    if rows[0] == rows[1]:
        return True
    file = split_spec(spec)[0]
    try:
        one, other = (flatten(load_config(f"{file}:{row}" if row else file)) for row in rows)
    except UserError:  # the file has no such row
        return False
    return one == other


# ---- Files of the user's own ---------------------------------------------------------------------


def own_file(spec: str) -> dict[str, Any]:
    """Returns what `config.json` says of a config file that is not one of the project's.

    Such a file may register cells, data sets and objectives, which later commands need too. It is
    recorded with its place and a SHA-256 of its text and of the modules that it imports, other than
    installed ones.

    Args:
      spec: the value of `--config`, of a file that was loaded in this process; "" gives {}.
    """
    path = pathlib.Path(split_spec(spec)[0]).resolve()
    if not spec or path.parent == _STOCK:
        return {}
    digest = _digest(path)
    _imported.add((str(path), digest))
    return {"own_file": {"path": str(path), "sha256": digest}}


def import_own(workdir: str | os.PathLike[str]) -> str:
    """Imports the user's own file that a run was made from, so that what it registers is known.

    It is looked for where it was and, if it is unchanged, in the current folder. It is imported
    once in a process; a changed one with a warning.

    Args:
      workdir: holds a whole `config.json`.

    Returns:
      "" where it was imported or the run has none; else the place where it is no longer.

    Raises:
      UserError: the record is damaged, or the file fails.
    """
    known = read_json(pathlib.Path(workdir, "config.json"), "bring it back").get("own_file")
    if known is None:
        return ""
    parts = dict(known) if isinstance(known, dict) else {}
    place, digest = parts.get("path"), parts.get("sha256")
    if not isinstance(place, str) or not isinstance(digest, str):
        raise UserError(f"config.json in {os.fspath(workdir)} is damaged (own_file: {known!r})")
    path = _found(place, digest)
    if path is None:
        return place
    now = _digest(path)
    if (str(path), now) in _imported:
        return ""
    if now != digest:
        logger.warning("%s has changed since %s was made from it", path, os.fspath(workdir))
    print(f"note: imports {path}, which {os.fspath(workdir)} was made from")
    try:
        load_module(path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # anything may happen in somebody's Python file
        reason = f"{type(error).__name__}: {one_line(str(error))}"
        raise UserError(f"{path}, which {workdir} was made from, failed: {reason}") from error
    _imported.add((str(path), now))
    return ""


def _found(place: str, digest: str) -> pathlib.Path | None:
    """The file of the user's own, None where it is neither in its place nor in this folder."""
    path = pathlib.Path(place)
    if path.is_file():
        return path
    here = pathlib.Path(path.name).resolve()
    return here if here.is_file() and _digest(here) == digest else None


def _digest(path: pathlib.Path) -> str:
    """SHA-256 of a Python file and of the modules it imports that are not installed, in order."""
    whole = hashlib.sha256()
    for file in sorted(_with_imports(path, set()), key=lambda file: (file.name, str(file))):
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _with_imports(path: pathlib.Path, seen: set[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yields a file and, in turn, the files of the modules that it imports and nobody installed."""
    seen.add(path)
    yield path
    installed = [pathlib.Path(folder).resolve() for folder in sysconfig.get_paths().values()]
    with contextlib.suppress(SyntaxError, ValueError):
        for name in _imports(ast.parse(path.read_bytes())):
            with contextlib.suppress(ImportError, ValueError, AttributeError):
                spec = importlib.util.find_spec(name)
                file = pathlib.Path(spec.origin or "").resolve() if spec else path
                inside = any(file.is_relative_to(folder) for folder in (*installed, _PACKAGE))
                if file.suffix == ".py" and not inside and file not in seen:
                    yield from _with_imports(file, seen)


def _imports(tree: ast.AST) -> list[str]:
    """The names of the modules that are imported by their whole name, a package's first part."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.append(node.module.partition(".")[0])
    return names


def again(folder: pathlib.Path, without: Collection[str] = ()) -> str:
    """The command that trains a run again; says what it could not find out.

    Args:
      folder: the work directory.
      without: keys of places on this machine, for which DIR stands; then a file of the user's own
        is named without its place as well.
    """
    try:
        values = flatten(load_workdir(folder))
    except UserError as error:
        return f"not known: {error}"
    content = read_json(folder / "config.json", "bring it back")
    made, own = content.get("made_from") or {}, content.get("own_file") or {}
    file, argument = made.get("file", ""), made.get("argument", "")
    place, note = str(own.get("path", file)), ""
    spec = ":".join(filter(None, (file if without else place, argument)))
    try:
        base = flatten(load_config(":".join(filter(None, (place, argument))))) if file else {}
    except UserError:
        base = {}
    if not base and file and not (_STOCK.parent / file).is_file():
        note = f"  # {file} cannot be read here: every value is given"
    elif not base:  # made in Python, or from a row that is no more
        spec, base = "configs/base.py", flatten(defaults.get_config())
    words = ["python -m lrd_jax.main", f"--config={spec}"]
    changed = [key for key in values if base.get(key) != values[key]]
    words += [f"--config.{key}={'DIR' if key in without else values[key]}" for key in changed]
    return " ".join([words[0], *map(shlex.quote, words[1:])]) + note
