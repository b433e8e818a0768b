"""Shows what a GPU would run: compiles a config's training step for one, on any machine.

    python scripts/compile_for_gpu.py configs/urlstm_pmnist.py
    python scripts/compile_for_gpu.py configs/urlstm_pmnist.py --arch=all --json=pmnist.json
    python scripts/compile_for_gpu.py configs/hdetach_copying.py:H1 --config.model.backend=kernel

It needs no GPU, but the compiler for one: `pip install 'lrd-jax[gpu-compile]'`, best into an
environment of its own. It needs no data either: noise stands in, of the shapes that the config
says (`lrd_jax/data/stand_in.py`).

The training step is the one of `lrd_jax.main`, lowered for one GPU and compiled to the end by
XLA and NVIDIA's assembler. What only a GPU at hand would change is the kernels for matrix products:
there XLA may take one of cuBLAS or, with `devices.deterministic=false`, the fastest of several that
it times; here it takes a default of its own.

Each line of the first table is a loop of the program, usually over time, or what is outside of
loops: how often it runs in a training step, and for each run the kernels launched and the copies.
The second table has the kernels inside of loops, and those of `model.backend=kernel`, which have
their loops inside: registers of a thread, bytes that a thread spills
for want of them, shared memory of a block ("?" where XLA does not tell). `--json` has all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

from lrd_jax.config import checks, command_line  # noqa: E402
from lrd_jax.errors import RunError, UserError, one_line  # noqa: E402
from lrd_jax.kernels.targets import TARGETS  # noqa: E402
from lrd_jax.runtime import terminal  # noqa: E402


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, command_line.ConfigFlag]:
    """Reads the command line; `arch` becomes a list.

    Raises:
      UserError: something in it is wrong.
    """
    parser = command_line.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="FILE.py or FILE.py:ARGUMENT, as for lrd_jax.main")
    parser.add_argument(
        "--arch",
        default="sm_90a",
        help=f"one or more of {', '.join(TARGETS)}, or all (default: sm_90a, the H100)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes everything to this file")
    arguments, overrides = parser.parse_known_args(argv)
    if wrong := [word for word in overrides if not re.match(r"--(no)?config\.", word)]:
        raise UserError(f"unexpected argument {wrong[0]!r}: see --help")
    names = list(TARGETS) if arguments.arch == "all" else arguments.arch.split(",")
    if unknown := [name for name in names if name not in TARGETS]:
        raise UserError(f"--arch={unknown[0]} is not known: use {', '.join(TARGETS)} or all")
    arguments.arch = names
    if arguments.json and not arguments.json.parent.is_dir():
        raise UserError(f"--json={arguments.json}: there is no folder {arguments.json.parent}")
    words = ["compile_for_gpu", f"--config={arguments.config}", *overrides]
    flag = command_line.parse_flags(words, flags.FlagValues())
    checks.validate(flag.config)
    return arguments, flag


def compile_for(config: Any, arch: str) -> tuple[Any, Any]:
    """Compiles the training step of a config for a GPU.

    Returns:
      The report (`lrd_jax.kernels.report.Report`) and the `Program`.

    Raises:
      UserError: the extra is missing, or the config does not fit.
      RunError: XLA refused the program.
    """
    # Here, so that a wrong argument is answered before JAX has loaded.
    import jax

    from lrd_jax.data.stand_in import make_stand_in
    from lrd_jax.kernels import deviceless, report, routes
    from lrd_jax.runtime.devices import DETERMINISTIC, make_mesh
    from lrd_jax.training.program import make_program

    mesh = make_mesh(list(deviceless.devices(TARGETS[arch])))
    flags = DETERMINISTIC if config.devices.deterministic else ()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with routes.use(routes.Route("ptx", arch.rstrip("a"))) as own:
                program = make_program(config, make_stand_in(config), mesh)
                lowered = program.lower_train_step()
            for name, ptx in own.items():  # XLA writes those of its own kernels alone
                Path(folder, f"{name}.ptx").write_text(ptx, encoding="utf-8")
            compiled = deviceless.compile_and_dump(lowered, Path(folder), flags)
        except jax.errors.JaxRuntimeError as error:
            raise RunError(f"XLA did not compile it for {arch}: {error}") from error
        return report.read(Path(folder), compiled, deviceless.assembler()), program


def tables(found: Any, length: int) -> str:
    """The report for people; see the module's docstring."""
    rows = [["", "runs", "kernels", "copies"]]
    for part in (*found.loops, found.outside):
        runs = "?" if part.runs is None else str(part.runs)
        rows.append([part.name, runs, str(len(part.kernels)), str(part.copies)])
    kernels = [["kernel", "in", "registers", "spilled", "shared"]]
    for part in (*found.loops, found.outside):
        for kernel in part.kernels:
            if part is found.outside and not kernel.name.startswith("recurrence_"):
                continue
            numbers = (kernel.registers, kernel.spilled, kernel.shared)
            kernels.append(
                [kernel.name, part.name, *("?" if n is None else str(n) for n in numbers)]
            )
    everything = [kernel for part in (*found.loops, found.outside) for kernel in part.kernels]
    spilling = sum(bool(kernel.spilled) for kernel in everything)
    memory = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in found.memory.items())
    return "\n".join(
        [
            _table(rows, names=1),
            "",
            f"per time step  {found.per_time_step(length):.4g} kernels,"
            f" {found.per_time_step(length, 'copies'):.4g} copies (over {length} steps)",
            f"memory, MiB    {memory}",
            f"spilling       {spilling} of {len(everything)} kernels",
            "",
            _table(kernels, names=2),
        ]
    )


def _table(rows: Sequence[Sequence[str]], names: int) -> str:
    """Aligned columns, of which the first `names` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if i < names else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main(argv: list[str]) -> None:
    """Runs what the command line asks for."""
    arguments, flag = parse_arguments(argv)
    # Before JAX loads: it shall not look for this machine's own GPU, nor XLA log its warnings.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    name = command_line.config_name(arguments.config)
    record: dict[str, Any] = {"config": name, "overrides": flag.overrides, "targets": {}}
    for arch in arguments.arch:
        found, program = compile_for(flag.config, arch)
        from lrd_jax.reporting import provenance

        length = program.dataset.spec.length
        per_step = {what: found.per_time_step(length, what) for what in ("kernels", "copies")}
        record |= {"versions": provenance.versions(), "commit": provenance.commit()}
        record |= {"length": length, "members": len(program.members)}
        record["targets"][arch] = {
            "device": TARGETS[arch].name,
            "per_time_step": per_step,
            **found.to_dict(),
        }
        print(
            f"{name} for {TARGETS[arch].name} ({arch}), JAX {record['versions']['jax']},"
            f" {len(program.members)} member(s)\n{program.dataset.describe()}\n"
            f"\n{tables(found, length)}\n",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"written to {arguments.json}")


if __name__ == "__main__":
    terminal.be_courteous()
    try:
        main(sys.argv[1:])
    except (UserError, RunError) as error:
        print("compile_for_gpu: error:", one_line(str(error)), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
