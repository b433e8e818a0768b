"""COCO captions with h-detach: the rows of the paper, H21 and H22, and both without h-detach.

    python -m lrd_jax.data.prepare coco --from_dir=DIR --encoder=torchvision:resnet152
    python -m lrd_jax.main --config=configs/hdetach_captioning.py:H22

Paper: Arpit et al. (2019), "h-detach", arXiv:1810.03023, section 4.3; all values from the authors'
code, branch `captioning`. The argument is a row; `-none` after it leaves h-detach out; `quick`
shrinks it.

| row | model | p_block | published test CIDEr |
|---|---|---|---|
| `H21` | Show & Tell | 0.25 | 98.0 |
| `H22` | Show, Attend & Tell | 0.4 | 103.3 |
| `H21-none`, `H22-none` | the same | 0 | |

(CIDEr times 100, as papers print it; here it is 0.98 and 1.033.) Frozen ResNet-152 features, 10
pictures with 5 captions each a step, 30 epochs of 113 287 training pictures (340 000 steps), no
bias in the cell, words that occur more than five times in all splits. Evaluation is greedy in
training and by a beam of two in `--mode=eval`.

Not run here, for want of COCO's pictures and of torchvision's weights; see docs/captioning.md. Two
differences from the authors: a caption that ended takes no place in the beam; the mean is over the
words of the whole batch on any number of devices.
"""

from typing import Any

import ml_collections

from lrd_jax.config import defaults

_PUBLISHED = {
    "H21": {"model.caption": "show_tell", "detach.p_block": 0.25},
    "H22": {"model.caption": "show_attend_tell", "detach.p_block": 0.4},
}
ROWS = _PUBLISHED | {
    f"{name}-none": {**row, "detach.p_block": 0.0} for name, row in _PUBLISHED.items()
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a row, e.g. `H21` or `H22-none,quick`."""
    c: Any = defaults.get_config()
    c.data.name = "coco"
    c.data.encoder = "torchvision:resnet152"
    c.data.batch_size = 10
    c.data.vocabulary_from = "all"
    c.model.hidden_size = 512
    c.model.embedding_size = 512
    c.model.attention_size = 512
    c.model.output_dropout = 0.5
    c.model.use_bias = False
    c.model.forget_bias = 0.0
    c.optim.learning_rate = 1e-4
    c.optim.clip_value = 0.1
    c.optim.clip_norm = 0.0
    c.train.num_epochs = 30.0
    c.train.eval_every_steps = 6000
    c.eval.batch_size = 50
    return defaults.finish(c, arg, ROWS)
