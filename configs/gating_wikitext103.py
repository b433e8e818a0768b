"""WikiText-103 with 3072 units: the language table of the gating paper.

    python -m lrd_jax.data.prepare wikitext103 --from_dir=DIR     # or a download, by itself
    python -m lrd_jax.main --config=configs/gating_wikitext103.py:G13-UR

Paper: Gu et al. (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
arXiv:1910.09890. The argument is the row `G13` and a gate code, joined by a hyphen: `G13-UR`, and
`G13---` for the plain cell; both have a tied input gate. `quick` shrinks it.

Expected: no number of the paper was seen; each row is compared with the other. Nothing was measured
here: it needs a GPU.

128 streams in windows of 128 tokens, 100 epochs, learning rate 1e-3, embedding dropout 0.3, and a
linear layer 3072 -> 1024 before an output that is tied to the embedding and has no bias, are those
of r0mainK/ur-lstm, a reimplementation, which gives them as the paper's; the width 1024 of the
embedding is uncertain. Unlike there the embedding is one parameter and not two, the state is
carried from window to window, and clipping covers all parameters.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

CODES = ("--", "UR")
ROWS = {f"G13-{code}": {"model.gates": code} for code in CODES}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `G13-UR` or `G13-UR,quick`."""
    c: Any = defaults.get_config()
    c.data.name = "wikitext103"
    c.data.length = 128
    c.data.batch_size = 128
    c.model.cell = "gated_lstm"
    c.model.hidden_size = 3072
    c.model.embedding_size = 1024
    c.model.tie_embeddings = True
    c.model.embedding_dropout = 0.3
    c.optim.learning_rate = 1e-3
    c.optim.clip_norm = 1.0
    c.train.num_epochs = 100.0
    return defaults.finish(c, arg, ROWS)
