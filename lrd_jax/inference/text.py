"""How surprised a language model is by a text of a person's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.data.text_files import lines_of
from lrd_jax.data.vocabulary import Vocabulary
from lrd_jax.errors import UserError
from lrd_jax.inference.model import Model
from lrd_jax.objectives.language import Language

_WINDOW = 256  # tokens that are read at once


class Surprise(NamedTuple):
    """Of some tokens in a row.

    Attributes:
      tokens: as they stand in the text; a word that the model does not know is `<unk>`.
      nats: -log of the probability that it gave each, after all before.
    """

    tokens: list[str]
    nats: np.ndarray


def read_tokens(path: Path, vocabulary: Vocabulary) -> Iterator[np.ndarray]:
    """Yields the numbers of a file's tokens, line by line.

    Raises:
      UserError: it is no text, or holds a symbol that the model does not know.
    """
    try:
        for number, line in enumerate(lines_of([path], []), 1):
            try:
                yield vocabulary.encode(line)
            except UserError as error:
                raise UserError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def surprise(model: Model, pieces: Iterable[np.ndarray]) -> Iterator[Surprise]:
    """Reads a text from its beginning, in one stream, of which little is in memory at a time.

    Args:
      model: a language model; seeds that speak together have the mean of their probabilities.
      pieces: numbers of tokens, from `read_tokens`.

    Yields:
      Windows of it, in order.
    """
    objective, vocabulary = model.network.task, model.spec.vocabulary
    assert isinstance(objective, Language) and vocabulary is not None
    seeds = model.network.seeds

    @jax.jit
    def read(params: Any, carry: Any, batch: Any) -> tuple[Array, Any]:
        if not seeds:
            return objective.surprise(params, carry, batch)
        each, carry = jax.vmap(lambda p, c: objective.surprise(p, c, batch))(params, carry)
        return jnp.log(seeds) - jax.nn.logsumexp(-each, axis=0), carry

    carry = objective.initial_carry(1)
    if seeds:
        carry = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), carry)
    before, first = vocabulary.start, True
    for window in _windows(pieces):
        padding = _WINDOW - len(window)
        batch = {
            "inputs": np.pad([before, *window[:-1]], (0, padding)).astype(np.int32)[None],
            "targets": np.pad(window, (0, padding))[None],
            "start": np.array([first]),
        }
        each, carry = read(model.params, carry, batch)
        before, first = int(window[-1]), False
        nats = np.asarray(each[0], np.float64)[: len(window)]
        yield Surprise([vocabulary.symbols[n] for n in window], nats)


def _windows(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    held = np.empty(0, np.int32)
    for piece in pieces:
        held = np.concatenate([held, piece])
        while len(held) >= _WINDOW:
            yield held[:_WINDOW]
            held = held[_WINDOW:]
    if len(held):
        yield held
