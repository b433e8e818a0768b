"""UR-LSTM on permuted 8x8 digits that come with scikit-learn: a first run without a download.

    python -m lrd_jax.main --config=configs/urlstm_pdigits.py

1797 real images of handwritten digits, 64 steps of one pixel, 1297 / 250 / 250 of them to train,
validate and test. Expected: about 94 % test accuracy (mean of ten seeds, deviation 1.5, see
`results/digits_urlstm.json`). AdamW, Xavier start and zoneout were chosen on validation data alone.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config; the argument `quick` shrinks it."""
    c: Any = defaults.get_config()
    c.data.name = "digits"
    c.data.permutation = "92916"
    c.data.batch_size = 50
    c.model.cell = "urlstm"
    c.model.kernel_init = "xavier"
    c.model.zoneout_h = 0.1
    c.optim.name = "adamw"
    c.optim.weight_decay = 0.3
    c.optim.learning_rate = 3e-3
    c.optim.schedule = "cosine"
    c.train.num_epochs = 80.0
    return defaults.finish(c, arg)
