"""Copying, and transfer to longer delays, with h-detach.

    python -m lrd_jax.main --config=configs/hdetach_copying.py:H6
    python -m lrd_jax.main --config=configs/hdetach_copying.py:H9 --mode=eval \
        '--config.eval.delays=(200,400,500,1000,2000,5000)'

Paper: Arpit et al. (2019), "h-detach: Modifying the LSTM Gradient Towards Better Optimization",
arXiv:1810.03023. The argument is a row; `quick` shrinks it.

| row | delay | blocking | expected accuracy on the ten symbols |
|---|---|---|---|
| `H1` | 100 | none | three runs: near 100 %, 96 %, and one that collapses repeatedly |
| `H2` | 100 | `p_block` 0.25 | 100 / 85 / 75 % |
| `H3` | 100 | `p_block` 0.5 | 100 / 100 / 97 % |
| `H4` | 300 | none | about 79 % and 39 % after 200 epochs |
| `H5` | 300 | `p_block` 0.25 | 90 % (290 epochs), 78 %, 50 % (160 epochs) |
| `H6` | 300 | `p_block` 0.5 | 100 % (by about 220 epochs) and 90 % |
| `H7` | 100, then transfer | none | no number that could be checked |
| `H8` | 100, then transfer | `p_block` 0.5 | same |
| `H9` | 100, then transfer | `p_block` 0.25 | same |
| `H13-0.25`, `H13-0.5` | 100 | `c_block` 0.25, 0.5 | below 40 % after 200 epochs |

All expected values are read by eye from figures of the published reproduction report
(reproducibility-challenge/iclr_2019), over its runs. Guessing the symbols scores 12.5 % and, with
blanks elsewhere, a loss of 0.1733 at delay 100 and 0.0650 at delay 300.

Rows may also be called by what they are: `delay100` and `delay300` for H1 and H4, with `-p0.25` or
`-p0.5` for blocking, for instance `delay300-p0.5` for H6. What was measured, with H1 and H3 for 3 %
of their steps, stands in `results/copying_hdetach.json` and in the README's table.

The standard LSTM here starts without a forget bias, as in the authors' code; the baseline with one
is `H1 --config.model.forget_bias=1`. One epoch is 1000 batches of 100, drawn from 100 000 fixed
sequences; blocking is off in the last 39 of 600 epochs, which the authors' code does and the paper
may not mention. They select and report on the same 5 000 sequences; here validation and test
differ.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults


def _h_detach(delay: int, p_block: float) -> dict[str, float]:
    off = 39 if p_block else 0
    return {"data.delay": delay, "detach.p_block": p_block, "detach.off_last_epochs": off}


ROWS = {
    "H1": _h_detach(100, 0.0),
    "H2": _h_detach(100, 0.25),
    "H3": _h_detach(100, 0.5),
    "H4": _h_detach(300, 0.0),
    "H5": _h_detach(300, 0.25),
    "H6": _h_detach(300, 0.5),
    "H7": _h_detach(100, 0.0),
    "H8": _h_detach(100, 0.5),
    "H9": _h_detach(100, 0.25),
    "H13-0.25": {"data.delay": 100, "detach.c_block": 0.25},
    "H13-0.5": {"data.delay": 100, "detach.c_block": 0.5},
}
ALIASES = {
    "delay100": "H1",
    "delay100-p0.25": "H2",
    "delay100-p0.5": "H3",
    "delay300": "H4",
    "delay300-p0.25": "H5",
    "delay300-p0.5": "H6",
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `H6` or `H6,quick`."""
    c: Any = defaults.get_config()
    c.seed = 3  # the authors' default
    c.data.name = "copy"
    c.data.preset = "hdetach"
    c.data.batch_size = 100
    c.data.steps_per_epoch = 1000
    c.model.cell = "lstm"
    c.model.hidden_size = 128
    c.model.head_hidden = ()
    c.model.forget_bias = 0.0
    c.model.bias_init = "two_uniform"
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 1.0
    c.train.num_epochs = 600.0
    return defaults.finish(c, arg, ROWS, ALIASES)
