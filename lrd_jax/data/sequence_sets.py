"""`data.name=sequences`: from a folder of files, or what `lrd_jax.data.prepare` made of them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from lrd_jax.config.paths import expand_user
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.sequence_files import Layout, Sequences, read
from lrd_jax.data.sequence_fit import Fit, fit, kind_of, label_text, statistics
from lrd_jax.data.sequence_splits import divide, find_files
from lrd_jax.data.sequences import BucketDataset, in_memory, make_batches
from lrd_jax.errors import UserError

_KEY = "--config.data.path=DIR"
logger = logging.getLogger(__name__)


def make_sequences(
    path: str,
    batch_size: int,
    valid_split: str,
    test_split: str,
    target: str,
    scale: str,
    missing: str,
    id_column: str,
    time_column: str,
    target_columns: tuple[str, ...],
    channels: tuple[str, ...],
    buckets: int,
    bucket_batches: int,
    fitted: Fit | None = None,
) -> ArrayDataset | BucketDataset:
    """Builds the data set of a person's own sequences.

    Args:
        path: see `sequence_splits.find_files`; or a folder that `lrd_jax.data.prepare` wrote.
        batch_size: of the global training batch.
        valid_split: see `sequence_splits.divide`.
        test_split: the same.
        target: see `sequence_fit.fit`.
        scale: the same.
        missing: the same.
        id_column: see `sequence_files.Layout`.
        time_column: the same.
        target_columns: the same.
        channels: the same.
        buckets: see `BucketDataset`.
        bucket_batches: the same.
        fitted: what was fitted before, on the training sequences of a trained model; None: that is
            done now.

    Raises:
        UserError: a value that is unknown, files that are not there or wrong.
    """
    if not path:
        raise UserError("data.path is to name the folder of your sequences: set " + _KEY)
    folder = expand_user(path, _KEY)
    options: Any = {"target": target, "scale": scale, "missing": missing}
    rest = {"batch_size": batch_size, "buckets": buckets, "bucket_batches": bucket_batches}
    if (folder / "dataset_info.json").is_file():
        from lrd_jax.data.sequence_store import read_prepared  # half a second to import

        training, layout, readers = read_prepared(folder)
        given = Layout(id_column, time_column, target_columns, channels)
        _check_layout(folder, given, layout)
        found = fitted or dataclasses.replace(fit(training, **options), layout=layout or given)
        for key, value, usual in (("valid", valid_split, "last:10000"), ("test", test_split, "")):
            if value != usual:
                logger.warning("data.%s_split=%s has no effect: %s is prepared", key, value, folder)
        parts = {split: part(found) for split, part in readers.items()}
        return make_batches(found, parts, description=_described(folder.parent.name, found), **rest)
    layout = Layout(id_column, time_column, target_columns, channels)
    if target == "next":
        layout = dataclasses.replace(layout, target_columns=())
    splits = split_files(folder, layout, target, valid_split, test_split)
    statistic = statistics([splits["train"]])
    found = fitted or dataclasses.replace(fit(statistic, **options), layout=layout)
    parts = {split: in_memory(found.apply(some)) for split, some in splits.items()}
    return make_batches(found, parts, description=_described(folder.name, found), **rest)


def _check_layout(folder: Path, given: Layout, layout: Layout | None) -> None:
    """Refuses keys that say something else than a folder was prepared with."""
    for field in dataclasses.fields(Layout) if layout is not None else ():
        value, kept = getattr(given, field.name), getattr(layout, field.name)
        if value not in (kept, field.default):
            raise UserError(
                f"data.{field.name}={value!r}: {folder} was prepared with {kept!r}; leave it out,"
                " or prepare it anew under another --name"
            )


def split_files(
    folder: Path, layout: Layout, target: str, valid_split: str, test_split: str
) -> dict[str, Sequences]:
    """Reads the files of a folder into memory, divided as asked for.

    Args:
        folder: see `sequence_splits.find_files`.
        layout: what is to be found where.
        target: `data.target`; where it comes to classes, each gives its share to a part.
        valid_split: see `sequence_splits.divide`.
        test_split: the same.

    Returns:
        "train", "valid" and "test".

    Raises:
        UserError: see `make_sequences`.
    """
    files = {name: read(path, layout) for name, path in find_files(folder).items()}
    source = files.get("train") or files["all"]
    sizes = {name: len(sequences) for name, sequences in files.items()}
    chosen = divide(sizes, valid_split, test_split, _labels(source, target))
    return {
        split: files[name].take(numbers.tolist())
        for split, of in chosen.items()
        for name, numbers in of.items()
    }


def _labels(sequences: Sequences, target: str) -> list[str] | None:
    """The label of each sequence, None where they have no single one."""
    if sequences.targets is None or kind_of(statistics([sequences]), target) != "class":
        return None
    return [label_text(each.ravel()[0]) for each in sequences.targets]


def _described(name: str, found: Fit) -> str:
    what = {
        "class": f"{len(found.classes)} classes",
        "number": f"{found.outputs} number(s) for each",
        "class_per_step": f"{len(found.classes)} classes at each step",
        "number_per_step": f"{found.outputs} number(s) at each step",
        "next": "the next step is predicted",
    }
    return f"{name} ({what[found.kind]}; channels {', '.join(found.channels)[:60]})"
