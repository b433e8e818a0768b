"""Gathers what a machine without a network needs to run this project: wheels, data, code.

    python3.12 -m pip freeze > have.txt            # there, or in the same image
    python3.12 scripts/pack_for_offline.py --python=3.12 --have=have.txt --max_mib=60 \
        --mnist=DIR --output=OUT

`OUT/wheels` then holds what the project depends on and `have.txt` lacks, in versions that fit what
is there (but not pyarrow, of 52 MB, which nothing here imports); `OUT/data/mnist`
the four official archives; `OUT/code.tar.gz` this checkout's commit with its git history of one, so
that results know it. There, `sh OUT/install.sh` unpacks all into `OUT/site` and `OUT/lrd-jax`,
prepares MNIST, and tells how to start. Nothing is written where the whole is larger than
`--max_mib`.

pip chooses packages by the Python that runs it, so start this with the one of that machine. Only
Linux on x86-64 is packed for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

from lrd_jax.config.command_line import ArgumentParser  # noqa: E402
from lrd_jax.errors import UserError, one_line  # noqa: E402
from lrd_jax.reporting import provenance  # noqa: E402

# Published without a wheel; pure Python, so one made here runs anywhere.
SOURCE_ONLY = ("promise",)
# 52 MB that tensorflow-datasets asks for and imports only for formats that are not used here.
LEFT_OUT = ("pyarrow",)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64")
PLATFORMS += ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64")
MNIST = [f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1")]
MNIST += [f"{part}-ubyte.gz" for part in ("t10k-images-idx3", "t10k-labels-idx1")]

INSTALL = """\
#!/bin/sh
# Unpacks everything beside this file; PYTHON names the Python to use.
set -e
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
"$python" -m pip install --no-index --no-deps --quiet --target "$here/site" "$here"/wheels/*.whl
tar -xzf "$here/code.tar.gz" -C "$here"
export PYTHONPATH="$here/site:$here/lrd-jax"
if [ -d "$here/data/mnist" ]; then
  "$python" -m lrd_jax.data.prepare mnist --from_dir="$here/data/mnist" --data_dir="$here/prepared"
fi
echo "cd $here/lrd-jax; export PYTHONPATH=$PYTHONPATH; data: --data_dir=$here/prepared"
"""


def normal(name: str) -> str:
    """The name of a package as indexes have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_have(text: str) -> dict[str, str]:
    """Name -> version of `pip freeze`; "" where a line tells none (`name @ file:///...`)."""
    found = {}
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:==\s*([^\s;+]+)|@)", line):
            found[normal(match[1])] = match[2] or ""
    return found


def pip(*arguments: str) -> None:
    """Runs pip.

    Raises:
      UserError: it failed; with its last line.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = one_line((errors or done.stderr.splitlines() or ["no message"])[-1])
        raise UserError(f"pip {arguments[0]} failed: {why}")


def wheels(have: dict[str, str], python: str, folder: Path) -> None:
    """Puts the wheels of all that is needed and not there into a folder.

    Raises:
      UserError: what is there fits no version of a dependency, or the index cannot be reached.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    target += [f"--platform={platform}" for platform in PLATFORMS]
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, "made")
        pip("wheel", "--quiet", "--no-deps", f"--wheel-dir={made}", *SOURCE_ONLY)
        target.append(f"--find-links={made}")
        constraints, report = Path(scratch, "have.txt"), Path(scratch, "report.json")
        lines = [f"{name}=={version}\n" for name, version in have.items() if version]
        constraints.write_text("".join(lines), encoding="utf-8")
        pip(
            *("install", "--quiet", "--dry-run", "--ignore-installed", f"--target={scratch}/none"),
            *(f"--report={report}", f"--constraint={constraints}", *target),
            *project["dependencies"],
        )
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
        names = {normal(e["metadata"]["name"]): e["metadata"]["version"] for e in chosen}
        missing = [
            f"{name}=={version}"
            for name, version in names.items()
            if name not in {*have, *LEFT_OUT}
        ]
        folder.mkdir()
        if missing:
            pip("download", "--quiet", "--no-deps", f"--dest={folder}", *target, *missing)


def code(folder: Path) -> None:
    """Packs this checkout's commit.

    Raises:
      UserError: there is no git, or no checkout.
    """
    clone = folder / "lrd-jax"
    command = ["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(clone)]
    try:
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"cannot clone this checkout: {one_line(str(error))}") from error
    shutil.make_archive(str(folder / "code"), "gztar", folder, "lrd-jax")
    shutil.rmtree(clone)


def contents(folder: Path) -> list[dict[str, Any]]:
    """Every file with its size and checksum."""
    return [
        {
            "path": str(path.relative_to(folder)),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def gather(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Puts everything into a new folder; returns what `contents.json` says."""
    folder.mkdir()
    wheels(args.have, args.python, folder / "wheels")
    if args.mnist:
        (folder / "data" / "mnist").mkdir(parents=True)
        for name in MNIST:
            shutil.copyfile(args.mnist / name, folder / "data" / "mnist" / name)
    code(folder)
    (folder / "install.sh").write_text(INSTALL, encoding="utf-8")
    files = contents(folder)
    return {
        "python": args.python,
        "commit": provenance.commit(),
        "have": args.have,
        "bytes": sum(file["bytes"] for file in files),
        "files": files,
    }


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the command line; `have` becomes what the file says.

    Raises:
      UserError: something in it is wrong.
    """
    parser = ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--python", required=True, help="version there, e.g. 3.12")
    parser.add_argument("--have", type=Path, required=True, help="`pip freeze` of there")
    parser.add_argument("--max_mib", type=float, required=True, help="size of the whole at most")
    parser.add_argument("--mnist", type=Path, help="folder of the four official archives")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "offline", help="a new one")
    args = parser.parse_args(argv)
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if args.python != running:
        raise UserError(
            f"--python={args.python}: pip chooses packages by the Python that runs it, which is"
            f" {running} here; start this with python{args.python}"
        )
    if not args.max_mib > 0:
        raise UserError(f"--max_mib={args.max_mib} must be above 0")
    if args.output.exists():
        raise UserError(f"--output={args.output} exists: remove it, or name another folder")
    if args.mnist and (missing := [n for n in MNIST if not (args.mnist / n).is_file()]):
        raise UserError(f"--mnist={args.mnist} lacks {missing[0]}")
    try:
        args.have = parse_have(args.have.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise UserError(f"--have={args.have}: {one_line(str(error))}") from error
    return args


def main(argv: list[str]) -> None:
    """Gathers, and keeps it where it is small enough."""
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "offline")
        record = gather(args, folder)
        mib = record["bytes"] / 2**20
        if mib > args.max_mib:
            largest = max(record["files"], key=lambda file: file["bytes"])
            raise UserError(
                f"the whole has {mib:.1f} MiB, more than --max_mib={args.max_mib:g}; the largest is"
                f" {largest['path']} with {largest['bytes'] / 2**20:.1f}: if that machine has it,"
                " name it in --have"
            )
        text = json.dumps(record, indent=1) + "\n"
        (folder / "contents.json").write_text(text, encoding="utf-8")
        args.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, args.output)
    for file in record["files"]:
        print(f"{file['bytes']:>12,}  {file['path']}")
    print(f"{mib:.1f} MiB in {args.output}; there: sh install.sh")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"pack_for_offline: error: {error}", file=sys.stderr)
        sys.exit(2)
