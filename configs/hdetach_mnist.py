"""Pixel-wise MNIST with h-detach.

    python -m lrd_jax.main --config=configs/hdetach_mnist.py:H11

Paper: Arpit et al. (2019), "h-detach: Modifying the LSTM Gradient Towards Better Optimization",
arXiv:1810.03023. The argument is a row; `quick` shrinks it.

| row | task | setting | expected test accuracy | source |
|---|---|---|---|---|
| `H10` | sMNIST | no blocking | 98.60 | report |
| `H11` | sMNIST | `p_block` 0.25, seed 250 | 98.5; seed 400: 98.62 | README; dido1998 |
| `H12` | pMNIST | `p_block` 0.25, seed 150 | 92.3; seed 400: 91.92, 91.96 | same; and report |
| `H14-0.25`, `H14-0.5` | sMNIST | `c_block` 0.25, 0.5 | best 89.65, unstable | report |
| `H15` | sMNIST | no clipping, no blocking | very unstable | report |
| `H16` | sMNIST | no clipping, `p_block` 0.25 | stable | report |
| `H17` | sMNIST | lr 1e-3, no blocking | passes 90 % near epoch 85, after long stalls | figure |
| `H18` | sMNIST | lr 5e-4, no blocking | 96 % at epoch 165, then collapses to 10 % | figure |
| `H19` | sMNIST | lr 1e-3, `p_block` 0.25 | passes 90 % near epoch 45-50 | figure |
| `H20` | sMNIST | lr 5e-4, `p_block` 0.25 | passes 90 % near epoch 45-50 | figure |

Rows may also be called by what they are: `smnist` is H10, `smnist-p0.25` H11, `pmnist-p0.25` H12.

"README" is the authors' own, "report" the published reproduction report
(reproducibility-challenge/iclr_2019), "figure" one of its figures, read by eye; dido1998 is the
reimplementation dido1998/h-detach. The authors' numbers are the best of about five seeds, chosen on
validation data.

The authors draw the permutation from the run seed, so `H12` reads `seed:150`; give
`--config.data.permutation=seed:<n>` with another seed. The standard LSTM starts without a forget
bias, as in their code; the baseline with one is `H10 --config.model.forget_bias=1`. Blocking of h
is off in the last 39 of 200 epochs.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

# What `probe curves` and `report` draw as a line: row -> metric -> value, and who printed it.
PUBLISHED = {
    "H10": {"accuracy": 0.986, "source": "report, reproducibility-challenge/iclr_2019"},
    "H11": {"accuracy": 0.985, "source": "authors' README, best of about five seeds"},
    "H12": {"accuracy": 0.923, "source": "authors' README, best of about five seeds"},
}

H_DETACH = {"detach.p_block": 0.25, "detach.off_last_epochs": 39}
ROWS = {
    "H10": {"detach.p_block": 0.0},
    "H11": H_DETACH | {"seed": 250},
    "H12": H_DETACH | {"seed": 150, "data.permutation": "seed:150"},
    "H14-0.25": {"detach.c_block": 0.25},
    "H14-0.5": {"detach.c_block": 0.5},
    "H15": {"optim.clip_norm": 0.0},
    "H16": H_DETACH | {"optim.clip_norm": 0.0},
    "H17": {"optim.learning_rate": 1e-3},
    "H18": {"optim.learning_rate": 5e-4},
    "H19": H_DETACH | {"optim.learning_rate": 1e-3},
    "H20": H_DETACH | {"optim.learning_rate": 5e-4},
}
ALIASES = {"smnist": "H10", "smnist-p0.25": "H11", "pmnist-p0.25": "H12"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `H11` or `H11,quick`."""
    c: Any = defaults.get_config()
    c.seed = 400  # the authors' default
    c.data.name = "mnist"
    c.data.valid_split = "last:10000"
    c.data.batch_size = 100
    c.model.cell = "lstm"
    c.model.hidden_size = 100
    c.model.head_hidden = ()
    c.model.forget_bias = 0.0
    c.model.bias_init = "two_uniform"
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 1.0
    c.train.num_epochs = 200.0
    return defaults.finish(c, arg, ROWS, ALIASES)
