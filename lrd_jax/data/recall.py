"""Multi-query associative recall: pairs of a key and a value, then keys that ask for their values.

Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra and Ré (2023), "Zoology: Measuring and
Improving Recall in Efficient Language Models", arXiv:2312.04927, in the definition of its code.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lrd_jax.data.spec import DataSpec
from lrd_jax.data.task import Records, Task
from lrd_jax.errors import UserError

BLANK = 0
UNSCORED = -1


@dataclasses.dataclass(frozen=True)
class Recall(Task):
    """Recall of several keys, each asked for once.

    With P pairs of distinct keys k (1 .. V/2 - 1) and distinct values v (V/2 .. V - 1):

        x = k1 v1 ... kP vP, then blanks with every key once more, at an even distance
        y = the value of the key where one is asked for, elsewhere -1 (not scored)

    The place of a query is one of S = (length - 2 P) / 2, the i-th of which (from 1) is chosen with
    a probability in proportion to i^(a-1), without replacement: most queries come soon.

    Differences from earlier code: the blanks stay blanks (`random_non_queries=False`, as in the
    configuration of the paper's Figure 2); training examples are drawn afresh, not 100 000 fixed.

    Attributes:
        length: steps, at least 4 for each pair.
        pairs: P, at least 1.
        vocabulary: V, with the blank; a value for each key.
        query_power: a, above 0; 1 is uniform.

    Raises:
        UserError: values that do not fit together.
    """

    length: int
    pairs: int
    vocabulary: int = 8192
    query_power: float = 0.01

    STORED: ClassVar[str] = "Keys, values and places of the queries of associative recall."
    NUM_FIXED: ClassVar[int] = 3_000
    """Validation examples, and as many test examples, as in the paper's code."""

    def __post_init__(self):
        if self.pairs < 1:
            raise UserError(f"data.pairs={self.pairs} must be at least 1 (key and value to recall)")
        if self.length < 4 * self.pairs:
            raise UserError(
                f"data.length={self.length} is too short for data.pairs={self.pairs}: a pair takes"
                " two steps, and its query two"
            )
        if self.vocabulary < 2 * (self.pairs + 1):
            raise UserError(
                f"data.vocabulary={self.vocabulary} has too few symbols for data.pairs={self.pairs}"
                f" distinct keys and values: use at least {2 * (self.pairs + 1)}"
            )
        if not 0 < self.query_power < math.inf:
            raise UserError(
                f"data.query_power={self.query_power} must be above 0 and finite (1: uniform)"
            )

    @property
    def variant(self) -> str:
        """All options: each changes the draws."""
        return f"{self.length}-{self.pairs}-{self.vocabulary}-{self.query_power:g}"

    @classmethod
    def of_variant(cls, variant: str) -> "Recall":
        """See `Task.of_variant`."""
        if not re.fullmatch(r"\d+-\d+-\d+-[\d.e-]+", variant, re.ASCII):
            raise UserError(
                f"recall/{variant}: name a variant as LENGTH-PAIRS-VOCABULARY-POWER, for instance"
                " recall/64-4-8192-0.01"
            )
        length, pairs, vocabulary, power = variant.split("-", 3)
        return cls(int(length), int(pairs), int(vocabulary), float(power))

    @property
    def splits(self) -> Mapping[str, int]:
        """Fixed examples by split."""
        return {"validation": self.NUM_FIXED, "test": self.NUM_FIXED}

    @property
    def spec(self) -> DataSpec:
        """Sizes, and what guessing any value scores."""
        values = self.vocabulary - self.vocabulary // 2
        return DataSpec(
            kind="tag",
            length=self.length,
            features=self.vocabulary,
            classes=self.vocabulary,
            one_hot=True,
            values=self.vocabulary,
            symbols=True,
            scored=self.length - 2 * self.pairs,
            baselines={"loss": math.log(values), "accuracy": 1 / values},
        )

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """Draws pairs and the places of their queries.

        Returns:
            `keys` and `values`, (count, pairs) int32, and `places` (count, pairs) int32, from 0.
        """
        first_value = self.vocabulary // 2
        keys = 1 + _distinct(rng, count, np.ones(first_value - 1), self.pairs)
        values = first_value + _distinct(
            rng, count, np.ones(self.vocabulary - first_value), self.pairs
        )
        slots = np.arange(1, (self.length - 2 * self.pairs) // 2 + 1, dtype=float)
        places = _distinct(rng, count, slots ** (self.query_power - 1), self.pairs)
        return {"keys": keys, "values": values, "places": places}

    def expand(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs (examples, length, 1) and targets (examples, scored), both int32."""
        count, context = len(records["keys"]), 2 * self.pairs
        inputs = np.full((count, self.length), BLANK, np.int32)
        inputs[:, 0:context:2], inputs[:, 1:context:2] = records["keys"], records["values"]
        targets = np.full((count, self.length - context), UNSCORED, np.int32)
        places = 2 * records["places"]
        np.put_along_axis(inputs, context + places, records["keys"], axis=1)
        np.put_along_axis(targets, places, records["values"], axis=1)
        return inputs[..., None], targets

    def __str__(self) -> str:
        return f"recall ({self.pairs} pairs, {self.vocabulary} symbols)"


def _distinct(rng: np.random.Generator, count: int, weights: np.ndarray, size: int) -> np.ndarray:
    """Draws `size` different indices in each of `count` rows, one after the other by weight.

    The first of exponential arrivals whose rates are the weights are such draws, in order
    (Efraimidis and Spirakis 2006).

    Returns:
        (count, size) int32.
    """
    arrivals = rng.standard_exponential((count, len(weights)), np.float32) / weights
    first = np.argpartition(arrivals, size - 1, axis=1)[:, :size]
    order = np.take_along_axis(arrivals, first, axis=1).argsort(axis=1)
    return np.take_along_axis(first, order, axis=1).astype(np.int32)
