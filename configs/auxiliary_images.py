"""Sequential images with auxiliary losses: Table 2 of the auxiliary-loss paper.

    python -m lrd_jax.main --config=configs/auxiliary_images.py:A14

Paper: Trinh et al. (2018), "Learning Longer-term Dependencies in RNNs with Auxiliary Losses",
arXiv:1803.00144. The argument is a row; `quick` shrinks it.

| model | truncation | sMNIST | pMNIST | sCIFAR |
|---|---|---|---|---|
| LSTM | none | `A1` 98.3 | `A2` 89.4 | `A3` 58.8 |
| LSTM | 300 steps | `A4` 11.3 | `A5` 88.8 | `A6` 49.0 |
| r-LSTM | 300 steps | `A7` 96.4 | `A8` 92.8 | `A9` 65.9 |
| p-LSTM | 300 steps | `A10` 95.4 | `A11` 92.5 | `A12` 64.7 |
| r-LSTM | none | `A13` 98.4 | `A14` 95.2 | `A15` 72.2 |
| p-LSTM | none | `A16` 98.0 | `A17` 92.8 | `A18` 67.6 |

Expected test accuracy in percent, read from the paper's table, which gives no spread over runs.
Rows may also be called by what they are: `lstm`, `r` or `p`, with `-truncated` where gradients are,
and the task, for instance `r-pmnist` for `A14` and `lstm-truncated-scifar` for `A6`.
`A31` is `A15` without any gradient of the labels in the LSTM: about 40 %, by a public summary.

The first 50 of the 300 epochs of r-LSTM and p-LSTM minimise the auxiliary loss alone; the plain
LSTM has the 250 others. Linear layer to 128, LSTM of 128 units, head 256, 256, classes; decoder of
two layers of 128 with a head of its own; squared error on pixels in [0, 1]. RMSProp, 1e-3 halved
every 75 epochs, batch 128 and DropConnect 0.5 are those of a reimplementation
(rnn-auxiliary-loss); what the paper used is not known. Validation (the first 6 000 of MNIST, as
there, the last 5 000 of CIFAR-10) and the permutation are choices of this project.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

SMNIST = {"data.name": "mnist", "data.valid_split": "first:6000"}
DATA = {
    "sMNIST": SMNIST,
    "pMNIST": SMNIST | {"data.permutation": "92916"},
    "sCIFAR": {"data.name": "cifar10", "data.valid_split": "last:5000"},
}
PLAIN = {"train.num_epochs": 250.0, "aux.pretrain_epochs": 0.0}
RECONSTRUCT, PREDICT = {"aux.kind": "reconstruct"}, {"aux.kind": "predict"}
TRUNCATED = {"truncate.steps": 300}
MODELS = (
    PLAIN,
    PLAIN | TRUNCATED,
    RECONSTRUCT | TRUNCATED,
    PREDICT | TRUNCATED,
    RECONSTRUCT,
    PREDICT,
)
ROWS: dict[str, dict[str, Any]] = {
    f"A{1 + 3 * model + task}": values | data
    for model, values in enumerate(MODELS)
    for task, data in enumerate(DATA.values())
}
ALIASES = {
    f"{model}-{task.lower()}": f"A{1 + 3 * row + column}"
    for row, model in enumerate(("lstm", "lstm-truncated", "r-truncated", "p-truncated", "r", "p"))
    for column, task in enumerate(DATA)
}
ROWS["A31"] = ROWS["A15"] | {"truncate.supervised": "stop"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `A14` or `A14,quick`."""
    c: Any = defaults.get_config()
    c.data.batch_size = 128
    c.model.cell = "lstm"
    c.model.hidden_size = 128
    c.model.embedding_size = 128
    c.model.head_hidden = (256, 256)
    c.model.head_dropconnect = 0.5
    c.aux.segment_length = 600
    c.aux.pretrain_epochs = 50.0
    c.optim.name = "rmsprop"
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 0.0
    c.optim.schedule = "step"
    c.optim.decay_every_epochs = 75
    c.optim.pretrain_decay = 0.5
    c.train.num_epochs = 300.0
    return defaults.finish(c, arg, ROWS, ALIASES)
