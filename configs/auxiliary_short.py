"""Permuted MNIST, four pixels a step, with auxiliary losses: a size that a laptop can compare.

    python -m lrd_jax.main --config=configs/auxiliary_short.py:r-truncated

Methods of Trinh et al. (2018), "Learning Longer-term Dependencies in RNNs with Auxiliary Losses",
arXiv:1803.00144, on 196 steps of four pixels: segments of 150 steps, truncation after 75. The
argument is a row; `quick` shrinks it.

| row | model |
|---|---|
| `lstm` | LSTM |
| `lstm-truncated` | the gradient of the labels reaches back 75 steps |
| `r-truncated` | r-LSTM, both gradients reach back 75 steps |
| `p-truncated` | p-LSTM, the same |
| `r-stop` | r-LSTM, and the labels train the head alone |

The setting is this project's, so there is no published number. What was measured stands in
`results/auxiliary_short.json` and in the README's table: one seed, which cannot tell the first four
rows apart with confidence.

Network and optimizer are those of `auxiliary_images.py`, but that the rate falls as a cosine; every
row has 5 epochs, of which r-LSTM and p-LSTM spend the first half epoch on the auxiliary loss.
"""

from pathlib import Path
from typing import Any

import ml_collections

from lrd_jax.config import command_line, defaults

images = command_line.load_module(Path(__file__).with_name("auxiliary_images.py"))

TRUNCATED = {"truncate.steps": 75}
ROWS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "lstm-truncated": TRUNCATED,
    "r-truncated": images.RECONSTRUCT | TRUNCATED,
    "p-truncated": images.PREDICT | TRUNCATED,
    "r-stop": images.RECONSTRUCT | TRUNCATED | {"truncate.supervised": "stop"},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `r-truncated` or `r-truncated,quick`."""
    c: Any = images.get_config("A2")
    c.data.pixels_per_step = 4
    c.aux.segment_length = 150
    c.aux.pretrain_epochs = 0.5
    c.optim.schedule = "cosine"
    c.optim.decay_every_epochs = 0
    c.train.num_epochs = 5.0
    return defaults.finish(c, arg, ROWS)
