"""The words of `python -m lrd_jax.probe`: which networks, how changed, and where to write."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from lrd_jax.config import record
from lrd_jax.config.command_line import ArgumentParser, ConfigFlag, parse_flags
from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError

_NAMING = re.compile(r"--?(config|workdir)(?:=(.*))?", re.DOTALL)
_CHANGING = re.compile(r"--?(?:no)?config\..*", re.DOTALL)
_LABELLING = re.compile(r"--?label=(.*)", re.DOTALL)


class Named(NamedTuple):
    """A network that the command line names.

    Attributes:
      workdir: of a run; "" where a config is named.
      flag: the config with the overrides in place.
      label: for legends; "" = made of the config.
    """

    workdir: str
    flag: ConfigFlag
    label: str


def split_networks(argv: Sequence[str]) -> tuple[list[Named], list[str]]:
    """Takes the networks out of a command line.

    Each `--config=FILE` or `--workdir=DIR` names one; the `--config.KEY=VALUE` and `--label=TEXT`
    that follow, up to the next, belong to it.

    Args:
      argv: without the program's name.

    Returns:
      The networks in order, and what else there was.

    Raises:
      UserError: no such config or run, an unknown key, a wrong value, or a change of none.
    """
    groups: list[tuple[str, str, list[str], list[str]]] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if match := _NAMING.fullmatch(word):
            value = next(words, "") if match[2] is None else match[2]
            groups.append((match[1], value, [], []))
        elif _CHANGING.fullmatch(word) or _LABELLING.fullmatch(word):
            if not groups:
                raise UserError(f"{word} stands before the --config or --workdir that it is about")
            _, _, changes, labels = groups[-1]
            if label := _LABELLING.fullmatch(word):
                labels.append(label[1])
            else:
                changes.append(word)
        else:
            rest.append(word)
    return [_named(*group) for group in groups], rest


def _named(kind: str, value: str, changes: list[str], labels: list[str]) -> Named:
    label = labels[-1] if labels else ""
    own = flags.FlagValues()
    if kind == "config":
        return Named("", parse_flags(["probe", f"--config={value}", *changes], own), label)
    folder = expand_user(value)
    flag = parse_flags(["probe", *changes], own, find_config=lambda: record.load_workdir(folder))
    return Named(value, flag, label)


def parser(prog: str, description: str, epilog: str = "") -> ArgumentParser:
    """A parser of this program's kind."""
    return ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_output(to: argparse.ArgumentParser, default: str) -> None:
    """Adds where and how wide the picture is."""
    to.add_argument(
        "--out",
        default="",
        metavar="STEM",
        help="writes STEM.png, STEM.pdf and STEM.json, or into a folder; default: "
        f"probe/{default} in the work directory, where one is named, else here",
    )
    to.add_argument(
        "--width",
        choices=("page", "column"),
        default="page",
        help="of the figure: as a page, or as a column of a paper of two",
    )


def stem(out: str, default: str, networks: Sequence[Named]) -> Path:
    """The path to write to, without a suffix."""
    if out:
        path = expand_user(out)
        if path.is_dir():
            return path / default
        return path.with_suffix("") if path.suffix in (".png", ".pdf", ".svg", ".json") else path
    if len(networks) == 1 and networks[0].workdir:
        return expand_user(networks[0].workdir) / "probe" / default
    return Path("probe", default)


def command(argv: Sequence[str]) -> str:
    """The whole command, as it can be run again."""
    return " ".join(["python -m lrd_jax.probe", *map(shlex.quote, argv)])


def whole_number(least: int) -> Any:
    """A type of argparse: a whole number of at least so much."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    number.__name__ = "number"
    return number
