"""Selective copying: symbols scattered among blanks are to be written in their order at the end.

Gu and Dao (2023), "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
arXiv:2312.00752, section 3.1 and 4.1.1; first in Jing et al. (2019), "Gated Orthogonal Recurrent
Units", arXiv:1706.02761, as the denoise task.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lrd_jax.data.spec import DataSpec
from lrd_jax.data.task import Records, Task
from lrd_jax.errors import UserError

BLANK, MARKER, FIRST = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class SelectiveCopying(Task):
    """Copying whose symbols stand at places drawn anew for every sequence.

    With M symbols of V: at M of the first length - M steps, drawn without replacement, a symbol
    (2 .. V + 1, drawn with replacement), else the blank 0; then M markers 1, at the i-th of which
    the i-th symbol is to be said (0 .. V - 1). Nothing else is scored.

    Attributes:
        length: steps, at least 2 M.
        num_items: M.
        vocabulary: V, at least 2.

    Raises:
        UserError: values that do not fit together.
    """

    length: int
    num_items: int = 16
    vocabulary: int = 16

    STORED: ClassVar[str] = "Symbols and places of selective copying."
    VARIES: ClassVar[str] = "length"
    NUM_FIXED: ClassVar[int] = 1_000
    """Validation examples, and as many test examples."""

    def __post_init__(self):
        if self.num_items < 1:
            raise UserError(
                f"data.num_items={self.num_items} must be at least 1 (symbol to remember)"
            )
        if self.length < 2 * self.num_items:
            raise UserError(
                f"data.length={self.length} is too short for data.num_items={self.num_items}: each"
                " takes a step to be shown and one to be asked for"
            )
        if not 2 <= self.vocabulary <= 2**15:
            raise UserError(f"data.vocabulary={self.vocabulary} must be from 2 to {2**15} symbols")

    @property
    def variant(self) -> str:
        """All options: each changes the draws."""
        return f"{self.length}-{self.num_items}-{self.vocabulary}"

    @classmethod
    def of_variant(cls, variant: str) -> SelectiveCopying:
        """See `Task.of_variant`."""
        if not re.fullmatch(r"\d+-\d+-\d+", variant, re.ASCII):
            raise UserError(
                f"selective_copy/{variant}: name a variant as LENGTH-ITEMS-VOCABULARY, for instance"
                " selective_copy/4096-16-16"
            )
        return cls(*map(int, variant.split("-")))

    @property
    def splits(self) -> Mapping[str, int]:
        """Fixed examples by split."""
        return {"validation": self.NUM_FIXED, "test": self.NUM_FIXED}

    @property
    def spec(self) -> DataSpec:
        """Sizes, and what guessing any symbol scores."""
        return DataSpec(
            kind="tag",
            length=self.length,
            features=self.vocabulary + FIRST,
            classes=self.vocabulary,
            one_hot=True,
            values=self.vocabulary + FIRST,
            symbols=True,
            scored=self.num_items,
            baselines={"loss": math.log(self.vocabulary), "accuracy": 1 / self.vocabulary},
        )

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """Draws symbols and their places.

        Returns:
            `symbols` from 0 and `places` in order, (count, num_items) int32 each.
        """
        symbols = rng.integers(self.vocabulary, size=(count, self.num_items), dtype=np.int32)
        order = rng.random((count, self.length - self.num_items), np.float32)
        places = np.argpartition(order, self.num_items - 1, axis=1)[:, : self.num_items]
        return {"symbols": symbols, "places": np.sort(places, axis=1).astype(np.int32)}

    def expand(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs (examples, length, 1) and targets (examples, num_items), both int32."""
        symbols = records["symbols"]
        inputs = np.full((len(symbols), self.length), BLANK, np.int32)
        np.put_along_axis(inputs, records["places"], symbols + FIRST, axis=1)
        inputs[:, -self.num_items :] = MARKER
        return inputs[..., None], symbols

    def __str__(self) -> str:
        return f"selective copying ({self.num_items} of {self.vocabulary} symbols)"
