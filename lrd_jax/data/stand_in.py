"""Data sets without their data, for compiling or timing a run: right in every shape and type."""

from typing import Any

import numpy as np

from lrd_jax.data import is_fitted, make_dataset
from lrd_jax.data.pipeline import SPLITS, ArrayDataset
from lrd_jax.data.registry import call, make_task
from lrd_jax.data.spec import Dataset
from lrd_jax.errors import UserError

_EXAMPLES = 50_000  # of each split; says when an epoch ends, which shapes no program
# Sizes of the published vocabularies, `<eos>` and `<unk>` included: Merity et al. (2017),
# arXiv:1609.07843, table 1.
_WORDS = {"wikitext2": 33_278, "wikitext103": 267_735}
_TOKENS = 1_000_000


def make_stand_in(config: Any) -> Dataset:
    """Builds what stands in for the data set of a config; nothing is downloaded or prepared.

    Images and words are noise, the copying and the adding task really drawn. A text of one's own
    (`data.name=text`) is the only thing that is read: it alone says how many symbols there are.

    Args:
      config: the run's config.

    Raises:
      UserError: a value that the data set itself would refuse.
    """
    data = config.data
    if is_fitted(data.name):
        raise UserError(f"data.name={data.name}: only the files themselves tell the sizes")
    rng = np.random.default_rng(0)
    if task := make_task(data):
        from lrd_jax.data.synthetic import SyntheticDataset

        return SyntheticDataset(task, {}, data.batch_size, data.steps_per_epoch)
    if data.name in _WORDS:
        from lrd_jax.data.text import TextDataset
        from lrd_jax.data.vocabulary import Vocabulary

        words = _WORDS[data.name]
        vocabulary = Vocabulary("word", tuple(map(str, range(words))))
        text = rng.integers(0, words, _TOKENS, np.int32)
        texts = {split: text for split in SPLITS}
        return TextDataset(vocabulary, texts, data.length, data.batch_size, "noise")
    if data.name == "text":
        return make_dataset(config)
    from lrd_jax.data.images import image_spec

    spec = call(image_spec, data)
    pixels = spec.length * spec.features
    stream = rng.integers(0, spec.values, _EXAMPLES + pixels - 1, np.uint8)
    # Each example is a window of the stream, so that all of them take no more memory than it.
    images = np.lib.stride_tricks.sliding_window_view(stream, pixels)
    labels = rng.integers(0, spec.classes, _EXAMPLES, np.int32)
    examples = images.reshape(_EXAMPLES, spec.length, spec.features), labels
    splits = {split: examples for split in SPLITS}
    return ArrayDataset(spec, splits, data.batch_size, "noise")
