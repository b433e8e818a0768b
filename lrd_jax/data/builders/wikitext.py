"""WikiText-2 and WikiText-103: word-level text with `<unk>`, from the archive or its files."""

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from lrd_jax.data.builders.base import Builder
from lrd_jax.data.builders.sources import SourceFile, check_size, wrong_checksum
from lrd_jax.data.vocabulary import checksum, number_symbols, order_by_frequency, read_lines
from lrd_jax.errors import UserError

_BLOCK = 65_536  # tokens of a record
_URL = "https://wikitext.smerity.com/"  # of the first author; the original address is gone
_UNPACKED = 4  # a file in an archive is shorter than this many archives
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # in TFDS, in file names


class _WikiText(Builder):
    """Stores the numbers of the words in blocks, and the words in the metadata.

    The last block of a split is filled up with -1.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "The folder holds the archive, or the files in it."
    SPLITS = ("train", "validation", "test")
    RECORDS = f"blocks of {_BLOCK} tokens"

    FOLDER: ClassVar[str]
    """Of the files in the archive, which is called after it."""
    SHA1: ClassVar[dict[str, str]]
    """Of the files, by split; as listed by GluonNLP (gluonnlp/data/corpora/wikitext.py)."""

    def _info(self) -> tfds.core.DatasetInfo:
        """See TFDS: blocks of token ids, int32."""
        tokens = tfds.features.Tensor(
            shape=(_BLOCK,), dtype=np.int32, encoding=tfds.features.Encoding.BYTES
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({"tokens": tokens}),
            homepage="https://arxiv.org/abs/1609.07843",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        symbols, splits = self.read(Path(dl_manager.manual_dir))
        assert self.info.metadata is not None
        self.info.metadata["symbols"] = list(symbols)
        self.info.metadata["symbols_sha256"] = checksum(list(symbols))
        return {split: self._generate_examples(tokens) for split, tokens in splits.items()}

    def _generate_examples(self, tokens: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        padded = np.pad(tokens, (0, -len(tokens) % _BLOCK), constant_values=-1)
        for number, block in enumerate(padded.reshape(-1, _BLOCK)):
            yield number, {"tokens": block}

    @classmethod
    def read(cls, source_dir: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """Reads and checks the source files.

        Args:
            source_dir: holds the archive (perhaps packed again), or the files in it,
                `wiki.train.tokens` and so on, which may also be called `train.txt` and so on;
                perhaps in the archive's folder. These are read if the archive is broken.

        Returns:
            The words by number, the most frequent in the training text first, and the numbers of
            "train", "validation" and "test".

        Raises:
            UserError: files are missing or too long, or a checksum is wrong.
        """
        with contextlib.ExitStack() as stack:
            try:
                files = cls._open(source_dir, stack)
                texts = {
                    split: read_lines(file, f"{cls.FOLDER}/{split}")
                    for split, file in files.items()
                }
                symbols, splits = number_symbols(texts, "word")
            except OSError as error:
                raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
        return order_by_frequency(symbols, splits, "word")

    @classmethod
    def _open(cls, source_dir: Path, stack: contextlib.ExitStack) -> dict[str, IO[bytes]]:
        """Opens the splits, from the archive or unpacked; UserError where neither is whole."""
        (source,) = cls.SOURCES
        archive = source_dir / source.name
        if not archive.is_file():
            return cls._open_unpacked(source_dir, stack)
        try:
            return cls._open_archive(archive, stack)
        except UserError as error:
            try:
                files = cls._open_unpacked(source_dir, stack)
            except UserError:
                raise error from None
            logging.warning("%s; the unpacked files are read instead", error)
            return files

    @classmethod
    def _open_archive(cls, archive: Path, stack: contextlib.ExitStack) -> dict[str, IO[bytes]]:
        """Opens the splits in the archive; UserError where a checksum is wrong."""
        (source,) = cls.SOURCES
        check_size(archive, _UNPACKED * source.size)
        names = {split: f"{cls.FOLDER}/wiki.{name}.tokens" for split, name in _SPLITS.items()}
        with archive.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != source.sha256:  # packed again, perhaps: the checksums of its files decide
            try:
                with zipfile.ZipFile(archive) as members:
                    for split, name in names.items():
                        size = members.getinfo(name).file_size
                        if 0 < _UNPACKED * source.size < size:
                            raise wrong_checksum(archive, source.sha256, actual)
                        with members.open(name) as file:
                            inner = hashlib.file_digest(file, "sha1").hexdigest()  # pyright: ignore
                        if inner != cls.SHA1[split]:
                            raise wrong_checksum(archive, source.sha256, actual)
            except (zipfile.error, zlib.error, EOFError, KeyError, RuntimeError) as error:
                raise wrong_checksum(archive, source.sha256, actual) from error
        members = stack.enter_context(zipfile.ZipFile(archive))
        return {split: stack.enter_context(members.open(name)) for split, name in names.items()}

    @classmethod
    def _open_unpacked(cls, source_dir: Path, stack: contextlib.ExitStack) -> dict[str, IO[bytes]]:
        """Opens the unpacked splits; UserError where one is missing or its checksum is wrong."""
        (source,) = cls.SOURCES
        folder = source_dir / cls.FOLDER if (source_dir / cls.FOLDER).is_dir() else source_dir
        files = {}
        for split, name in _SPLITS.items():
            names = (f"wiki.{name}.tokens", f"{name}.txt")
            path = next((path for n in names if (path := folder / n).is_file()), None)
            if path is None:
                raise UserError(
                    f"{source_dir} lacks {source.name}, or of its files {' (or '.join(names)})"
                )
            check_size(path, _UNPACKED * source.size)
            with path.open("rb") as file:
                actual = hashlib.file_digest(file, "sha1").hexdigest()
            if actual != cls.SHA1[split]:
                raise wrong_checksum(path, cls.SHA1[split], actual, algorithm="sha1")
            files[split] = stack.enter_context(path.open("rb"))
        return files


# Checksums of the archives as in JuliaText/CorpusLoaders.jl (src/WikiText.jl).


class LrdWikitext2(_WikiText):
    """WikiText-2 (Merity et al. 2016, arXiv:1609.07843): 2 million words of Wikipedia."""

    FOLDER = "wikitext-2"
    SOURCES = (
        SourceFile(
            "wikitext-2-v1.zip",
            _URL + "wikitext-2-v1.zip",
            sha256="92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
            size=4_475_746,
        ),
    )
    SHA1: ClassVar[dict[str, str]] = {
        "train": "863f29c46ef9d167fff4940ec821195882fe29d1",
        "validation": "0418625c8b4da6e4b5c7a0b9e78d4ae8f7ee5422",
        "test": "c7b8ce0aa086fb34dab808c5c49224211eb2b172",
    }


class LrdWikitext103(_WikiText):
    """WikiText-103 (Merity et al. 2016, arXiv:1609.07843): 103 million words of Wikipedia."""

    FOLDER = "wikitext-103"
    SOURCES = (
        SourceFile(
            "wikitext-103-v1.zip",
            _URL + "wikitext-103-v1.zip",
            sha256="242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
            size=190_229_076,
        ),
    )
    SHA1: ClassVar[dict[str, str]] = {
        "train": "b7497e2dfe77e72cfef5e3dbc61b7b53712ac211",
        "validation": "c326ac59dc587676d58c422eb8a03e119582f92b",
        "test": "8a5befc548865cec54ed4273cf87dbbad60d1e47",
    }
