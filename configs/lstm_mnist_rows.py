"""A standard LSTM that reads MNIST row by row: 28 steps of 28 pixels, minutes on a laptop.

    python -m lrd_jax.main --config=configs/lstm_mnist_rows.py

Expected: at least 97.5 % test accuracy within 5 epochs.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config; the argument `quick` shrinks it."""
    c: Any = defaults.get_config()
    c.data.name = "mnist"
    c.data.order = "row"
    c.model.cell = "lstm"
    c.train.num_epochs = 5.0
    return defaults.finish(c, arg)
