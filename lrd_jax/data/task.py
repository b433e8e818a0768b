"""What a task made of random draws is: `Task`, and the streams of random numbers behind it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from lrd_jax.data.spec import DataSpec

Records = dict[str, np.ndarray]
"""What was drawn, each array with a leading axis of examples."""

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


class Task(abc.ABC):
    """Turns a few random draws into long sequences; a frozen dataclass.

    Its fields are its options, called like the keys of `config.data`. What is drawn is stored, not
    the sequence that is made of it: ten symbols stand for a sequence of any delay. A file with such
    a class and a line in `lrd_jax.data.registry` make a data set.
    """

    STORED: ClassVar[str]
    """What lies on disk, for people."""
    VARIES: ClassVar[str] = ""
    """The option, `delay` or `length`, at whose values in `eval.delays` or `eval.lengths` a trained
    model is tested; empty: none. Values of one variant are asked for the same draws."""

    @property
    @abc.abstractmethod
    def variant(self) -> str:
        """Names what is stored: options that change the draws, as a name of a folder."""

    @classmethod
    @abc.abstractmethod
    def of_variant(cls, variant: str) -> Task:
        """Returns a task with these draws, whatever its other options.

        Raises:
            UserError: there is no such variant.
        """

    @property
    @abc.abstractmethod
    def splits(self) -> Mapping[str, int]:
        """Fixed examples in "validation", "test" and perhaps "train".

        Without the latter every training batch is drawn afresh.
        """

    @property
    @abc.abstractmethod
    def spec(self) -> DataSpec:
        """Sizes, and what predicting without memory scores."""

    @property
    def borders(self) -> tuple[int, ...]:
        """Training steps at which sequences of another length begin."""
        return ()

    def at(self, step: int) -> Task:
        """The task of a training step, which may differ in the length of its sequences."""
        del step
        return self

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """Draws what `count` examples are made of."""

    @abc.abstractmethod
    def expand(self, records: Records) -> tuple[Any, np.ndarray]:
        """Returns inputs, (examples, time, n) or a dict of such, and targets of drawn examples."""
