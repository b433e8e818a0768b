"""Source files of data sets: download, checksums, packed or unpacked on disk."""

import gzip
import hashlib
import io
import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from absl import logging
from tqdm import tqdm

from lrd_jax.errors import UserError

_TIMEOUT_S = (4, 20)  # to connect, and between two pieces of the answer
_ATTEMPTS = 3
_PAUSE_S = 0.5  # before the second attempt; twice that before the third
_CHUNK_BYTES = 1 << 16


class DownloadError(UserError):
    """The network or the server failed: the file might be had in another way."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set, as its publisher offers it.

    Attributes:
        name: file name, with its suffix.
        url: where to download it.
        sha256: hexadecimal checksum of the file.
        unpacked_sha256: the same of the file unpacked by gunzip; empty where it is not known.
        size: bytes of the file; 0 where it is not known.
        unpacked_size: bytes of the file unpacked by gunzip; 0 where it is not known.
    """

    name: str
    url: str
    sha256: str
    unpacked_sha256: str = ""
    size: int = 0
    unpacked_size: int = 0


def read_gzip_sources(sources: Sequence[SourceFile], directory: Path) -> dict[str, bytes]:
    """Reads gzip files from disk, which may also lie there unpacked, and checks them.

    A known checksum decides: that of the packed file, or, where it was packed again, that of its
    contents. Of several files the first one that is right is used, the packed one before the
    unpacked. An unpacked file of unknown checksum is let through with a warning, to be judged by
    its contents.

    Args:
        sources: the wanted files, with names ending in `.gz`.
        directory: where they lie. MNIST's `train-images-idx3-ubyte` may also be called
            `train-images.idx3-ubyte`, as in some archives.

    Returns:
        Unpacked contents by `SourceFile.name`.

    Raises:
        UserError: files are missing or too long, or a checksum is wrong.
    """
    paths = {source.name: _find(source, directory) for source in sources}
    if missing := [name for name, found in paths.items() if not found]:
        raise UserError(
            f"{directory} lacks {', '.join(missing)} (as they are, or unpacked without .gz)"
        )
    known = {s.sha256: s.name for s in sources}
    known |= {s.unpacked_sha256: s.name for s in sources if s.unpacked_sha256}
    # Of the longest: what was swapped is told by its contents.
    limit = max(source.unpacked_size for source in sources)
    return {s.name: _read_first_right(s, paths[s.name], known, limit) for s in sources}


def _read_first_right(
    source: SourceFile, paths: list[Path], known: dict[str, str], limit: int
) -> bytes:
    """Returns the unpacked contents of the first of some files that is right; raises UserError."""
    faults = []
    for path in paths:
        try:
            data = _read_gzip_source(source, path, known, limit)
        except UserError as error:
            faults.append(error)
            continue
        for fault in faults:
            logging.warning("%s; %s is read instead", fault, path)
        if path.name != source.name and not source.unpacked_sha256:
            logging.warning(
                "%s: not verified, the checksum of the unpacked file is not known; "
                "only its format, size and labels are checked",
                path,
            )
        return data
    raise faults[0]


