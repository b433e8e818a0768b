"""The training runs of `on_gpu.py --part=reproduce`, and how their work directories travel."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import reproduce

from lrd_jax.errors import UserError
from lrd_jax.reporting.writers import read_metrics

PART_BYTES = 15 * 2**20  # of a packed file


class Piece(NamedTuple):
    """One program: a run with all its seeds and settings.

    Attributes:
      name: of its work directory and of its file in `results/`.
      title: for the table.
      variant: the same.
      config: value of `--config`.
      overrides: `key=value`.
    """

    name: str
    title: str
    variant: str
    config: str
    overrides: tuple[str, ...]


# All three blocking probabilities of the report train in one program.
_P_BLOCK = ("sweep.p_block=(0.0,0.25,0.5)", "num_seeds=3", "detach.off_last_epochs=39")
_P_BLOCKS = "p_block 0, 0.25, 0.5; 3 seeds each"
_SMALL = "Permuted MNIST (784 steps), 128 units"
_AUXILIARY = {  # row of configs/auxiliary_images.py -> what it is
    "A2": "pMNIST, LSTM",
    "A14": "pMNIST, r-LSTM",
    "A17": "pMNIST, p-LSTM",
    "A1": "sMNIST, LSTM",
    "A13": "sMNIST, r-LSTM",
    "A16": "sMNIST, p-LSTM",
}
_YARDSTICKS = {  # row of configs/yardsticks.py -> what it is
    "legs-psmnist": "pMNIST by bit reversal, HiPPO-LegS of 512 units",
    "legs-psmnist-ur": "pMNIST by bit reversal, HiPPO-LegS of 512 units with a UR gate",
    "lem-psmnist": "pMNIST, LEM of 128 units",
    "cornn-psmnist": "pMNIST, coRNN of 256 units",
    "lem-smnist": "sMNIST, LEM of 128 units",
    "cornn-smnist": "sMNIST, coRNN of 256 units",
}
PIECES = (
    Piece(
        "hdetach_pmnist", "pMNIST, h-detach", _P_BLOCKS, "configs/hdetach_mnist.py:H12", _P_BLOCK
    ),
    Piece(
        "hdetach_smnist", "sMNIST, h-detach", _P_BLOCKS, "configs/hdetach_mnist.py:H11", _P_BLOCK
    ),
    *(
        Piece(
            f"hdetach_copying_{delay}",
            f"Copying, preset hdetach, delay {delay}",
            _P_BLOCKS,
            f"configs/hdetach_copying.py:{row}",
            _P_BLOCK,
        )
        for delay, row in ((100, "H3"), (300, "H6"))
    ),
    *(
        Piece(
            f"{cell}_pmnist",
            _SMALL,
            f"{cell}, 5 seeds",
            "configs/urlstm_pmnist.py",
            (f"model.cell={cell}", "num_seeds=5"),
        )
        for cell in ("urlstm", "lstm")
    ),
    *(
        Piece(
            f"auxiliary_{row}",
            what,
            "3 seeds",
            f"configs/auxiliary_images.py:{row}",
            ("num_seeds=3",),
        )
        for row, what in _AUXILIARY.items()
    ),
    # Yardsticks, in the setting of the UR-LSTM.
    *(
        Piece(
            f"{cell}_pmnist",
            _SMALL,
            f"{cell}, 5 seeds",
            "configs/urlstm_pmnist.py",
            (f"model.cell={cell}", "num_seeds=5"),
        )
        for cell in ("gru", "onlstm", "rnn")
    ),
    Piece(
        "lstm_layer_norm_pmnist",
        _SMALL,
        "lstm with layer_norm, 5 seeds",
        "configs/urlstm_pmnist.py",
        # Of one feature LayerNorm of the input's product would leave the sign alone.
        ("model.cell=lstm", "model.layer_norm=True", "model.embedding_size=128", "num_seeds=5"),
    ),
    # Yardsticks in their authors' settings, but for the hours that UnICORNN takes.
    *(
        Piece(
            row.replace("-", "_"),
            title,
            "3 seeds",
            f"configs/yardsticks.py:{row}",
            ("num_seeds=3",),
        )
        for row, title in _YARDSTICKS.items()
    ),
)


def pieces(tiny: bool = False) -> tuple[Piece, ...]:
    """The pieces in order of value; `tiny`: the first and the third of them, shrunk, on digits."""
    if not tiny:
        return PIECES
    few = ("train.num_steps=8", "train.eval_every_steps=4", "train.log_every_steps=4")
    digits = ("data.name=digits", "data.pixels_per_step=8")
    return tuple(
        piece._replace(
            name=f"tiny_{piece.name}",
            config=f"{piece.config},quick",
            overrides=(*piece.overrides, *few, "model.hidden_size=8", *own),
        )
        for piece, own in ((PIECES[0], digits), (PIECES[2], ()))
    )


def command(piece: Piece, workdir: Path, more: list[str]) -> list[str]:
    """The command line of a piece."""
    return reproduce.command(_experiment(piece), piece.overrides, workdir, *more)


def result(piece: Piece, workdir: Path) -> dict[str, Any]:
    """What `results/` holds of a finished piece, see `reproduce.collect`."""
    argv = ["scripts/on_gpu.py", *sys.argv[1:2]]
    return reproduce.collect(
        f"gpu_{piece.name}", _experiment(piece), {piece.variant: workdir}, {}, argv
    )


def _experiment(piece: Piece) -> reproduce.Experiment:
    return reproduce.Experiment(piece.title, piece.config, {piece.variant: piece.overrides})


def progress(workdir: Path) -> dict[str, Any]:
    """How far a piece is: its `status`, and the last lines of its metrics."""
    if (workdir / "result.json").exists():
        found = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
        kept = ("steps", "num_steps", "device", "versions", "wall_time_s")
        return {"status": "finished"} | {key: found[key] for key in kept}
    saved = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    if not saved:
        return {"status": "not begun"}
    path = workdir / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    epochs = {line["step"]: line["epoch"] for line in lines}
    found = {"status": f"stopped at step {max(saved)}", "step": max(saved)}
    if epochs:
        found["status"] += f", in epoch {max(epochs.values()):.1f}"
    for split in ("train", "valid"):
        of_split = [line for line in lines if line["split"] == split]
        found[split] = [line for line in of_split if line["step"] == of_split[-1]["step"]]
    return found


# ---- Travelling --------------------------------------------------------------------------------


def pack(runs: Path, target: Path) -> None:
    """Packs the work directories, of each its newest checkpoint alone, in numbered files."""
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("runs.tar.*"):
        old.unlink()
    whole = target / "whole"
    with tarfile.open(whole, "w") as archive:
        for path in sorted(runs.rglob("*")):
            if path.is_file() and _wanted(path.relative_to(runs), runs):
                archive.add(path, str(path.relative_to(runs)))
    with whole.open("rb") as file:
        for number, part in enumerate(iter(lambda: file.read(PART_BYTES), b"")):
            (target / f"runs.tar.{number:03}").write_bytes(part)
    whole.unlink()


def _wanted(path: Path, runs: Path) -> bool:
    workdir, *rest = path.parts
    if len(rest) < 2 or rest[0] != "checkpoints":
        return True
    saved = [p.name for p in (runs / workdir / "checkpoints").iterdir() if p.name.isdigit()]
    return rest[1] == max(saved, key=int, default="")


def unpack(source: Path, runs: Path) -> None:
    """Puts packed work directories where `runs` has none of that name.

    Raises:
      UserError: there is nothing packed, or it is damaged.
    """
    parts = sorted(path for path in source.glob("runs.tar.*") if re.search(r"\.\d+$", path.name))
    if not parts:
        raise UserError(f"--from={source}: there is no runs.tar.000")
    runs.mkdir(parents=True, exist_ok=True)
    present = {path.name for path in runs.iterdir()}
    whole = runs / ".packed"
    try:
        with whole.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        with tarfile.open(whole) as archive:
            for member in archive:
                if Path(member.name).parts[0] not in present:
                    archive.extract(member, runs, filter="data")
    except tarfile.TarError as error:
        raise UserError(f"--from={source} is damaged ({error})") from error
    finally:
        whole.unlink()
