"""Writes a trained model for use elsewhere: `python -m lrd_jax.export --workdir=DIR --out=DIR`.

Exit status: 0 done; 1 it cannot be written; 2 bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrd_jax.config import record
from lrd_jax.config.command_line import ArgumentParser
from lrd_jax.config.paths import expand_user
from lrd_jax.data.sequence_fit import FILE
from lrd_jax.errors import RunError, UserError
from lrd_jax.runtime import terminal

KEPT = ("config.json", "spec.json", "vocabulary.json", FILE)  # of the work directory


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = ArgumentParser(
        prog="python -m lrd_jax.export",
        description="Writes model.safetensors with config.json and members.json, a folder that is"
        " used like a run; a model card (README.md); and programs that need JAX alone:"
        " model.stablehlo for whole sequences, step.stablehlo for one step. An LSTM or GRU also as"
        " a state_dict of PyTorch, pytorch.safetensors.",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    parser.add_argument("--out", required=True, metavar="DIR", help="made if missing")
    parser.add_argument(
        "--seeds",
        default="best",
        metavar="best|all|N",
        help="the seed that validated best, all of them as one, or seed N; default: %(default)s",
    )
    parser.add_argument(
        "--weights_only",
        action="store_true",
        help="no programs, nothing for PyTorch: what this package needs to use the model",
    )
    return terminal.status_of(lambda: _run(parser.parse_args(argv)), interrupted="interrupted")


def _run(flags: Any) -> None:
    workdir, out = expand_user(flags.workdir), expand_user(flags.out)
    record.load_workdir(workdir)
    out = out.resolve()  # or DIR/new/.. would be the run, once DIR/new was made
    if out.exists() and (not out.is_dir() or out.samefile(workdir)):
        raise UserError(f"--out={flags.out} is a file, or the run itself: name a folder")
    terminal.quiet()
    _export(workdir, out, flags.seeds, flags.weights_only)


def _export(workdir: Path, out: Path, seeds: str, weights_only: bool) -> None:
    """Writes what `main` promises into a folder, or nothing at all.

    Args:
      workdir: of the run.
      out: made if missing; files of the same names are replaced.
      seeds: as of `inference.model.load`.
      weights_only: no programs, and nothing for PyTorch.

    Raises:
      UserError: the run cannot be loaded or exported.
      RunError: the folder cannot be written.
    """
    import jax

    from lrd_jax.evaluation import exported
    from lrd_jax.export import card, programs, weights
    from lrd_jax.inference.model import load
    from lrd_jax.interchange.weights import write
    from lrd_jax.reporting.workdir import json_text

    model = load(workdir, seeds)
    # All that can be wrong is made before anything is written.
    files: dict[str, Any] = {exported.WEIGHTS: exported.by_name(model.params)}
    files[exported.MEMBERS] = json_text(model.whose).encode()
    if not weights_only:
        files["model.stablehlo"] = programs.serialised(programs.whole(model))
        for name, make in (
            ("step.stablehlo", lambda: programs.serialised(programs.step(model))),
            ("pytorch.safetensors", lambda: weights.for_torch(model)),
        ):
            try:
                files[name] = make()
            except UserError as error:
                print(f"note: no {name}: {error}")
    kept = [name for name in KEPT if (workdir / name).exists()]
    one = max(model.network.seeds, 1)
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params)) // one
    text = card.write(workdir, model, [*files, *kept], size)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in kept:
            content = (workdir / name).read_text(encoding="utf-8")
            if name == "config.json":
                content = card.without_paths(content)
            (out / name).write_text(content, encoding="utf-8")
        (out / "README.md").write_text(text, encoding="utf-8")
        for name, content in files.items():
            if isinstance(content, bytes):
                (out / name).write_bytes(content)
            else:
                write(out / name, content)
    except OSError as error:
        raise RunError(f"cannot write into {out} ({error.strerror})") from error
    print(f"wrote {out}: {', '.join(sorted([*files, *kept, 'README.md']))}")


if __name__ == "__main__":
    terminal.be_courteous()
    sys.exit(main())
