"""The published claims that this project is measured against, row by row of the config files.

Sources as `configs/` cites them; "none" where no number could be seen in print.
"""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """One published number, or a group of them.

    Attributes:
      rows: of the config file.
      what: task and model.
      number: as published; "none".
      source: who published it.
      cost: how long the published training is.
      verdict: reproduced | not reproduced | not tested.
      evidence: name of a file in `results/`; "" where nothing was run.
      note: what to know of the evidence.
    """

    rows: str
    what: str
    number: str
    source: str
    cost: str
    verdict: str = "not tested"
    evidence: str = ""
    note: str = ""


_S4 = "S4, table 12 (a later paper)"
_PAPER = "the paper, table 2"
_REPORT = "reproduction report"
_README = "authors' README"
_GPU = "a piece of `scripts/on_gpu.py`"

GATES = (
    Claim(
        "G1",
        "copying, 500 steps, all nine gate codes",
        "none (curves)",
        "the paper",
        "10 000 steps",
        evidence="copying_gates",
        note="two of nine codes, full length, one seed: no verdict",
    ),
    Claim(
        "G2",
        "adding, 2000 steps, all nine codes",
        "none (curves)",
        "the paper",
        "100 000 steps",
        evidence="adding_gates",
        note="500 steps, a tenth of the training, one seed: no verdict",
    ),
    Claim("G3", "sequential MNIST, UR-LSTM", "99.28 %", _S4, "150 epochs"),
    Claim("G4", "sequential MNIST, LSTM", "98.9 %", _S4, "150 epochs"),
    Claim("G5", "permuted MNIST, UR-LSTM", "96.96 %", _S4, "150 epochs", note=_GPU),
    Claim("G6", "permuted MNIST, LSTM", "95.11 %", _S4, "150 epochs", note=_GPU),
    Claim("G7", "sequential CIFAR-10, UR-LSTM", "71.00 %", _S4, "150 epochs"),
    Claim("G8", "sequential CIFAR-10, LSTM", "63.01 %", _S4, "150 epochs"),
    Claim("G9", "sequential MNIST, UR-GRU", "99.27 %", _S4, "150 epochs"),
    Claim("G10", "permuted MNIST, UR-GRU", "96.51 %", _S4, "150 epochs"),
    Claim("G11", "sequential CIFAR-10, UR-GRU", "74.4 %", _S4, "150 epochs"),
    Claim("G12", "permuted MNIST and CIFAR-10, all codes", "none seen", "the paper", "150 epochs"),
    Claim("G13", "WikiText-103, `--` and UR", "none seen", "the paper", "100 epochs"),
)
HDETACH = (
    Claim(
        "H1",
        "copying, delay 100, LSTM",
        "100, 96 %, one collapses",
        _REPORT,
        "600 000 steps",
        evidence="copying_hdetach",
        note="3 % of the training, one seed: no verdict",
    ),
    Claim("H2", "the same, p_block 0.25", "100, 85, 75 %", _REPORT, "600 000 steps"),
    Claim(
        "H3",
        "the same, p_block 0.5",
        "100, 100, 97 %",
        _REPORT,
        "600 000 steps",
        evidence="copying_hdetach",
        note="as H1",
    ),
    Claim("H4", "copying, delay 300, LSTM", "79, 39 %", _REPORT, "200 000 steps", note=_GPU),
    Claim("H5", "the same, p_block 0.25", "90, 78, 50 %", _REPORT, "160 000 to 290 000", note=_GPU),
    Claim("H6", "the same, p_block 0.5", "100, 90 %", _REPORT, "220 000 steps", note=_GPU),
    Claim("H7-H9", "copying, transfer to longer delays", "none confirmed", "-", "600 000 steps"),
    Claim("H10", "sequential MNIST, LSTM", "98.60 %", _REPORT, "200 epochs", note=_GPU),
    Claim("H11", "the same, p_block 0.25", "98.5 %", _README, "200 epochs", note=_GPU),
    Claim("H12", "permuted MNIST, p_block 0.25", "92.3 %", _README, "200 epochs", note=_GPU),
    Claim("H13", "copying, delay 100, c_block", "below 40 %", _REPORT, "200 000 steps"),
    Claim("H14", "sequential MNIST, c_block", "89.65 % at best", _REPORT, "200 epochs"),
    Claim("H15-H20", "sequential MNIST, without clipping, other rates", "in words", _REPORT, "-"),
    Claim("H21", "COCO, Show & Tell, p_block 0.25", "CIDEr 98.0", _README, "30 epochs"),
    Claim("H22", "COCO, Show, Attend & Tell, p_block 0.4", "CIDEr 103.3", _README, "30 epochs"),
)
AUXILIARY = (
    Claim(
        "A1-A3", "LSTM: sequential, permuted, CIFAR-10", "98.3, 89.4, 58.8 %", _PAPER, "250 epochs"
    ),
    Claim("A4-A6", "the same, truncated to 300", "11.3, 88.8, 49.0 %", _PAPER, "250 epochs"),
    Claim("A7-A9", "r-LSTM, truncated", "96.4, 92.8, 65.9 %", _PAPER, "50 + 250 epochs", note=_GPU),
    Claim(
        "A10-A12", "p-LSTM, truncated", "95.4, 92.5, 64.7 %", _PAPER, "50 + 250 epochs", note=_GPU
    ),
    Claim("A13-A15", "r-LSTM, whole gradient", "98.4, 95.2, 72.2 %", _PAPER, "50 + 250 epochs"),
    Claim("A16-A18", "p-LSTM, whole gradient", "98.0, 92.8, 67.6 %", _PAPER, "50 + 250 epochs"),
    Claim(
        "A19-A30",
        "permuted MNIST, a reimplementation",
        "84.1 to 91.3 %",
        "its README",
        "250 epochs",
    ),
    Claim("A31", "CIFAR-10, labels train the head alone", "about 40 %", "public summary", "-"),
    Claim("A32", "StanfordDogs, 16 000 steps", "none (figure)", "the paper", "100 epochs"),
    Claim("A33", "DBpedia by character", "none seen", "the paper", "-"),
)
PAPERS = {
    "Better gates (Gu et al. 2020, arXiv:1910.09890)": GATES,
    "h-detach (Arpit et al. 2019, arXiv:1810.03023)": HDETACH,
    "Auxiliary losses (Trinh et al. 2018, arXiv:1803.00144)": AUXILIARY,
}
NOT_ATTEMPTED = (
    "Passive and Active Match, Atari (reinforcement learning) and program evaluation, which the"
    " gating paper reports too, are not part of this project.",
    "COCO with ResNet-152 features (rows H21, H22) needs a GPU and 200 GB of features.",
)
