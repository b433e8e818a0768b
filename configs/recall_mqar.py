"""Multi-query associative recall (MQAR): how much a state can hold.

    python -m lrd_jax.main --config=configs/recall_mqar.py:64-4

Paper: Arora et al. (2023), "Zoology: Measuring and Improving Recall in Efficient Language Models",
arXiv:2312.04927. The argument is a row, steps and pairs joined by a hyphen; `quick` shrinks it.

| row | steps of a sequence | pairs | examples a step |
|---|---|---|---|
| `64-4` | 64 | 4 | 512 |
| `128-8` | 128 | 8 | 512 |
| `256-16` | 256 | 16 | 256 |

8 192 symbols, embedded by a table as wide as the state, and queries that mostly come soon, as in
the configuration of the paper's Figure 2 in its code: 100 000 examples, 64 epochs, the best of the
learning rates 1e-4, 4.6e-4, 2.2e-3 and 1e-2 for each width (64, 128, 256, 512); here examples are
drawn afresh, the same number in all.

Expected: the paper compares convolutions, attention and linear recurrences, whose accuracy falls
once the state is too small for the pairs; it has no LSTM. Guessing any value scores a loss of
8.3178 (ln 4096) and an accuracy of 0.02 %.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

_EXAMPLES = 64 * 100_000  # of all training together, as in the paper's code
ROWS = {
    f"{length}-{pairs}": {
        "data.length": length,
        "data.pairs": pairs,
        "data.batch_size": batch_size,
        "train.num_steps": _EXAMPLES // batch_size,
    }
    for length, pairs, batch_size in ((64, 4, 512), (128, 8, 512), (256, 16, 256))
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `64-4` or `64-4,quick`."""
    c: Any = defaults.get_config()
    c.data.name = "recall"
    c.data.vocabulary = 8192
    c.data.query_power = 0.01
    c.model.cell = "urlstm"
    c.model.hidden_size = 128
    c.model.embedding_size = 128
    c.model.embedding = "table"  # a table, of the main network alone
    c.model.head_hidden = ()
    c.optim.learning_rate = 1e-3
    c.train.eval_every_steps = 1000
    c.eval.batch_size = 100
    return defaults.finish(c, arg, ROWS)
