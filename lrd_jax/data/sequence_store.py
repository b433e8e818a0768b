"""Sequences that do not fit into memory: prepared once, as array_record, then read at random."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lrd_jax.config.paths import expand_user
from lrd_jax.data.builders.sequences import Reader, SequenceBuilder, folder_of
from lrd_jax.data.builders.writing import damaged, generate
from lrd_jax.data.sequence import in_order
from lrd_jax.data.sequence_files import Layout, Place, Sequences, stream
from lrd_jax.data.sequence_fit import Arrays, Fit, Statistics
from lrd_jax.data.sequence_splits import ALL, divide, find_files
from lrd_jax.data.sequences import Part
from lrd_jax.errors import RunError, UserError
from lrd_jax.runtime.locks import locked_folder

_STORED = {"train": "train", "valid": "validation", "test": "test"}  # names as TFDS has them


def prepare_sequences(
    from_dir: str, data_dir: str, name: str, layout: Layout, valid_split: str, test_split: str
) -> tuple[Path, dict[str, int], bool]:
    """Writes the sequences of a folder as a data set of TFDS, unless that was done before.

    Every file is read whole and checked before anything is written.

    Args:
        from_dir: see `sequence_splits.find_files`.
        data_dir: the folder of all prepared data sets; `~` is expanded.
        name: of this one; "": that of the folder.
        layout: what is to be found where.
        valid_split: see `sequence_splits.divide`; no heed is paid to classes.
        test_split: the same.

    Returns:
        Its folder, for `data.path`; the size of each split; whether it was written now.

    Raises:
        UserError: files that are not there or wrong, or no right to write.
        RunError: the disk is full, or fails.
    """
    source = expand_user(from_dir)
    name = name or re.sub(r"[^\w.+-]+", "_", source.stem).strip(".") or "mine"
    if re.fullmatch(r"[\w.+-]+", name) is None or not name.strip("."):
        raise UserError(f"--name={name} names no folder: use letters, digits and any of . _ + -")
    folder = folder_of(expand_user(data_dir, "--data_dir=DIR"), name)
    if (folder / "dataset_info.json").is_file():
        return folder, {s: len(each) for s, each in _lengths(_open(folder)).items()}, False
    files = find_files(source)
    seen = {name: _check(path, layout) for name, path in files.items()}
    first = seen["train" if "train" in seen else ALL][1]
    for _, other in seen.values():
        in_order(other, first.channels)
    labels = _labels([found for found, _ in seen.values()])
    sizes = {name: len(found.lengths) for name, (found, _) in seen.items()}
    chosen = divide(sizes, valid_split, test_split)
    readers: dict[str, Reader] = {}
    for split, of in chosen.items():
        ((name_of_file, numbers),) = of.items()
        part = functools.partial(_some, files[name_of_file], layout, numbers, first.channels)
        readers[_STORED[split]] = part
    try:
        with locked_folder(folder.parent.parent):
            builder = SequenceBuilder(
                readers,
                labels,
                first,
                layout,
                data_dir=folder.parent.parent.parent,
                file_format="array_record",
                config=name,
            )
            for leftover in folder.parent.glob("incomplete.*"):
                shutil.rmtree(leftover)  # of a killed run: whoever is alive holds the lock
            generate(builder, folder.parent.parent.parent / "downloads", source)
    except OSError as error:
        raise RunError(f"preparing {name} in {data_dir} failed: {error}") from error
    sizes = {split: len(numbers) for split, of in chosen.items() for numbers in of.values()}
    return folder, sizes, True


def _check(path: Path, layout: Layout) -> tuple[Statistics, Sequences]:
    """Reads a whole file, and forgets all but its statistics and the first sequence."""
    found, first = Statistics(), None
    for some in stream(path, layout):
        found.add(some)
        first = first or some.take([0])
    assert first is not None  # or `stream` would have refused the file
    return found, first


def _labels(every: list[Statistics]) -> list[str]:
    if all(found.numeric for found in every):
        return []
    return sorted(set().union(*(found.labels for found in every)))


def _some(
    path: Path, layout: Layout, numbers: np.ndarray, channels: tuple[str, ...]
) -> Iterator[Sequences]:
    """Reads the sequences of a file that have some numbers, which rise; channels in this order."""
    start = 0
    for some in stream(path, layout):
        low, high = np.searchsorted(numbers, (start, start + len(some)))
        start += len(some)
        if high > low:
            wanted = (numbers[low:high] - (start - len(some))).tolist()
            yield in_order(some.take(wanted), channels)


def read_prepared(
    folder: Path,
) -> tuple[Statistics, Layout | None, dict[str, Callable[[Fit], Part]]]:
    """Opens what `prepare_sequences` wrote.

    Args:
        folder: as it returned it.

    Returns:
        The statistics of the training sequences; how the files were read, None where an earlier
        version wrote it; and split -> what makes its `Part`, given the fit.

    Raises:
        UserError: it is damaged, or was not written so.
    """
    builder = _open(folder)
    lengths = _lengths(builder)
    content = builder.info.metadata["train"]["statistics"]
    training = Statistics.from_json(content, lengths["train"].tolist())
    parts = {split: functools.partial(_part, builder, split, training) for split in _STORED}
    kept = builder.info.metadata.get("layout")
    layout = None if kept is None else Layout(**kept)
    return training, layout, {s: functools.partial(make, lengths[s]) for s, make in parts.items()}


def _part(builder: Any, split: str, training: Statistics, lengths: np.ndarray, fit: Fit) -> Part:
    """A split on disk as a `Part`, which reads records when they are asked for."""
    source = builder.as_data_source(split=_STORED[split])
    labels = builder.info.metadata["labels"]
    file = f"{builder.data_dir}, {split}"

    def target(record: dict[str, Any]) -> np.ndarray:
        numbers = record["target"]
        if not labels:
            return numbers
        named = [labels[int(number)] for number in numbers.ravel()]
        return np.array(named, object).reshape(numbers.shape)

    def read(numbers: np.ndarray) -> Arrays:
        try:
            records = source.__getitems__(numbers.tolist()) if len(numbers) else []
        except Exception as error:  # whatever the reader of the record files raises
            raise damaged(builder.data_dir, error) from error
        some = Sequences(
            [_text(record["id"]) for record in records],
            [record["inputs"] for record in records],
            [target(record) for record in records] if training.target_names else None,
            training.per_step,
            training.channels,
            training.target_names,
            [Place(file, int(number), "sequence") for number in numbers],
        )
        return fit.apply(some) if len(numbers) else Arrays([], [], [])

    return Part(lengths - (fit.kind == "next"), read)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _open(folder: Path) -> Any:
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever the parser of its files raises
        raise damaged(folder, error) from error


def _lengths(builder: Any) -> dict[str, np.ndarray]:
    try:
        metadata = builder.info.metadata
        return {s: np.array(metadata[name]["lengths"]) for s, name in _STORED.items()}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{builder.data_dir} was not written by `python -m lrd_jax.data.prepare sequences`:"
            " read another set of TFDS by data.name=tfds:<name>"
        ) from error
