"""Which file and row a work directory was made from."""

from __future__ import annotations

import os
import pathlib
import shlex
from collections.abc import Collection
from typing import Any

from lrd_jax.config import defaults
from lrd_jax.config.command_line import load_config
from lrd_jax.config.paths import split_spec
from lrd_jax.config.record import flatten, load_workdir, read_json
from lrd_jax.errors import UserError


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


def again(folder: pathlib.Path, without: Collection[str] = ()) -> str:
    """The command that trains a run again; says what it could not find out.

    Args:
      folder: the work directory.
      without: keys of places on this machine, for which DIR stands.
    """
    try:
        values = flatten(load_workdir(folder))
    except UserError as error:
        return f"not known: {error}"
    content = read_json(folder / "config.json", "bring it back")
    made = content.get("made_from") or {}
    spec = ":".join(filter(None, (made.get("file", ""), made.get("argument", ""))))
    try:
        base = flatten(load_config(spec)) if spec else {}
    except UserError:
        base = {}
    if not base:
        spec, base = "configs/base.py", flatten(defaults.get_config())
    words = ["python -m lrd_jax.main", f"--config={spec}"]
    changed = [key for key in values if base.get(key) != values[key]]
    words += [f"--config.{key}={'DIR' if key in without else values[key]}" for key in changed]
    return " ".join([words[0], *map(shlex.quote, words[1:])])
