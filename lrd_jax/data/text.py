"""Running text, in windows of parallel streams, for language models."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lrd_jax.config.paths import expand_user
from lrd_jax.data.pipeline import SPLITS
from lrd_jax.data.spec import Batch, DataSpec
from lrd_jax.data.text_files import find_files, lines_of
from lrd_jax.data.vocabulary import (
    UNITS,
    Vocabulary,
    check_symbols,
    checksum,
    number_symbols,
    order_by_frequency,
)
from lrd_jax.errors import UserError, unknown


class TextDataset:
    """A `Dataset` over texts in memory.

    A text is cut into as many streams as a batch has rows, of equal length to within one token; a
    step goes one window further in each of them, so that a model may carry its state from batch to
    batch. Every token is predicted once in an epoch, from the one before it; the first one of a
    text, as if the text were a ring, from its last, which ends a line in any ordinary file.

    Attributes:
        spec: sizes, with the vocabulary.
        num_train: windows of all streams in one epoch.
        restart: whether the state starts anew with every window that is evaluated.
    """

    restart = False

    def __init__(
        self,
        vocabulary: Vocabulary,
        splits: dict[str, np.ndarray],
        length: int,
        batch_size: int,
        description: str,
    ):
        """Keeps references to the arrays.

        Args:
            vocabulary: what the numbers stand for.
            splits: the numbers of "train", "valid" and "test", (tokens,) int32 each.
            length: tokens of a window.
            batch_size: streams that are read side by side.
            description: for the start-up log; units and sizes are added.

        Raises:
            UserError: `length` or `batch_size` does not fit the texts.
        """
        train = len(splits["train"])
        if length < 1:
            raise UserError(f"data.length={length} must be at least 1 token (a window of the text)")
        if not 1 <= batch_size <= train:
            raise UserError(
                f"data.batch_size={batch_size} streams do not fit a training text of {train} tokens"
            )
        self.spec = text_spec(vocabulary, length)
        self._windows = _count_windows(train, batch_size, length)
        self.num_train = self._windows * batch_size
        self._splits = splits
        self._batch_size = batch_size
        self._description = description

    def train_batch(self, seed: int, step: int, rows: slice) -> Batch:
        """Returns `rows` of the global training batch `step`.

        Where on its ring the text begins to be cut is drawn anew for every epoch and seed, so that
        the borders of windows and streams do not stay the same; hence every stream starts anew with
        an epoch.

        Within an epoch the training loss therefore jumps once: from the place on, modulo a stream,
        where the epoch before began to be cut, a stream reads what was read at that epoch's first
        steps, the longest ago and, in the first epoch, by a model that knew little; up to there it
        read what was read last. On WikiText-2, two epochs, seed 0, it rises by 0.4 at step 3204.
        """
        epoch, window = divmod(step, self._windows)
        tokens = self._splits["train"]
        draw = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch,)))
        turn = int(np.random.Generator(draw).integers(len(tokens)))
        return self._window(tokens, self._batch_size, window, rows, turn)

    def eval_batches(
        self, split: str, batch_size: int, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields every token of a split once, in streams that go on from batch to batch.

        There are `batch_size` of them, of which `rows` are wanted; they are masked where they have
        ended.

        Raises:
            UserError: unknown split, or a batch size below 1.
        """
        tokens = self._split(split)
        if batch_size < 1:
            raise UserError(f"evaluation batch size {batch_size} must be at least 1")
        windows = range(_count_windows(len(tokens), batch_size, self.spec.length))
        batches = (self._window(tokens, batch_size, window, rows) for window in windows)
        if not self.restart:
            return batches
        return (batch | {"start": np.ones_like(batch["start"])} for batch in batches)

    def _window(
        self, tokens: np.ndarray, streams: int, window: int, rows: slice, turn: int = 0
    ) -> Batch:
        """A window of `streams` equal parts of a text: `inputs` and `targets` `(rows, length)`."""
        borders = np.arange(streams + 1) * len(tokens) // streams
        first, end = borders[:-1][rows], borders[1:][rows]
        place = first[:, None] + window * self.spec.length + np.arange(self.spec.length)
        return {
            "inputs": tokens[(place + turn - 1) % len(tokens)],
            "targets": tokens[(place + turn) % len(tokens)],
            "mask": (place < end[:, None]).astype(np.float32),
            "start": np.full(len(first), window == 0),
        }

    def eval_size(self, split: str) -> int:
        """Returns the number of tokens of a split."""
        return len(self._split(split))

    def describe(self) -> str:
        """Returns name, vocabulary, windows and the sizes of the splits, in one line."""
        sizes = " / ".join(f"{self.eval_size(split)}" for split in SPLITS)
        return (
            f"{self._description}: {self.spec.classes} different {_plural(self.spec)}, "
            f"{self._batch_size} streams in windows of {self.spec.length}, "
            f"train / valid / test {sizes}"
        )

    def _split(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self._splits[split]


def text_spec(vocabulary: Vocabulary, length: int) -> DataSpec:
    """Describes running text, which need not be at hand.

    Args:
        vocabulary: what the numbers stand for.
        length: tokens of a window.
    """
    return DataSpec(
        "language",
        length,
        features=1,
        classes=len(vocabulary.symbols),
        vocabulary=vocabulary,
    )


def _count_windows(tokens: int, streams: int, length: int) -> int:
    return math.ceil(math.ceil(tokens / streams) / length)


def _plural(spec: DataSpec) -> str:
    assert spec.vocabulary is not None
    return {"char": "characters", "word": "words"}[spec.vocabulary.unit]


def make_text(text_dir: str, unit: str, length: int, batch_size: int) -> TextDataset:
    """Builds the data set of text files, see `_read_folder`.

    Args:
        text_dir: folder of the files, or one file.
        unit: `char` or `word`.
        length: tokens of a window.
        batch_size: streams that are read side by side.

    Raises:
        UserError: a bad value, or text that is not there.
    """
    symbols, splits, description = _read_folder(text_dir, unit)
    return _make(unit, symbols, splits, length, batch_size, description)


def make_wikitext(name: str, data_dir: str, length: int, batch_size: int) -> TextDataset:
    """Builds the data set of a corpus that a builder prepares.

    Args:
        name: of the data set.
        data_dir: the folder of all prepared data sets; `~` is expanded.
        length: tokens of a window.
        batch_size: streams that are read side by side.

    Raises:
        UserError: a bad value, or text that is not to be had.
    """
    return _make("word", *_read_prepared(name, data_dir), length, batch_size, name)


def _make(
    unit: str,
    symbols: tuple[str, ...],
    splits: dict[str, np.ndarray],
    length: int,
    batch_size: int,
    description: str,
) -> TextDataset:
    """The data set of token ids by split, with a vocabulary that has their checksums."""
    texts = {split: hashlib.sha256(tokens.data).hexdigest() for split, tokens in splits.items()}
    vocabulary = Vocabulary(unit, symbols, texts)
    return TextDataset(vocabulary, splits, length, batch_size, description)


def _read_prepared(name: str, data_dir: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns symbols and numbers of a prepared corpus."""
    from lrd_jax.data.prepare import damaged, prepared, read_records  # half a second to import

    with prepared(name, data_dir) as builder:
        try:
            metadata: Any = builder.info.metadata
            symbols = metadata["symbols"]
        except (KeyError, TypeError) as error:
            raise damaged(builder.data_dir, "its vocabulary is missing") from error
        try:
            check_symbols(symbols)
            if metadata.get("symbols_sha256", kept := checksum(symbols)) != kept:
                raise ValueError("its checksum is another one")
        except ValueError as error:
            raise damaged(builder.data_dir, f"its vocabulary: {error}") from error
        blocks = {split: read_records(builder, split)["tokens"] for split in builder.SPLITS}
    splits = {split: tokens[tokens >= 0] for split, tokens in blocks.items()}  # -1 is padding
    if any(len(tokens) and tokens.max() >= len(symbols) for tokens in splits.values()):
        raise damaged(builder.data_dir, "its vocabulary is too short")
    return tuple(symbols), {
        "train": splits["train"],
        "valid": splits["validation"],
        "test": splits["test"],
    }


# ---- Plain text files -----------------------------------------------------------------------


def _read_folder(text_dir: str, unit: str) -> tuple[tuple[str, ...], dict[str, np.ndarray], str]:
    """Reads the text files of a folder.

    The files of a split are those named like it, see `find_files`. Where no file validates, the
    last tenth of the training text does; where none tests, the validation text does that too.

    Args:
        text_dir: the folder, or a single file.
        unit: `char` or `word`.

    Returns:
        The symbols, the numbers of "train", "valid" and "test", and a description, which tells the
        files of each split.

    Raises:
        UserError: a bad value, or no text.
    """
    if unit not in UNITS:
        raise UserError(f"unknown data.unit {unit!r}: use {' or '.join(UNITS)}")
    if not text_dir:
        raise UserError(
            "this config reads text of your own: name a folder of .txt files (or one file) with "
            "--config.data.text_dir=DIR"
        )
    folder = expand_user(text_dir, "--config.data.text_dir")
    files, marked = find_files(folder), []
    try:
        symbols, splits = number_symbols(
            {split: lines_of(paths, marked) for split, paths in files.splits.items()}, unit
        )
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    notes = [] if folder.is_file() else [files.describe()]
    if marked:
        names = ", ".join(path.name for path in marked)
        notes.append(f"left out a byte order mark of {names}")
    if "valid" not in splits:
        train = splits["train"]
        border = len(train) * 9 // 10
        splits |= {"train": train[:border], "valid": train[border:]}
        notes.append("the last tenth validates")
    if "test" not in splits:
        splits["test"] = splits["valid"]
        notes.append("test is the validation text")
    for split, tokens in splits.items():
        if not len(tokens):
            raise UserError(f"the {split} text in {folder} is empty")
    kept, splits = order_by_frequency(symbols, splits, unit)
    description = f"text of {folder.name}" + (f" ({'; '.join(notes)})" if notes else "")
    return kept, splits, description
