"""A word model of WikiText-2: one LSTM layer, tied embeddings, a vocabulary of 33 278 words.

    python -m lrd_jax.data.prepare wikitext2 --from_dir=DIR       # or a download, by itself
    python -m lrd_jax.main --config=configs/wikitext2.py
    python -m lrd_jax.main --config=configs/wikitext2.py --mode=eval \
        --config.eval.sample_tokens=200 --config.eval.temperature=0.8

Data: Merity et al. (2016), "Pointer Sentinel Mixture Models", arXiv:1609.07843. No paper's row: a
small model for two cores, most of whose time the softmax over all words takes. Its score is the
perplexity over every word and `<eos>` of a split. The training loss jumps by 0.4 at step 3204:
there the second epoch comes to what the first one read at its start (`TextDataset.train_batch`).
What was measured, with a sample of text, stands in `results/wikitext2_word.json` and in the
README's table.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config; the argument `quick` shrinks it."""
    c: Any = defaults.get_config()
    c.data.name = "wikitext2"
    c.data.length = 35
    c.data.batch_size = 32
    c.model.cell = "lstm"
    c.model.hidden_size = 256
    c.model.embedding_size = 128
    c.model.tie_embeddings = True
    c.model.embedding_dropout = 0.2
    c.model.output_dropout = 0.2
    c.optim.learning_rate = 4e-3
    c.optim.schedule = "cosine"
    c.optim.warmup_steps = 200
    c.optim.clip_norm = 1.0
    c.train.num_epochs = 2.0
    c.train.eval_every_steps = 600
    return defaults.finish(c, arg)
