"""UR-LSTM on permuted pixel-wise MNIST, at a size that a laptop or one GPU runs.

    python -m lrd_jax.main --config=configs/urlstm_pmnist.py

Paper: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
arXiv:1910.09890. Its own row has 1024 units and 150 epochs (96.96 % test accuracy as printed in
later papers); this one has 128 units and 30 epochs.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config; the argument `quick` shrinks it."""
    c: Any = defaults.get_config()
    c.data.name = "mnist"
    c.data.permutation = "92916"
    c.data.valid_split = "last:10000"
    c.data.batch_size = 64
    c.model.cell = "urlstm"
    c.model.hidden_size = 128
    c.model.head_hidden = (256,)
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 1.0
    c.train.num_epochs = 30.0
    return defaults.finish(c, arg)
