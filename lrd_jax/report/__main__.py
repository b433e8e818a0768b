"""Writes a page about runs: `python -m lrd_jax.report RUN [RUN ...] --out=DIR`.

Exit status: 0 done; 2 bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lrd_jax.config.command_line import ArgumentParser
from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError
from lrd_jax.runtime import address_space, terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = ArgumentParser(
        prog="python -m lrd_jax.report",
        description="Writes DIR/report.html, one file that needs no network: settings, scores,"
        " curves, what the models do, and how each run can be made again.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="work directories")
    parser.add_argument("--out", default="report", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--no-figures",
        action="store_true",
        help="leave out what needs the model and its data: seconds instead of minutes",
    )
    return terminal.status_of(lambda: _run(parser.parse_args(argv)))


def _run(flags: Any) -> None:
    address_space.check()
    from lrd_jax.report.build import build
    from lrd_jax.reporting.page import write_page

    terminal.quiet()

    def say(line: str) -> None:
        print(f"note: {line}")

    out = expand_user(flags.out)
    if out.exists() and not out.is_dir():  # before minutes are spent
        raise UserError(f"--out={flags.out} is a file: name a folder")
    runs = [str(expand_user(run)) for run in flags.runs]
    whole = build(runs, figures=not flags.no_figures, say=say)
    print("wrote", write_page(out / "report.html", whole))


if __name__ == "__main__":
    terminal.be_courteous()
    sys.exit(main())
