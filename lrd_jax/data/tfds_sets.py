"""`data.name=tfds:<name>`: a set of TFDS that was prepared as array_record, without TensorFlow.

The files say themselves how they are read, so the code that wrote them is not needed. An example
has one sequence (numbers, (time,) or (time, channels)) or one image, and one label or number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.config.paths import expand_user
from lrd_jax.data.images import to_sequences
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.sequence import Place, Sequences
from lrd_jax.data.sequence_fit import Fit, fit, statistics
from lrd_jax.data.sequence_splits import divide
from lrd_jax.data.sequences import BucketDataset, in_memory, make_batches
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError

_KEY = "--config.data.data_dir=DIR"
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}  # TFDS's names -> ours


def make_tfds(
    name: str,
    data_dir: str,
    batch_size: int,
    permutation: str,
    order: str,
    pixels_per_step: int,
    valid_split: str,
    test_split: str,
    target: str,
    scale: str,
    missing: str,
    buckets: int,
    bucket_batches: int,
    fitted: Fit | None = None,
) -> ArrayDataset | BucketDataset:
    """Builds a data set of what TFDS prepared; it is read into memory.

    Args:
        name: `tfds:NAME`, `tfds:NAME/VARIANT` or `tfds:NAME:VERSION`; else the newest version.
        data_dir: the folder of all prepared data sets; `~` is expanded.
        batch_size: of the global training batch.
        permutation: of images, see `make_permutation`.
        order: of images, see `images.to_sequences`.
        pixels_per_step: of images, see `images.to_sequences`.
        valid_split: where there is no split "validation", see `sequence_splits.divide`.
        test_split: the same of "test".
        target: of sequences, see `sequence_fit.fit`.
        scale: the same.
        missing: the same.
        buckets: of sequences, see `BucketDataset`.
        bucket_batches: the same.
        fitted: see `make_sequences`.

    Raises:
        UserError: it is not prepared, in another format, or has other features.
    """
    import tensorflow_datasets as tfds  # here: the keys of a data set are known without it

    wanted = name.removeprefix("tfds:")
    builder = _open(wanted, data_dir)
    inputs, label = _features(builder, wanted)
    sizes = {ours: builder.info.splits[theirs].num_examples for theirs, ours in _splits(builder)}
    if "train" not in sizes:
        raise UserError(f"{name} has no split called train: {', '.join(builder.info.splits)}")
    chosen = divide(sizes, valid_split, test_split)
    theirs = {ours: theirs for theirs, ours in _SPLITS.items()}
    if isinstance(builder.info.features[inputs], tfds.features.Image) or _is_image(builder, inputs):
        read = {s: _images(builder, theirs[s], inputs, label) for s in sizes}
        layout: Any = {
            "permutation": permutation,
            "order": order,
            "pixels_per_step": pixels_per_step,
        }
        splits: Any = {
            split: (to_sequences(read[source][0][numbers], **layout), read[source][1][numbers])
            for split, of in chosen.items()
            for source, numbers in of.items()
        }
        classes = _class_names(builder.info.features[label], splits)
        _, length, features = splits["train"][0].shape
        spec = DataSpec(
            kind="classify",
            length=length,
            features=features,
            classes=len(classes),
            scale=(1 / 255,),
            values=256,
            class_names=classes,
        )
        return ArrayDataset(spec, splits, batch_size, wanted)
    whole = {s: _sequences(builder, theirs[s], inputs, label) for s in sizes}
    parts = {
        split: whole[source].take(numbers.tolist())
        for split, of in chosen.items()
        for source, numbers in of.items()
    }
    found = fitted or fit(statistics([parts["train"]]), target=target, scale=scale, missing=missing)
    arrays = {split: in_memory(found.apply(some)) for split, some in parts.items()}
    return make_batches(found, arrays, batch_size, wanted, buckets, bucket_batches)


def _open(wanted: str, data_dir: str) -> Any:
    """Opens the newest version of a prepared data set."""
    import tensorflow_datasets as tfds

    from lrd_jax.data.builders.writing import damaged

    if not wanted:
        raise UserError("data.name=tfds: name the data set of TFDS too, as in tfds:mnist")
    name, _, version = wanted.partition(":")
    root = expand_user(data_dir, _KEY)
    command = (
        f"prepare it where TensorFlow is installed: tfds build {name} --file_format=array_record"
        f" --data_dir={root}"
    )
    infos = sorted((root / name).glob("**/dataset_info.json"), key=_by_version)
    if version:
        infos = [info for info in infos if info.parent.name == version]
    if not infos:
        raise UserError(f"data.name=tfds:{wanted}: it is not in {root}; {command}")
    variants = sorted({str(info.parent.parent.relative_to(root)) for info in infos})
    if len(variants) > 1:
        names = ", ".join(f"tfds:{variant}" for variant in variants)
        raise UserError(f"data.name=tfds:{wanted} is there in several variants: {names}")
    folder = infos[-1].parent
    try:
        written = json.loads(infos[-1].read_text(encoding="utf-8")).get("fileFormat", "tfrecord")
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
    if written != "array_record":
        raise UserError(
            f"{folder} is prepared as {written}, which cannot be read at random; {command}"
        )
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever the parser of its files raises
        raise damaged(folder, error) from error


def _by_version(info: Path) -> list[int]:
    return [int(part) if part.isdecimal() else -1 for part in info.parent.name.split(".")]


def _splits(builder: Any) -> list[tuple[str, str]]:
    return [(theirs, ours) for theirs, ours in _SPLITS.items() if theirs in builder.info.splits]


def _features(builder: Any, wanted: str) -> tuple[str, str]:
    """Returns the names of the input and of the label."""
    features = builder.info.features
    shapes = {name: features[name].shape for name in features if name != "id"}
    inputs = [n for n, s in shapes.items() if isinstance(s, tuple) and 1 <= len(s) <= 3]
    numbers = [
        n for n, s in shapes.items() if s == () and np.dtype(features[n].np_dtype).kind in "iuf"
    ]
    if keys := builder.info.supervised_keys:
        chosen = keys[:2]
        if chosen[0] in inputs and chosen[1] in numbers:
            return chosen[0], chosen[1]
    if len(inputs) != 1 or len(numbers) != 1:
        raise UserError(
            f"data.name=tfds:{wanted} must have one sequence or image and one label: it has"
            f" {', '.join(f'{name} {shape}' for name, shape in shapes.items())}"
        )
    return inputs[0], numbers[0]


def _is_image(builder: Any, name: str) -> bool:
    """Tells whether a tensor is an image: three axes of known sizes."""
    return len(builder.info.features[name].shape) == 3


def _images(builder: Any, split: str, inputs: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    from lrd_jax.data.prepare import read_records

    shape = builder.info.features[inputs].shape
    if None in shape or builder.info.features[inputs].np_dtype != np.uint8:
        raise UserError(f"{builder.data_dir}: its images {shape} must be uint8 of one size")
    records = read_records(builder, split)
    return records[inputs], records[label].astype(np.int32)


def _class_names(feature: Any, splits: Mapping[str, Any]) -> tuple[str, ...]:
    if names := getattr(feature, "names", None):
        return tuple(names)
    return tuple(str(n) for n in range(int(splits["train"][1].max()) + 1))


def _sequences(builder: Any, split: str, inputs: str, label: str) -> Sequences:
    """Reads a split of a set of sequences whole; UserError where its records are damaged."""
    from lrd_jax.data.builders.writing import damaged

    feature = builder.info.features[label]
    names = getattr(feature, "names", None)
    try:
        records = list(builder.as_data_source(split=split))
    except Exception as error:  # whatever the reader of the record files raises
        raise damaged(builder.data_dir, error) from error
    values = [np.asarray(record[inputs], np.float32) for record in records]
    values = [each.reshape(len(each), -1) for each in values]
    numbers = [np.asarray(record[label]).item() for record in records]
    labels = [names[n] if names else n for n in numbers]
    return Sequences(
        [str(number) for number in range(len(records))],
        values,
        [np.array([each]) for each in labels],
        False,
        tuple(f"x{number}" for number in range(values[0].shape[1])),
        (label,),
        [Place(f"{builder.data_dir}, {split}", n, "example") for n in range(len(records))],
    )
