"""Source files of data sets: download, checksums, packed or unpacked on disk."""

import gzip
import hashlib
import os
import time
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
    """

    name: str
    url: str
    sha256: str
    unpacked_sha256: str = ""


def read_gzip_sources(sources: Sequence[SourceFile], directory: Path) -> dict[str, bytes]:
    """Reads gzip files from disk, which may also lie there unpacked, and checks them.

    The packed file is used where both are there. An unpacked file of unknown checksum is let
    through with a warning, to be judged by its contents.

    Args:
        sources: the wanted files, with names ending in `.gz`.
        directory: where they lie. MNIST's `train-images-idx3-ubyte` may also be called
            `train-images.idx3-ubyte`, as in some archives.

    Returns:
        Unpacked contents by `SourceFile.name`.

    Raises:
        UserError: files are missing, or a checksum is wrong.
    """
    paths = {s.name: path for s in sources if (path := _find(s, directory))}
    if missing := [source.name for source in sources if source.name not in paths]:
        raise UserError(
            f"{directory} lacks {', '.join(missing)} (as they are, or unpacked without .gz)"
        )
    known = {s.sha256: s.name for s in sources}
    known |= {s.unpacked_sha256: s.name for s in sources if s.unpacked_sha256}
    contents = {}
    for source in sources:
        path = paths[source.name]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        packed = path.name == source.name
        expected = source.sha256 if packed else source.unpacked_sha256
        if expected:
            actual = hashlib.sha256(data).hexdigest()
            if actual != expected:
                raise wrong_checksum(path, expected, actual, known.get(actual))
        else:
            logging.warning(
                "%s: not verified, the checksum of the unpacked file is not known; "
                "only its format, size and labels are checked",
                path,
            )
        contents[source.name] = gzip.decompress(data) if packed else data
    return contents


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
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == source.sha256:
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


def _find(source: SourceFile, directory: Path) -> Path | None:
    unpacked = source.name.removesuffix(".gz")
    names = (source.name, unpacked, unpacked.replace("-idx", ".idx"))
    return next((path for name in names if (path := directory / name).is_file()), None)


def wrong_checksum(
    where: Path | str,
    expected: str,
    actual: str,
    other: str | None = None,
    algorithm: str = "sha256",
) -> UserError:
    """Returns the error for a file of another checksum, with the name of what it holds if known."""
    hint = f"; it holds the contents of {other}" if other else ""
    return UserError(
        f"{where} has the wrong {algorithm}: expected {expected}, actual {actual}{hint}"
    )
