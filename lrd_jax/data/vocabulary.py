"""Text as numbers: words or characters, numbered by how often the training text has them."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrd_jax.errors import UserError

logger = logging.getLogger(__name__)

CAPTION = "caption"
UNITS = ("char", "word")  # of running text
END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
# Of captions: number 0, which also begins them and fills them up; and the last number.
END_OF_CAPTION = "<end>"
UNKNOWN_WORD = "UNK"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The symbols that a language model reads and writes.

    Attributes:
        unit: `char`, or `word`: what stands between white space, and `<eos>` after each line; or
            `caption`: words of captions, see `lrd_jax.data.captions`.
        symbols: by their numbers, the most frequent one first.
        texts: sha256 of the numbers of each split's text, by split; tells a changed text.
    """

    unit: str
    symbols: tuple[str, ...]
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each symbol."""
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    @property
    def start(self) -> int:
        """Number of what is taken to stand before a text: the end of a line, where there is one."""
        line_end = END_OF_LINE if self.unit == "word" else "\n"
        return self.numbers.get(line_end, 0)

    def encode(self, text: str) -> np.ndarray:
        """Returns the numbers of a piece of text, (symbols,) int32; no line end is added to it.

        Symbols that become `<unk>` are told of, once.

        Raises:
            UserError: a symbol that is not in the vocabulary, where that has no `<unk>`.
        """
        lines = text if self.unit == "char" else f" {END_OF_LINE} ".join(text.split("\n")).split()
        unknown = self.numbers.get(UNKNOWN)
        numbers = [self.numbers.get(symbol, unknown) for symbol in lines]
        lost = sorted({s for s, n in zip(lines, numbers, strict=True) if n == unknown} - {UNKNOWN})
        if lost and unknown is not None:
            _tell_unknown(tuple(lost))
        if None in numbers:
            symbol = lines[numbers.index(None)]
            raise UserError(f"{symbol!r} is not in the vocabulary of the training text")
        return np.array(numbers, np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        """Returns the text of some numbers; words are joined by blanks, `<eos>` ends a line."""
        symbols = (self.symbols[number] for number in numbers)
        if self.unit == "char":
            return "".join(symbols)
        lines = " ".join(symbols).split(END_OF_LINE)
        return "\n".join(line.strip() for line in lines)

    def to_json(self) -> str:
        """Returns the text of `vocabulary.json`, with a checksum over all of it."""
        content = dataclasses.asdict(self) | {"sha256": self._checksum()}
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Reads what `to_json` wrote, also before it kept a checksum; ValueError if damaged."""
        try:
            content = json.loads(text)
            symbols, texts = content["symbols"], content["texts"]
            vocabulary = cls(content["unit"], tuple(symbols), texts)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a vocabulary: {error}") from error
        check_symbols(symbols)
        if vocabulary.unit not in (*UNITS, CAPTION) or not isinstance(texts, dict):
            raise ValueError(f"not a vocabulary of {', '.join((*UNITS, CAPTION))} with its texts")
        if content.get("sha256", kept := vocabulary._checksum()) != kept:
            raise ValueError("its checksum is another one")
        return vocabulary

    def _checksum(self) -> str:
        return checksum([self.unit, list(self.symbols), dict(self.texts)])


def checksum(content: Any) -> str:
    """Returns the sha256 of a JSON value, by which it is known again."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_symbols(symbols: Any) -> None:
    """Raises ValueError unless these are the symbols of a vocabulary: a list of different texts."""
    if not isinstance(symbols, list) or not symbols or {type(s) for s in symbols} != {str}:
        raise ValueError("its symbols are not a list of texts")
    if len(set(symbols)) < len(symbols):
        raise ValueError("it has a symbol twice")


@functools.cache
def _tell_unknown(symbols: tuple[str, ...]) -> None:
    shown = ", ".join(map(repr, symbols[:5]))
    more = f" and {len(symbols) - 5} more" if len(symbols) > 5 else ""
    logger.warning("%s%s not in the vocabulary: read as %s", shown, more, UNKNOWN)


def number_symbols(
    texts: Mapping[str, Iterable[str]], unit: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Numbers the symbols of some texts in the order of their first appearance.

    Args:
        texts: the lines of each text, line ends included.
        unit: `char` or `word`.

    Returns:
        The symbols, and for each text its numbers, (symbols of the text,) int32.
    """
    numbers: dict[str, int] = {}
    tokens = {
        name: np.fromiter(
            (numbers.setdefault(symbol, len(numbers)) for symbol in _symbols(lines, unit)),
            np.int32,
        )
        for name, lines in texts.items()
    }
    return list(numbers), tokens


def _symbols(lines: Iterable[str], unit: str) -> Iterator[str]:
    for line in lines:
        if unit == "char":
            yield from line
        else:
            yield from line.split()
            yield END_OF_LINE


def order_by_frequency(
    symbols: Sequence[str], tokens: Mapping[str, np.ndarray], unit: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Renumbers texts by the frequency of their symbols in the text called "train".

    Symbols that it lacks become `<unk>`. So do words that it has only once, unless it holds `<unk>`
    itself (as the corpora do whose rare words were replaced by their publishers): a model could
    never learn when to expect an unknown word from a text that has none.

    Args:
        symbols: by number.
        tokens: the numbers of each text, one of them "train".
        unit: `char` or `word`.

    Returns:
        The symbols by their new numbers, and the renumbered texts.
    """
    counts = np.bincount(tokens["train"], minlength=len(symbols))
    known = counts > 0
    if unit == "word" and not any(
        symbol == UNKNOWN and known[number] for number, symbol in enumerate(symbols)
    ):
        known = np.array([s == END_OF_LINE for s in symbols]) & known | (counts > 1)
    numbers = np.flatnonzero(known).tolist()
    order = sorted(numbers, key=lambda number: (-counts[number], symbols[number]))
    kept = [symbols[number] for number in order]
    if not known.all() and UNKNOWN not in kept:
        kept.append(UNKNOWN)
    renumbered = np.full(len(symbols), kept.index(UNKNOWN) if UNKNOWN in kept else -1, np.int32)
    renumbered[order] = np.arange(len(order))
    return tuple(kept), {name: renumbered[numbers] for name, numbers in tokens.items()}


def read_lines(file: Any, name: str) -> Iterator[str]:
    """Yields the lines of a binary file of UTF-8, with their ends; only a line feed ends one.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        for line in file:
            yield line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not text in UTF-8 ({error.reason})") from error
