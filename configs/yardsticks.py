"""Cells to put beside ours, in the settings of their authors.

    python -m lrd_jax.main --config=configs/yardsticks.py:lem-psmnist

The argument is a row; `quick` shrinks it. Published test accuracy, and what it cost:

| row | cell | published | epochs | source |
|---|---|---|---|---|
| `lem-psmnist` | LEM, 128 units | 96.62 % | 120 | log of tk-rusch/LEM |
| `lem-smnist` | LEM, 128 units | 99.45 % | 120 | log of tk-rusch/LEM |
| `lem-adding` | LEM, 128 units, T 2 000 | error below 1e-4 after 20 000 steps | - | same |
| `cornn-psmnist` | coRNN, 256 units | 97.34 % | 120 | log of tk-rusch/coRNN |
| `cornn-smnist` | coRNN, 256 units | 99.35 % | 120 | log of tk-rusch/coRNN |
| `indrnn-psmnist` | IndRNN, 6 layers of 128 | 97.04 % with 12 | - | log of IndRNN_pytorch |
| `unicornn-psmnist` | UnICORNN, 3 layers of 256 | 98.4 % | 2 600 | README of tk-rusch/unicornn |
| `lru-scifar` | LRU, 4 layers of 256, N 128 | 89.0 % | 180 | the paper's table; minimal-LRU |
| `s5-scifar` | S5, 6 layers of 512, P 384 | 90.1 % | 250 | its table; script of LRA image |
| `legs-psmnist` | HiPPO-LegS, 512 units, N 512 | 98.3 % | 50 | README of hippo-code; S4, Table 12 |
| `legs-psmnist-ur` | the same with a UR gate | none seen | 50 | the same |
| `mingru-smnist`, `minlstm-smnist` | 3 layers of 128 | none seen | - | width and training of LEM |
| `slstm-smnist` | sLSTM, 128 units, 4 heads | none seen | - | the same |

Differences: the permutation is that of numpy seed 92916, not torch's; validation chooses the step.
IndRNN has no batch norm, and its decay is that of all weights. IndRNN's and UnICORNN's one mask of
dropout for all steps is a mask a step here. LegS's permutation is bit reversal, as theirs.

LRU and S5 layers above the first stand in a pre-norm residual block, with LayerNorm where the
authors use batch norm; their GELU and GLU after each layer, and the block around the first one, are
left out, so that between linear layers LayerNorm alone is not linear. Cosine schedules end at 0. S5
was tuned on grey images of LRA, and its directions share all but C there: here each has parameters
of its own, and 256 of the 512 outputs. LEM, coRNN, minGRU and minLSTM are layers without blocks.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

_LEM = {
    "model.cell": "lem",
    "model.hidden_size": 128,
    "data.batch_size": 128,
    "optim.decay_every_epochs": 100,
    "optim.schedule": "step",
    "optim.decay_rate": 0.1,
    "train.num_epochs": 120.0,
    "data.valid_split": "last:3000",
}
_CORNN = _LEM | {"model.cell": "cornn", "model.hidden_size": 256, "data.batch_size": 120}
_PERMUTED = {"data.permutation": "92916"}
_SMNIST = _LEM | {"optim.learning_rate": 1.8e-3, "optim.clip_norm": 1.0}
_LEGS = {
    "data.permutation": "bitreverse",
    "data.valid_split": "last:5000",
    "data.batch_size": 100,
    "model.hidden_size": 512,
    "optim.learning_rate": 1e-3,
    "train.num_epochs": 50.0,
}

ROWS: dict[str, dict[str, Any]] = {
    "lem-psmnist": _LEM
    | _PERMUTED
    | {"model.step_size": 0.31, "optim.learning_rate": 7.3e-3, "optim.clip_norm": 1.1},
    "lem-smnist": _SMNIST | {"model.step_size": 0.21},
    "lem-adding": {
        "data.name": "adding",
        "data.length": 2000,
        "data.batch_size": 50,
        "model.cell": "lem",
        "model.hidden_size": 128,
        "model.step_size": 0.0242,
        "optim.learning_rate": 2.6e-3,
        "train.num_steps": 30_000,
    },
    "cornn-psmnist": _CORNN
    | _PERMUTED
    | {
        "model.step_size": 0.076,
        "model.stiffness": 0.4,
        "model.damping": 8.0,
        "optim.learning_rate": 5.4e-3,
    },
    "cornn-smnist": _CORNN
    | {
        "model.step_size": 0.042,
        "model.stiffness": 2.7,
        "model.damping": 4.7,
        "optim.learning_rate": 2.1e-3,
    },
    "indrnn-psmnist": _PERMUTED
    | {
        "data.batch_size": 32,
        "model.cell": "indrnn",
        "model.hidden_size": 128,
        "model.num_layers": 6,
        "model.dropout": 0.1,
        "model.recurrent_max": 5 ** (1 / 784),
        "optim.name": "adamw",
        "optim.learning_rate": 2e-4,
        "optim.weight_decay": 1e-4,
        "train.num_epochs": 400.0,
    },
    "unicornn-psmnist": _PERMUTED
    | {
        "data.batch_size": 32,
        "model.cell": "unicornn",
        "model.hidden_size": 256,
        "model.num_layers": 3,
        "model.step_size": 0.19,
        "model.stiffness": 30.65,
        "model.dropout": 0.1,
        "optim.learning_rate": 2.51e-3,
        "optim.schedule": "step",
        "optim.decay_every_epochs": 650,
        "optim.decay_rate": 0.1,
        "train.num_epochs": 2600.0,
    },
    "lru-scifar": {
        "data.name": "cifar10",
        "data.valid_split": "last:5000",
        "model.cell": "lru",
        "model.hidden_size": 256,
        "model.embedding_size": 256,
        "model.state_size": 128,
        "model.num_layers": 4,
        "model.block": "prenorm",
        "model.pool": "mean",
        "model.dropout": 0.1,
        "optim.name": "adamw",
        "optim.weight_decay": 0.05,
        "optim.learning_rate": 1e-3,
        "optim.schedule": "cosine",
        "train.num_epochs": 180.0,
    },
    "s5-scifar": {
        "data.name": "cifar10",
        "data.valid_split": "last:5000",
        "data.batch_size": 50,
        "model.cell": "s5",
        "model.hidden_size": 256,
        "model.embedding_size": 512,
        "model.state_size": 192,
        "model.hippo_size": 64,
        "model.bidirectional": True,
        "model.num_layers": 6,
        "model.block": "prenorm",
        "model.pool": "mean",
        "model.dropout": 0.1,
        "optim.name": "adamw",
        "optim.weight_decay": 0.07,
        "optim.learning_rate": 4.5e-3,
        "optim.schedule": "cosine",
        "optim.warmup_steps": 900,
        "train.num_epochs": 250.0,
    },
    "legs-psmnist": _LEGS | {"model.cell": "legs"},
    "legs-psmnist-ur": _LEGS | {"model.cell": "gated_legs"},
    "mingru-smnist": _SMNIST | {"model.cell": "mingru", "model.num_layers": 3},
    "minlstm-smnist": _SMNIST | {"model.cell": "minlstm", "model.num_layers": 3},
    "slstm-smnist": _SMNIST | {"model.cell": "slstm", "model.heads": 4},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `lem-psmnist` or `lem-psmnist,quick`."""
    c: Any = defaults.get_config()
    c.data.name = "mnist"
    c.model.head_hidden = ()
    c.optim.clip_norm = 0.0
    return defaults.finish(c, arg, ROWS)
