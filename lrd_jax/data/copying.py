"""Copying: ten symbols are shown, then blanks, and after a signal they are to be written again.

The task goes back to Hochreiter and Schmidhuber (1997), "Long Short-Term Memory".
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from lrd_jax.data.spec import DataSpec
from lrd_jax.data.task import Records, Task
from lrd_jax.errors import UserError

NUM_SYMBOLS = 10
"""Symbols to remember."""
ALPHABET = 8
"""The symbols are 1 .. 8."""
BLANK, MARKER = 0, ALPHABET + 1
_VOCABULARY = ALPHABET + 2

PRESETS: dict[str, dict[str, int]] = {
    # 100 000 fixed training sequences, in the code of Arpit et al. (2019), arXiv:1810.03023.
    "hdetach": {"train": 100_000, "validation": 5_000, "test": 5_000},
    "gu": {"validation": 5_000, "test": 5_000},
    "marker": {"validation": 5_000, "test": 5_000},
}
"""Fixed examples by preset and split; a preset without training examples streams them."""


def draw_symbols(rng: np.random.Generator, count: int) -> Records:
    """Draws the symbols to copy: `symbols` (count, 10) uint8, i.i.d. uniform over 1 .. 8."""
    return {"symbols": rng.integers(1, ALPHABET + 1, (count, NUM_SYMBOLS), np.uint8)}


@dataclasses.dataclass(frozen=True)
class Copying(Task):
    """Copying in one of the published definitions.

    With s the ten symbols (1 .. 8), 0 the blank and 9 the marker:

        hdetach:  x = s, 0 x (delay-1), 9, 0 x 10      y = 0 x (delay+10), s
        gu:       x = s, 0 x delay, 9 x 10             y = s, on the last 10 steps alone
        marker:   x = s, 0 x delay, 9, 0 x 9           y = 0 x (delay+10), s

    `hdetach` is that of Arpit et al. (2019), arXiv:1810.03023, which recalls one step after the
    marker; `gu` that of the code around Gu et al. (2020), arXiv:1910.09890, ten markers asking for
    one symbol each; `marker` that of Lezcano-Casado and Martínez-Rubio (2019), arXiv:1901.08428,
    which recalls from the marker on.

    Attributes:
        preset: `hdetach`, `gu` or `marker`.
        delay: as above, at least 1; a sequence has delay + 20 steps.
        encoding: `scalar` (the id itself as a number), `onehot`, or `preset`: scalar for `hdetach`,
            one-hot for the others.

    Raises:
        UserError: a value that is unknown or out of range.
    """

    preset: str
    delay: int
    encoding: str = "preset"

    STORED: ClassVar[str] = "The symbols of the copying task; they serve every delay."
    VARIES = "delay"

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise UserError(
                f"data.preset={self.preset!r}: name one of {', '.join(PRESETS)} "
                "(published definitions of the copying task differ)"
            )
        if self.delay < 1:
            raise UserError(f"data.delay={self.delay} must be at least 1 step")
        if self.encoding not in ("preset", "scalar", "onehot"):
            raise UserError(f"unknown data.encoding {self.encoding!r}: use preset, scalar, onehot")

    @property
    def variant(self) -> str:
        """The preset."""
        return self.preset

    @classmethod
    def of_variant(cls, variant: str) -> "Copying":
        """See `Task.of_variant`."""
        return cls(variant, delay=1)

    @property
    def splits(self) -> Mapping[str, int]:
        """See `PRESETS`."""
        return PRESETS[self.preset]

    @property
    def spec(self) -> DataSpec:
        """Sizes, and what writing blanks and then guessing scores."""
        length = self.delay + 2 * NUM_SYMBOLS
        scored = NUM_SYMBOLS if self.preset == "gu" else length
        by_preset = "scalar" if self.preset == "hdetach" else "onehot"
        one_hot = (by_preset if self.encoding == "preset" else self.encoding) == "onehot"
        return DataSpec(
            kind="tag",
            length=length,
            features=_VOCABULARY if one_hot else 1,
            # Without the marker, which is never a target; the readout of `gu` is as wide as its
            # input.
            classes=_VOCABULARY if self.preset == "gu" else _VOCABULARY - 1,
            one_hot=one_hot,
            values=_VOCABULARY,
            symbols=True,
            scored=scored,
            recalled=NUM_SYMBOLS,
            baselines={
                "loss": NUM_SYMBOLS * math.log(ALPHABET) / scored,
                "accuracy": 1 / ALPHABET,
            },
        )

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """See `draw_symbols`."""
        return draw_symbols(rng, count)

    def expand(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs (examples, delay + 20, 1) and targets (examples, scored), both uint8."""
        symbols, spec = records["symbols"], self.spec
        inputs = np.full((len(symbols), spec.length, 1), BLANK, np.uint8)
        inputs[:, :NUM_SYMBOLS, 0] = symbols
        if self.preset == "gu":
            inputs[:, -NUM_SYMBOLS:] = MARKER
        else:
            inputs[:, self.delay + NUM_SYMBOLS - (self.preset == "hdetach")] = MARKER
        targets = np.full((len(symbols), spec.scored), BLANK, np.uint8)
        targets[:, -NUM_SYMBOLS:] = symbols
        return inputs, targets

    def __str__(self) -> str:
        return f"copy ({self.preset}, delay {self.delay})"