def _read_gzip_source(source: SourceFile, path: Path, known: dict[str, str], limit: int) -> bytes:
    """Returns the unpacked contents of a file, packed or not.

    Args:
        source: what it should be.
        path: the file; packed if it has the source's name.
        known: what has which checksum.
        limit: unpacked, no file is longer; 0 = it may be.

    Raises:
        UserError: it cannot be read, is too long or has the wrong checksum.
    """
    packed = path.name == source.name
    # The rest: what gzip adds to data that it cannot pack.
    check_size(path, limit + (limit // 100 + 4096 if packed and limit else 0))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    actual = hashlib.sha256(data).hexdigest()
    if not packed:
        if source.unpacked_sha256 and actual != source.unpacked_sha256:
            raise wrong_checksum(path, source.unpacked_sha256, actual, known.get(actual))
        return data
    if actual == source.sha256:
        return gzip.decompress(data)
    unpacked = _gunzip(data, limit)
    inner = "" if unpacked is None else hashlib.sha256(unpacked).hexdigest()
    if unpacked is not None and source.unpacked_sha256 == inner:
        return unpacked
    wrong = wrong_checksum(path, source.sha256, actual, known.get(actual) or known.get(inner))
    if unpacked is not None and not source.unpacked_sha256:
        raise UserError(
            f"{wrong}; if it was only packed again, unpack it: its contents then decide"
        )
    raise wrong


def _gunzip(data: bytes, size: int) -> bytes | None:
    """Unpacks no more than a size (0 = any); None if the data is broken, or holds more."""
    try:
        with gzip.open(io.BytesIO(data)) as file:
            unpacked = file.read(size + 1 if size else -1)
    except (OSError, EOFError, zlib.error):
        return None
    return None if size and len(unpacked) > size else unpacked


def check_size(path: Path, limit: int) -> None:
    """Raises UserError for a file longer than it may be, before it is read; 0 = any length."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if limit and size > limit:
        raise UserError(f"{path} is too long: {size} bytes, and no more than {limit} are expected")


def download(source: SourceFile, directory: Path) -> Path:
    """Fetches a file unless it is already there, and verifies its checksum either way.

    It gets its name only when it is complete and verified. A server that answers with an error of
    its own, or breaks off, is asked again twice; one that cannot be reached is not, so that a
    machine without a network fails at once.

    Args:
        source: the wanted file.
        directory: where to put it; made if need be.

    Returns:
        The path of the file.

    Raises:
        DownloadError: no connection, an error of the server, or an answer that was cut off.
        UserError: the checksum is wrong.
    """
    target = directory / source.name
    if target.is_file() and source.size in (0, target.stat().st_size):
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == source.sha256:
                return target
    directory.mkdir(parents=True, exist_ok=True)
    part = directory / f"{source.name}.part"
    try:
        for attempt in range(_ATTEMPTS):
            try:
                actual = _fetch(source, part)
                break
            except _TransientError as error:
                if attempt == _ATTEMPTS - 1:
                    raise DownloadError(str(error)) from error
                time.sleep(_PAUSE_S * 2**attempt)
        if actual != source.sha256:
            raise wrong_checksum(source.url, source.sha256, actual)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


class _TransientError(Exception):
    """Worth another attempt."""


def _fetch(source: SourceFile, part: Path) -> str:
    """Makes one attempt to download into `part`; returns the sha256 of what came."""
    # identity: some servers unpack a .gz on the way, which would change its checksum.
    headers = {"Accept-Encoding": "identity"}
    try:
        answer = requests.get(source.url, headers=headers, stream=True, timeout=_TIMEOUT_S)
    except requests.exceptions.RequestException as error:
        raise DownloadError(f"{source.url}: no connection: {_reason(error)}") from error
    digest, received = hashlib.sha256(), 0
    with answer, part.open("wb") as file:
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _TransientError(f"{source.url}: the server answers {answer.status_code}")
        if answer.status_code != 200:
            raise DownloadError(f"{source.url}: the server answers {answer.status_code}")
        size = int(answer.headers.get("Content-Length", 0))
        # Or else urllib3 throws away the last piece of an answer that ends too early, and neither
        # its length nor its checksum could be told. The length is compared below.
        answer.raw.enforce_content_length = False
        lost = ""
        # disable=None: no bar where stderr is not a terminal.
        bar = tqdm(total=size or None, desc=source.name, unit="B", unit_scale=True, disable=None)
        try:
            with bar:
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    if 0 < source.size < received:
                        raise UserError(
                            f"{source.url}: another file, of more than the {source.size} bytes"
                            f" expected (sha256 {source.sha256})"
                        )
                    bar.update(len(chunk))
        except requests.exceptions.RequestException as error:
            lost = f" ({_reason(error)})"
    if lost or received < size:
        raise _TransientError(
            f"{source.url}: cut off after {received} of {size or 'unknown'} bytes{lost}, "
            f"expected sha256 {source.sha256}, actual {digest.hexdigest()}"
        )
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """Returns the innermost reason that `requests` wraps up, in one short line."""
    inner = getattr(error.args[0], "reason", error) if error.args else error
    return " ".join(str(inner).split(": ", 1)[-1].split())[:160] or type(error).__name__


def _find(source: SourceFile, directory: Path) -> list[Path]:
    unpacked = source.name.removesuffix(".gz")
    names = (source.name, unpacked, unpacked.replace("-idx", ".idx"))
    return [path for name in names if (path := directory / name).is_file()]


def wrong_checksum(
    where: Path | str,
    expected: str,
    actual: str,
    other: str | None = None,
    algorithm: str = "sha256",
) -> UserError:
    """Returns the error for a file of another checksum.

    Args:
        where: path or URL.
        expected: the checksum, in hexadecimal digits.
        actual: that of the file.
        other: name of what it holds instead, where that is known.
        algorithm: of the checksum.
    """
    hint = f"; it holds the contents of {other}" if other else ""
    return UserError(
        f"{where} has the wrong {algorithm}: expected {expected}, actual {actual}{hint}"
    )
