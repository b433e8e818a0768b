"""The runs behind `docs/vanishing_gradients.md`: minutes each on two cores, no download.

    python -m lrd_jax.main --config=configs/lesson.py:digits-urlstm

| row | what |
|---|---|
| `flow-rnn`, `flow-lstm`, `flow-gru`, `flow-urlstm` | adding over 784 steps, untrained |
| `digits-lstm`, `digits-urlstm` | permuted 8x8 digits, 64 steps, with snapshots of the gates |
| `copy-lstm`, `copy-detach`, `copy-urlstm` | ten symbols over a delay of 60 steps |
| `rows` | the digits row by row, 8 steps: the first exercise |

Expected: what the lesson shows; it names the command behind each figure.
"""

import ml_collections

from lrd_jax.config import defaults

_FLOW = {"data.name": "adding", "data.length": 784, "model.head_hidden": ()}
_DIGITS = {
    "data.name": "digits",
    "data.permutation": "92916",
    "data.batch_size": 50,
    "model.hidden_size": 64,
    "model.head_hidden": (),
    "optim.learning_rate": 3e-3,
    "optim.schedule": "cosine",
    "train.num_epochs": 60.0,
    "train.inspect_every_steps": 130,
    "num_seeds": 3,
}
_COPY = {
    "data.name": "copy",
    "data.preset": "gu",
    "data.delay": 60,
    "data.batch_size": 32,
    "model.hidden_size": 64,
    "model.head_hidden": (),
    "optim.learning_rate": 3e-3,
    "train.num_steps": 3000,
    "train.eval_every_steps": 500,
    "train.inspect_every_steps": 500,
    "eval.batch_size": 500,
    "num_seeds": 3,
}
ROWS = {
    **{f"flow-{cell}": _FLOW | {"model.cell": cell} for cell in ("rnn", "lstm", "gru", "urlstm")},
    **{f"digits-{cell}": _DIGITS | {"model.cell": cell} for cell in ("lstm", "urlstm")},
    **{f"copy-{cell}": _COPY | {"model.cell": cell} for cell in ("lstm", "urlstm")},
    "copy-detach": _COPY | {"model.cell": "lstm", "detach.p_block": 0.25},
    "rows": {
        **_DIGITS,
        "data.permutation": "none",
        "data.order": "row",
        "train.num_epochs": 30.0,
        "train.inspect_every_steps": 0,
    },
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `digits-lstm` or `digits-lstm,quick`."""
    return defaults.finish(defaults.get_config(), arg, ROWS)
