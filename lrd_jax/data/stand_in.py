"""Data sets without their data: right in every shape and type, for compiling a run beforehand."""

from typing import Any

import numpy as np

from lrd_jax.data import dataset_names, make_dataset, unknown_name
from lrd_jax.data.pipeline import SPLITS, ArrayDataset
from lrd_jax.data.spec import Dataset

_EXAMPLES = 50_000  # of each split; says when an epoch ends, which shapes no program
# Sizes of the published vocabularies, `<eos>` and `<unk>` included: Merity et al. (2017),
# arXiv:1609.07843, table 1.
_WORDS = {"wikitext2": 33_278, "wikitext103": 267_735}
_TOKENS = 1_000_000


def make_stand_in(config: Any) -> Dataset:
    """Builds what stands in for the data set of a config; nothing is downloaded or prepared.

    Images are black, words all the same, the copying and the adding task really drawn. A text of
    one's own (`data.name=text`) is the only thing that is read: it alone says how many symbols
    there are.

    Args:
      config: the run's config.

    Raises:
      UserError: a value that the data set itself would refuse.
    """
    data = config.data
    if data.name not in dataset_names():
        raise unknown_name("data.name", data.name, dataset_names())
    if data.name in ("copy", "adding"):
        from lrd_jax.data.synthetic import SyntheticDataset, make_task

        return SyntheticDataset(make_task(data), {}, data.batch_size, data.steps_per_epoch)
    if data.name in _WORDS:
        from lrd_jax.data.text import TextDataset
        from lrd_jax.data.vocabulary import Vocabulary

        vocabulary = Vocabulary("word", tuple(map(str, range(_WORDS[data.name]))))
        texts = {split: _zeros((_TOKENS,), np.int32) for split in SPLITS}
        return TextDataset(vocabulary, texts, data.length, data.batch_size, "a stand-in")
    if data.name == "text":
        return make_dataset(config)
    from lrd_jax.data.images import image_spec

    spec = image_spec(data)
    examples = (
        _zeros((_EXAMPLES, spec.length, spec.features), np.uint8),
        _zeros((_EXAMPLES,), np.int32),
    )
    return ArrayDataset(spec, dict.fromkeys(SPLITS, examples), data.batch_size, "a stand-in")


def _zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that take no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
