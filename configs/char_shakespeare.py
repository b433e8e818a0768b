"""A character model of Shakespeare's plays: two LSTM layers of 256 units, minutes on a laptop.

    python -m lrd_jax.main --config=configs/char_shakespeare.py --config.data.text_dir=DIR
    python -m lrd_jax.main --config=configs/char_shakespeare.py --mode=eval \
        --config.eval.sample_tokens=500 --config.eval.temperature=0.8 --config.eval.prompt=ROMEO:

DIR holds the text, one file of 1 115 394 characters known as tinyshakespeare (it comes with
karpathy/char-rnn); any other text will do. The first nine tenths train, the rest validates.

Expected: at most 1.50 nats per character (2.16 bits) on the validation text, in 10 epochs of 491
steps; there is no test text, so that is the test score too.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

PUBLISHED = {
    "": {
        "loss": 1.4697,
        "source": "best validation loss of nanoGPT (its README), a Transformer of 10.6 million"
        " parameters, in windows of 256",
    }
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config; the argument `quick` shrinks it."""
    c: Any = defaults.get_config()
    c.data.name = "text"
    c.data.unit = "char"
    c.data.length = 64
    c.data.batch_size = 32
    c.model.cell = "lstm"
    c.model.hidden_size = 256
    c.model.num_layers = 2
    c.model.embedding_size = 64
    c.model.dropout = 0.2
    c.model.output_dropout = 0.2
    c.optim.learning_rate = 4e-3
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.optim.clip_norm = 1.0
    c.train.num_epochs = 10.0
    return defaults.finish(c, arg)
