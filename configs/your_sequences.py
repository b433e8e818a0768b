"""Sequences of your own: a bidirectional LSTM that reads each whole; see docs/your_data.md.

    python -m lrd_jax.main --config=configs/your_sequences.py --config.data.path=DIR

Without a row it is a start for any data. A row has the settings for one set of the UCR/UEA archive
(Dau et al. 2019, arXiv:1810.07758; Bagnall et al. 2018, arXiv:1811.00075); `data.path` is then
where its `.ts` files lie, and what they begin with: DIR/JapaneseVowels.
"""

from typing import Any

from lrd_jax.config import defaults

ROWS: dict[str, dict[str, Any]] = {
    "own": {},
    "japanese_vowels": {},
    "basic_motions": {},
    "arrow_head": {},
    "gun_point": {},
    "italy_power_demand": {},
}


def get_config(arg: str = "") -> Any:
    """Returns the config; see the top of the file."""
    c: Any = defaults.get_config()
    c.data.name = "sequences"
    c.data.valid_split = "0.2"
    c.data.scale = "standard"
    c.data.batch_size = 16

    c.model.cell = "lstm"
    c.model.hidden_size = 64
    c.model.bidirectional = True
    c.model.pool = "mean"
    c.model.head_hidden = ()
    c.model.output_dropout = 0.5
    c.model.input_noise = 0.1

    c.optim.name = "adam"
    c.optim.learning_rate = 2e-3
    c.train.num_epochs = 60.0
    c.train.log_every_steps = 50
    return defaults.finish(c, arg or "own", ROWS)
