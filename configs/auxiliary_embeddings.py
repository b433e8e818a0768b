"""Permuted MNIST with auxiliary losses and embedded pixels: the table of a public attempt.

    python -m lrd_jax.main --config=configs/auxiliary_embeddings.py:A28

Code: rnn-auxiliary-loss, a reimplementation of Trinh et al. (2018), arXiv:1803.00144, whose 95.2 %
on this task it does not reach. The argument is a row; `quick` shrinks it.
Rows may also be called by what they are: `lstm`, `lstm-truncated`, `r-truncated` or `r`, a hyphen,
and `linear`, `shared` or `decoder`, for instance `r-linear` for `A28`.

| model | truncation | `none` | `full` | `decoder` |
|---|---|---|---|---|
| LSTM | none | `A19` 90.95 | `A20` 84.06 | `A21` 87.59 |
| LSTM | 300 steps | `A22` 90.26 | `A23` 84.1 | `A24` 87.3 |
| r-LSTM | 300 steps | `A25` 90.37 | `A26` 87.43 | `A27` 88.63 |
| r-LSTM | none | `A28` 91.29 | `A29` 88.56 | `A30` 88.35 |

Expected test accuracy in percent, as that code's README gives it. Pixels enter through a linear
layer (`none`); through one table of 256 vectors that network and decoder share (`full`, here
`model.embedding=table`); or through a table in the decoder alone (`decoder`, here
`aux.embedding=decoder`). A plain LSTM has no decoder, so `A21` is the same model as `A19` here, and
`A24` as `A22`; the 3 points between them in the table are that code's own spread.

Its recipe: one decoder layer, heads with one hidden layer, cross-entropy over the 256 pixel values,
RMSProp 1e-3, no clipping, 50 + 250 epochs, the rate falling by half in pre-training and then halved
every 75 epochs; the auxiliary loss in effect counts twice where it is truncated. Its mistakes are
not reproduced (one anchor for the whole run, 255 pixel values, a table that is updated twice a
step, an output bias that is not trained, no ReLU in the heads, dropped test images), and where it
takes an optimizer step for each part of a segment in pre-training, there is one here.
"""

from pathlib import Path
from typing import Any

import ml_collections

from lrd_jax.config import command_line, defaults

images = command_line.load_module(Path(__file__).with_name("auxiliary_images.py"))

CROSS_ENTROPY = images.RECONSTRUCT | {"aux.loss": "ce"}
MODELS = (
    images.PLAIN,
    images.PLAIN | images.TRUNCATED,
    CROSS_ENTROPY | images.TRUNCATED | {"aux.weight": 2.0},
    CROSS_ENTROPY,
)
EMBEDDINGS = ({}, {"model.embedding": "table"}, {"aux.embedding": "decoder"})
ROWS = {
    f"A{19 + 3 * model + column}": values | embedding
    for model, values in enumerate(MODELS)
    for column, embedding in enumerate(EMBEDDINGS)
}
ALIASES = {
    f"{model}-{embedding}": f"A{19 + 3 * row + column}"
    for row, model in enumerate(("lstm", "lstm-truncated", "r-truncated", "r"))
    for column, embedding in enumerate(("linear", "shared", "decoder"))
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `A28` or `A28,quick`."""
    c: Any = images.get_config("A14")
    c.seed = 1111  # the code's own
    c.model.head_hidden = (256,)
    c.aux.kind = "none"
    c.aux.decoder_layers = 1
    c.aux.head_hidden = (256,)
    return defaults.finish(c, arg, ROWS, ALIASES)
