"""State tracking: after every step, the state of a small automaton that reads the symbols so far.

Word problems of groups: Merrill, Petty and Sabharwal (2024), "The Illusion of State in State-Space
Models", arXiv:2404.08819. Parity and cycle: Delétang et al. (2023), "Neural Networks and the
Chomsky Hierarchy", arXiv:2207.02098. Flip-flop: Liu et al. (2023), "Exposing Attention Glitches
with Flip-Flop Language Modeling", arXiv:2306.00946.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from lrd_jax.data.spec import DataSpec
from lrd_jax.data.task import Records, Task
from lrd_jax.errors import UserError

PROBLEMS = "parity, cycle<n> (cycle5), S3, A5, S5 or flipflop"
_KEEP = 0.8
"""Part of the steps of `flipflop` at which nothing is written, as in the base setting there."""


class Automaton(NamedTuple):
    """What a problem asks to be followed; it starts in state 0.

    Attributes:
        table: the next state, (symbols, states) int64.
        rates: probability of each symbol at each step, (symbols,).
    """

    table: np.ndarray
    rates: np.ndarray


def _cycle(moves: tuple[int, ...], states: int) -> Automaton:
    table = (np.arange(states) + np.array(moves)[:, None]) % states
    return Automaton(table, np.full(len(moves), 1 / len(moves)))


def permutations(points: int, even: bool) -> np.ndarray:
    """All permutations of some points, or the even ones, (order, points); the first does nothing.

    Args:
        points: number of points.
        even: leaves out the odd ones.
    """
    every = np.array(list(itertools.permutations(range(points))))
    pairs = itertools.combinations(range(points), 2)
    inversions = sum((every[:, i] > every[:, j]).astype(int) for i, j in pairs)
    return every[inversions % 2 == 0] if even else every


def _words(points: int, even: bool) -> Automaton:
    """The word problem: symbol and state are elements, and the symbol acts after the state."""
    elements = permutations(points, even)
    number = {tuple(element): index for index, element in enumerate(elements.tolist())}
    products = elements[:, elements]  # (symbols, states, points)
    table = np.array([[number[tuple(p)] for p in row] for row in products.tolist()])
    return Automaton(table, np.full(len(elements), 1 / len(elements)))


@functools.cache
def automaton(problem: str) -> Automaton:
    """The automaton of a problem.

    Args:
        problem: `parity`: the parity of the ones so far; `cycle<n>`: the place on a ring of n, each
            step staying, one on or one back; `S3`, `A5`, `S5`: the product of the elements so far;
            `flipflop`: the bit that was last written (symbol 0 writes nothing).

    Raises:
        UserError: no such problem.
    """
    if problem == "parity":
        return _cycle((0, 1), 2)
    if problem == "flipflop":
        table = np.array([[0, 1], [0, 0], [1, 1]])
        return Automaton(table, np.array([_KEEP, (1 - _KEEP) / 2, (1 - _KEEP) / 2]))
    if problem in ("S3", "A5", "S5"):
        return _words(int(problem[1]), even=problem[0] == "A")
    if re.fullmatch(r"cycle\d{1,3}", problem, re.ASCII) and 3 <= int(problem[5:]) <= 256:
        return _cycle((0, 1, -1), int(problem[5:]))
    raise UserError(f"data.problem={problem!r}: use {PROBLEMS}; a cycle has 3 to 256 places")


@functools.cache
def baselines(problem: str, length: int) -> Mapping[str, float]:
    """What the best guess from the symbol of the same step alone scores, over all steps.

    Computed from the joint distribution of symbol and state, averaged over the steps of a sequence.

    Args:
        problem: see `automaton`.
        length: steps.
    """
    table, rates = automaton(problem)
    rows = np.arange(len(table))[:, None]
    states = np.zeros(table.shape[1])
    states[0] = 1
    joint = np.zeros_like(table, float)  # (symbol, state after it)
    for _ in range(length):
        now = np.zeros_like(joint)
        np.add.at(now, (rows, table), rates[:, None] * states)
        joint += now / length
        states = now.sum(0)
    part = joint[joint > 0]
    symbols = joint.sum(1, keepdims=True)
    logs = np.log((joint / symbols)[joint > 0])
    return {"loss": float(-(part * logs).sum()), "accuracy": float(joint.max(1).sum())}


@dataclasses.dataclass(frozen=True)
class Tracking(Task):
    """The state after every step, one label a step.

    Attributes:
        problem: see `automaton`.
        length: steps of a sequence.
        curriculum: pairs (steps, length): for so many training steps sequences of that length, one
            pair after the other, then those of `length`, which is the longest.

    Raises:
        UserError: a value that is unknown or out of range.
    """

    problem: str
    length: int
    curriculum: tuple[tuple[int, int], ...] = ()

    STORED: ClassVar[str] = "Symbols that an automaton reads, one variant for each length."
    VARIES: ClassVar[str] = "length"
    NUM_FIXED: ClassVar[int] = 1_000
    """Validation examples, and as many test examples: 1 MB at 1 024 steps."""

    def __post_init__(self):
        automaton(self.problem)
        if self.length < 1:
            raise UserError(f"data.length={self.length}: state tracking needs at least 1 step")
        for steps, length in self.curriculum:
            if steps < 1 or not 1 <= length <= self.length:
                raise UserError(
                    f"data.curriculum={self.curriculum}: the pair ({steps}, {length}) must be at"
                    f" least 1 training step, and a length from 1 to data.length={self.length}"
                )

    @property
    def variant(self) -> str:
        """Problem and length."""
        return f"{self.problem}-{self.length}"

    @classmethod
    def of_variant(cls, variant: str) -> Tracking:
        """See `Task.of_variant`."""
        problem, _, length = variant.partition("-")
        if not re.fullmatch(r"\d+", length, re.ASCII):
            raise UserError(
                f"tracking/{variant}: name a variant as PROBLEM-LENGTH, for instance tracking/S3-32"
            )
        return cls(problem, int(length))

    @property
    def splits(self) -> Mapping[str, int]:
        """Fixed examples by split."""
        return {"validation": self.NUM_FIXED, "test": self.NUM_FIXED}

    @property
    def spec(self) -> DataSpec:
        """Sizes, and what guessing from the symbol of the step scores."""
        symbols, states = automaton(self.problem).table.shape
        return DataSpec(
            kind="tag",
            length=self.length,
            features=symbols,
            classes=states,
            one_hot=True,
            values=symbols,
            symbols=True,
            scored=self.length,
            baselines=baselines(self.problem, self.length),
        )

    @property
    def borders(self) -> tuple[int, ...]:
        """See `Task.borders`."""
        return tuple(itertools.accumulate(steps for steps, _ in self.curriculum))

    def at(self, step: int) -> Tracking:
        """See `Task.at`: of the length of the curriculum."""
        for border, (_, length) in zip(self.borders, self.curriculum, strict=True):
            if step < border:
                return Tracking(self.problem, length)
        return self

    def draw(self, rng: np.random.Generator, count: int) -> Records:
        """Draws symbols, independent of one another.

        Returns:
            `symbols` (count, length) uint8.
        """
        rates = automaton(self.problem).rates
        bounds = rates.cumsum()[:-1]
        draws = rng.random((count, self.length), np.float32)
        return {"symbols": np.searchsorted(bounds, draws, side="right").astype(np.uint8)}

    def expand(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """Returns inputs (examples, length, 1) and targets (examples, length), both uint8."""
        symbols, table = records["symbols"], automaton(self.problem).table
        targets, state = np.empty_like(symbols), np.zeros(len(symbols), int)
        for step in range(symbols.shape[1]):
            state = table[symbols[:, step], state]
            targets[:, step] = state
        return symbols[..., None], targets

    def __str__(self) -> str:
        return f"state tracking ({self.problem})"
