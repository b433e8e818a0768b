"""State tracking: trained on short sequences, tested on ones up to 32 times as long.

    python -m lrd_jax.main --config=configs/state_tracking.py:S3 --workdir=RUN
    python -m lrd_jax.main --mode=eval --workdir=RUN \
        '--config.eval.lengths=(32,64,128,256,512,1024)'

The argument is a row, a problem; `quick` shrinks it. The cell is `model.cell`.

| row | what is followed | symbols | states |
|---|---|---|---|
| `parity` | the parity of the ones | 2 | 2 |
| `cycle5` | the place on a ring of five; steps stay, go on or back | 3 | 5 |
| `flipflop` | the bit last written, in one of five steps | 3 | 2 |
| `S3` | the product of permutations of three points | 6 | 6 |
| `A5` | of even permutations of five points | 60 | 60 |
| `S5` | of permutations of five points | 120 | 120 |

Symbols are drawn afresh, 32 steps of them; a label at every step; 64 units behind a linear
embedding of 64. A curriculum (a function of the step alone) begins with short sequences. Papers:
Merrill, Petty and Sabharwal (2024), arXiv:2404.08819 (a linear recurrence whose transition is
diagonal cannot follow S5); Delétang et al. (2023), arXiv:2207.02098.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

_SMALL = {
    "data.curriculum": ((300, 4), (300, 8), (400, 16)),
    "train.num_steps": 3000,
}
_LARGE = {
    "data.curriculum": ((1000, 2), (1000, 4), (1000, 8), (1000, 16)),
    "train.num_steps": 8000,
}
ROWS = {
    problem: {"data.problem": problem} | (_LARGE if problem in ("A5", "S5") else _SMALL)
    for problem in ("parity", "cycle5", "flipflop", "S3", "A5", "S5")
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `S3` or `S3,quick`."""
    c: Any = defaults.get_config()
    c.data.name = "tracking"
    c.data.length = 32
    c.data.batch_size = 128
    c.model.cell = "lstm"
    c.model.hidden_size = 64
    c.model.embedding_size = 64
    c.model.head_hidden = ()
    c.optim.learning_rate = 3e-3
    c.optim.schedule = "cosine"
    c.train.eval_every_steps = 500
    c.train.log_every_steps = 100
    c.eval.batch_size = 100
    return defaults.finish(c, arg, ROWS)
