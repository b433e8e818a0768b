"""Copying and adding with every gate code: the synthetic tasks of the gating paper.

    python -m lrd_jax.main --config=configs/gating_synthetic.py:G1-UR

Paper: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
arXiv:1910.09890. The argument is a row and a gate code, joined by a hyphen; `quick` shrinks it.

| row | task | steps of a sequence | optimizer steps |
|---|---|---|---|
| `G1-<code>` | copying, preset `gu`, delay 480 | 500 | 10 000 |
| `G2-<code>` | adding | 2 000 | 100 000 |

Rows may also be called by what they are: `copying-<code>` and `adding-<code>`. What was measured
stands in `results/copying_gates.json` (`G1`) and `results/adding_gates.json` (500 numbers instead
of 2 000; G2 itself was not run), and in the README's table.

The codes are `--`, `C-`, `O-`, `U-`, `-R`, `OM`, `UM`, `OR` and `UR`, so that the plain LSTM of
this table is `G1---`. All have a tied input gate, 256 units and a linear readout.

Expected: the paper shows curves and no numbers. What a model without memory scores is a loss of
2.0794 (ln 8) on copying and 0.1667 (1/6) on adding. Batch 10, learning rate 1e-3 and clipping
at 1 are those of r0mainK/ur-lstm, a reimplementation, which gives them as the paper's.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

CODES = ("--", "C-", "O-", "U-", "-R", "OM", "UM", "OR", "UR")
TASKS = {
    "G1": {"data.name": "copy", "data.preset": "gu", "data.delay": 480, "train.num_steps": 10_000},
    "G2": {"data.name": "adding", "data.length": 2_000, "train.num_steps": 100_000},
}
ROWS = {
    f"{row}-{code}": values | {"model.gates": code}
    for row, values in TASKS.items()
    for code in CODES
}
ALIASES = {
    f"{task}-{code}": f"{row}-{code}"
    for task, row in (("copying", "G1"), ("adding", "G2"))
    for code in CODES
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `G1-UR` or `G1-UR,quick`."""
    c: Any = defaults.get_config()
    c.data.batch_size = 10
    c.model.cell = "gated_lstm"
    c.model.hidden_size = 256
    c.model.head_hidden = ()
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 1.0
    c.train.eval_every_steps = 500
    c.eval.batch_size = 100
    return defaults.finish(c, arg, ROWS, ALIASES)
