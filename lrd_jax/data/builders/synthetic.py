"""The fixed examples of the synthetic tasks, and the random draws behind all of their examples.

What is drawn is stored, not the sequence that is made of it: ten symbols stand for a sequence of
any delay.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lrd_jax.data.builders.base import Builder
from lrd_jax.errors import UserError

Records = dict[str, np.ndarray]
"""What was drawn, each array with a leading axis of examples."""

NUM_SYMBOLS = 10
"""Symbols to remember in the copying task."""
ALPHABET = 8
"""The symbols are 1 .. 8."""

# The streams of random numbers, told apart by their first word; no two of them overlap.
_STREAMS = {"batch": 0, "train": 1, "validation": 2, "test": 3}


def stream(name: str, seed: int = 0, step: int = 0) -> np.random.Generator:
    """Returns a generator of its own for every value of the arguments.

    Args:
        name: "batch" for what a training step draws, else the split of fixed examples.
        seed: of the run, not negative; fixed examples are those of seed 0 in every run.
        step: number of the training batch.
    """
    seeds = np.random.SeedSequence(seed, spawn_key=(_STREAMS[name], step))
    return np.random.Generator(np.random.Philox(seeds))


def draw_symbols(rng: np.random.Generator, count: int) -> Records:
    """Draws the symbols to copy: `symbols` (count, 10) uint8, i.i.d. uniform over 1 .. 8."""
    return {"symbols": rng.integers(1, ALPHABET + 1, (count, NUM_SYMBOLS), np.uint8)}


def draw_terms(rng: np.random.Generator, count: int, length: int) -> Records:
    """Draws the terms of the adding task.

    Returns:
        `values` (count, length) float32, uniform over [0, 1), and `markers` (count, 2) int32: one
        position uniform over the first half, floor(length / 2) steps, one over the rest.
    """
    half = length // 2
    first, second = rng.integers(0, half, count), rng.integers(half, length, count)
    return {
        "values": rng.random((count, length), np.float32),
        "markers": np.stack([first, second], axis=1).astype(np.int32),
    }


class _SyntheticBuilder(Builder):
    """Writes what `draw` gives for each split of a variant."""

    @classmethod
    @functools.cache  # TFDS wants the same object every time
    def get_builder_config(cls, name: str, version: Any = None) -> tfds.core.BuilderConfig:
        """Returns the TFDS config of a variant; it has no other content than its name."""
        del version
        return tfds.core.BuilderConfig(name=name)

    @property
    def _variant(self) -> str:
        assert self.builder_config is not None
        return self.builder_config.name

    @classmethod
    def draw(cls, variant: str, rng: np.random.Generator, count: int) -> Records:
        """Draws examples of the data set called `<name>/<variant>`."""
        raise NotImplementedError

    @classmethod
    def splits(cls, variant: str) -> Mapping[str, int]:
        """Returns the number of fixed examples by split."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        example = self.draw(self._variant, np.random.default_rng(0), 1)
        features = {
            name: tfds.features.Tensor(shape=array.shape[1:], dtype=array.dtype)
            for name, array in example.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        sizes = self.splits(self._variant)
        return {split: self._generate_examples(split, size) for split, size in sizes.items()}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, Records]]:
        records = self.draw(self._variant, stream(split), count)
        for number in range(count):
            yield number, {name: array[number] for name, array in records.items()}


class LrdCopy(_SyntheticBuilder):
    """The symbols of the copying task; they serve every delay."""

    PRESETS: ClassVar[dict[str, dict[str, int]]] = {
        # 100 000 fixed training sequences, in the code of Arpit et al. (2019), arXiv:1810.03023.
        "hdetach": {"train": 100_000, "validation": 5_000, "test": 5_000},
        "gu": {"validation": 5_000, "test": 5_000},
        "marker": {"validation": 5_000, "test": 5_000},
    }
    """Fixed examples by preset and split; a preset without training examples streams them."""

    @classmethod
    def check_variant(cls, name: str) -> None:
        """Raises UserError unless `name` is a preset."""
        if name not in cls.PRESETS:
            raise UserError(
                f"data.preset={name!r}: name one of {', '.join(cls.PRESETS)} "
                "(published definitions of the copying task differ)"
            )

    @classmethod
    def splits(cls, variant: str) -> Mapping[str, int]:
        """Returns the number of fixed examples by split."""
        return cls.PRESETS[variant]

    @classmethod
    def draw(cls, variant: str, rng: np.random.Generator, count: int) -> Records:
        """See `draw_symbols`."""
        return draw_symbols(rng, count)


class LrdAdding(_SyntheticBuilder):
    """The values and markers of the adding task, one variant for each length."""

    NUM_FIXED: ClassVar[int] = 1_000
    """Validation examples, and as many test examples: 8 MB at 2 000 steps."""

    @classmethod
    def check_variant(cls, name: str) -> None:
        """Raises UserError unless `name` is a length of at least 2, in decimal."""
        if not name.isdecimal() or int(name) < 2:
            raise UserError(f"data.length={name or 0}: the adding task needs at least 2 steps")

    @classmethod
    def splits(cls, variant: str) -> Mapping[str, int]:
        """Returns the number of fixed examples by split."""
        return {"validation": cls.NUM_FIXED, "test": cls.NUM_FIXED}

    @classmethod
    def draw(cls, variant: str, rng: np.random.Generator, count: int) -> Records:
        """See `draw_terms`."""
        return draw_terms(rng, count, int(variant))
