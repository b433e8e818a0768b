"""Sequential images with 1024 units: the image tables of the gating paper.

    python -m lrd_jax.main --config=configs/gating_images.py:G5

Paper: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
arXiv:1910.09890. The argument is a row; `quick` shrinks it.

| row | task | model | expected test accuracy | printed in |
|---|---|---|---|---|
| `G3` | sMNIST | UR-LSTM | 99.28 | S4, Table 12 |
| `G4` | sMNIST | `--` (tied) | 98.9 | S4, Table 12 |
| `G5` | pMNIST | UR-LSTM | 96.96; also 97.6 | S4, Table 12; wRNN, Table 2 |
| `G6` | pMNIST | `--` (tied) | 95.11 | S4, Table 12 |
| `G7` | sCIFAR | UR-LSTM | 71.00 | S4, Table 12 |
| `G8` | sCIFAR | `--` (tied) | 63.01 | S4, Table 12 |
| `G9` | sMNIST | UR-GRU | 99.27 | S4, Table 12; LSSL, Table 1 |
| `G10` | pMNIST | UR-GRU | 96.51 | S4, Table 12; LSSL, Table 1 |
| `G11` | sCIFAR | UR-GRU | 74.4 | S4, Table 12; Liquid-S4, Table 3 |
| `G12-pmnist-<code>`, `G12-cifar-<code>` | ablation | all nine codes | no number seen | |
| `G12-pmnist-gru-<code>`, `G12-cifar-gru-<code>` | ablation | GRU `--`, `U-`, `-R`, `UR` | same | |

Rows may also be called by what they are: `smnist-`, `pmnist-` or `scifar-`, then `urlstm`,
`tied-lstm` or `urgru`, for instance `pmnist-urlstm` for `G5` and `scifar-tied-lstm` for `G8`.

S4 is Gu et al. (2021), arXiv:2111.00396; LSSL Gu et al. (2021), arXiv:2110.13985; Liquid-S4 Hasani
et al. (2022), arXiv:2209.12951; wRNN Keller et al. (2023), arXiv:2309.08045.

Batch 50, learning rate 1e-3, clipping at 1 and 150 epochs are those of r0mainK/ur-lstm, a
reimplementation, which gives them as the paper's. Validation (the last 6 000 of MNIST, the last
5 000 of CIFAR-10), the permutation and the 512 units of `G12` are choices of this project.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

_S4 = "Gu et al. (2021), arXiv:2111.00396, Table 12"
# What `probe curves` and `report` draw as a line: row -> metric -> value, and who printed it.
PUBLISHED = {
    row: {"accuracy": value, "source": _S4}
    for row, value in {
        "G3": 0.9928,
        "G4": 0.989,
        "G5": 0.9696,
        "G6": 0.9511,
        "G7": 0.71,
        "G8": 0.6301,
        "G9": 0.9927,
        "G10": 0.9651,
        "G11": 0.744,
    }.items()
}

LSTM_CODES = ("--", "C-", "O-", "U-", "-R", "OM", "UM", "OR", "UR")
GRU_CODES = ("--", "U-", "-R", "UR")

SMNIST = {"data.name": "mnist", "data.valid_split": "last:6000"}
PMNIST = SMNIST | {"data.permutation": "92916"}
CIFAR = {"data.name": "cifar10", "data.valid_split": "last:5000"}


def _model(cell: str, code: str) -> dict[str, str]:
    return {"model.cell": cell, "model.gates": code}


ROWS = {
    "G3": SMNIST | _model("gated_lstm", "UR"),
    "G4": SMNIST | _model("gated_lstm", "--"),
    "G5": PMNIST | _model("gated_lstm", "UR"),
    "G6": PMNIST | _model("gated_lstm", "--"),
    "G7": CIFAR | _model("gated_lstm", "UR"),
    "G8": CIFAR | _model("gated_lstm", "--"),
    "G9": SMNIST | _model("gated_gru", "UR"),
    "G10": PMNIST | _model("gated_gru", "UR"),
    "G11": CIFAR | _model("gated_gru", "UR"),
}
_TASKS = ("smnist", "pmnist", "scifar")
ALIASES = {
    **{f"{task}-urlstm": f"G{3 + 2 * i}" for i, task in enumerate(_TASKS)},
    **{f"{task}-tied-lstm": f"G{4 + 2 * i}" for i, task in enumerate(_TASKS)},
    **{f"{task}-urgru": f"G{9 + i}" for i, task in enumerate(_TASKS)},
}
for task, data in (("pmnist", PMNIST), ("cifar", CIFAR)):
    small = data | {"model.hidden_size": 512}
    ROWS |= {f"G12-{task}-{code}": small | _model("gated_lstm", code) for code in LSTM_CODES}
    ROWS |= {f"G12-{task}-gru-{code}": small | _model("gated_gru", code) for code in GRU_CODES}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `G5` or `G12-cifar-UR,quick`."""
    c: Any = defaults.get_config()
    c.data.batch_size = 50
    c.model.hidden_size = 1024
    c.model.head_hidden = (256,)
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 1.0
    c.train.num_epochs = 150.0
    return defaults.finish(c, arg, ROWS, ALIASES)
