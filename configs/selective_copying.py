"""Selective copying: symbols scattered among blanks, to be written in their order at the end.

    python -m lrd_jax.main --config=configs/selective_copying.py:256

The argument is a row, the steps before the recall (of 16 symbols of 16); `quick` shrinks it. The
paper (Gu and Dao 2023, arXiv:2312.00752, section 4.1.1) has 4096 steps, 64 units in two layers and
400 000 steps of training; there a gate that depends on the input decides. Guessing scores 6.25 %.
`--mode=eval '--config.eval.lengths=(272,528)'` tests a trained model at other lengths.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

ROWS = {
    "256": {"data.length": 256 + 16, "train.num_steps": 20_000},
    "4096": {"data.length": 4096 + 16, "train.num_steps": 400_000},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `256` or `256,quick`."""
    c: Any = defaults.get_config()
    c.data.name = "selective_copy"
    c.data.vocabulary = 16
    c.model.cell = "lstm"
    c.model.hidden_size = 64
    c.model.embedding_size = 64
    c.model.num_layers = 2
    c.model.head_hidden = ()
    c.train.eval_every_steps = 1000
    c.eval.batch_size = 100
    return defaults.finish(c, arg, ROWS)
