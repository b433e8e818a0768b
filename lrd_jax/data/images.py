"""Images read as sequences: pixel by pixel, in groups of pixels, or row by row.

Sequential and permuted MNIST go back to Le, Jaitly and Hinton (2015), arXiv:1504.00941. Pixels are
in row-major order and scaled to 0 .. 1, and nothing else is done to them unless `data.normalise`
asks for it. A pixel's channels stay together in one step.
"""

import re
from typing import Any

import numpy as np

from lrd_jax.data.permutations import make_permutation
from lrd_jax.data.pipeline import ArrayDataset
from lrd_jax.data.registry import find_builder
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError


def make_dataset(
    name: str,
    data_dir: str,
    batch_size: int,
    permutation: str,
    order: str,
    pixels_per_step: int,
    valid_split: str,
    normalise: bool,
) -> ArrayDataset:
    """Builds an image data set, preparing it on disk first where that was not done yet.

    The images are decoded once, brought into reading order once, and kept as uint8.

    Args:
        name: of the data set.
        data_dir: the folder of all prepared data sets; `~` is expanded.
        batch_size: of the global training batch.
        permutation: see `make_permutation`.
        order: see `to_sequences`.
        pixels_per_step: see `to_sequences`.
        valid_split: see `split_examples`; ignored where the data set has a validation split of its
            own (digits).
        normalise: whether the published mean and deviation of each channel are taken out.

    Raises:
        UserError: a value that is unknown or does not fit; data that cannot be had.
    """
    from lrd_jax.data.prepare import prepared, read_records  # half a second to import

    layout: Any = {"permutation": permutation, "order": order, "pixels_per_step": pixels_per_step}
    # Bad values are found before anything is downloaded.
    spec = image_spec(name, **layout, normalise=normalise)
    _parse_split(valid_split)

    with prepared(name, data_dir) as builder:
        records = {split: read_records(builder, split) for split in builder.info.splits}
    examples = {
        split: (to_sequences(r["image"], **layout), r["label"].astype(np.int32))
        for split, r in records.items()
    }
    if "validation" not in examples:
        inputs, targets = examples["train"]
        train, valid = split_examples(len(inputs), valid_split)
        examples["train"] = inputs[train], targets[train]
        examples["validation"] = inputs[valid], targets[valid]
    splits = {
        "train": examples["train"],
        "valid": examples["validation"],
        "test": examples["test"],
    }
    read = order if permutation == "none" else f"permutation {permutation}"
    return ArrayDataset(spec, splits, batch_size, f"{name} ({read})")


def image_spec(
    name: str, permutation: str, order: str, pixels_per_step: int, normalise: bool
) -> DataSpec:
    """Returns the sizes of an image data set that is read so; needs no images.

    Args:
        name: of the data set.
        permutation: see `make_permutation`.
        order: see `to_sequences`.
        pixels_per_step: see `to_sequences`.
        normalise: see `make_dataset`.

    Raises:
        UserError: a value that is unknown or does not fit.
    """
    builder_class = find_builder(name)
    empty = np.empty((0, *builder_class.IMAGE_SHAPE), np.uint8)
    layout: Any = {"permutation": permutation, "order": order, "pixels_per_step": pixels_per_step}
    _, length, features = to_sequences(empty, **layout).shape
    offset, scale = _scaling(builder_class, normalise, name)
    pixels_in_step = features // len(offset)
    return DataSpec(
        kind="classify",
        length=length,
        features=features,
        classes=len(builder_class.CLASS_NAMES),
        offset=offset * (pixels_in_step if len(offset) > 1 else 1),
        scale=scale * (pixels_in_step if len(scale) > 1 else 1),
        values=builder_class.PIXEL_MAX + 1,
        class_names=tuple(builder_class.CLASS_NAMES),
    )


def to_sequences(
    images: np.ndarray, *, permutation: str, order: str, pixels_per_step: int
) -> np.ndarray:
    """Turns images into sequences.

    The permutation acts on the pixels, with all channels of each; then neighbours in the new order
    are grouped.

    Args:
        images: (examples, height, width, channels).
        permutation: see `make_permutation`.
        order: "pixel", or "row" for one row of the image in each step.
        pixels_per_step: pixels in each step, in the order "pixel".

    Returns:
        Array (examples, time, features) of the same dtype.

    Raises:
        UserError: values that are unknown, do not fit together or do not fit the image.
    """
    count, height, width, channels = images.shape
    if order == "row":
        if permutation != "none" or pixels_per_step != 1:
            raise UserError(
                "data.order=row reads whole rows: it goes with data.permutation=none and "
                f"data.pixels_per_step=1, not {permutation} and {pixels_per_step}"
            )
        return images.reshape(count, height, width * channels)
    if order != "pixel":
        raise UserError(f"unknown data.order {order!r}: use pixel or row")
    pixels = height * width
    if pixels_per_step < 1 or pixels % pixels_per_step:
        raise UserError(
            f"data.pixels_per_step={pixels_per_step} must be a divisor of the {pixels} pixels"
        )
    sequences = images.reshape(count, pixels, channels)
    index = make_permutation(permutation, pixels)
    if permutation != "none":  # the identity would only copy
        sequences = np.take(sequences, index, axis=1)
    return sequences.reshape(count, pixels // pixels_per_step, pixels_per_step * channels)


def to_images(sequences: np.ndarray, shape: tuple[int, int, int], permutation: str) -> np.ndarray:
    """Puts sequences back together, so that a person sees the images; undoes `to_sequences`.

    Args:
        sequences: (examples, time, features), of any values.
        shape: (height, width, channels).
        permutation: as for `to_sequences`; the grouping of pixels does not matter here.

    Returns:
        Array (examples, height, width, channels).
    """
    height, width, channels = shape
    pixels = sequences.reshape(len(sequences), height * width, channels)
    images = np.empty_like(pixels)
    images[:, make_permutation(permutation, height * width)] = pixels
    return images.reshape(len(sequences), *shape)


def split_examples(num_examples: int, valid_split: str) -> tuple[slice, slice]:
    """Divides the training examples, in stored order, into training and validation.

    Args:
        num_examples: of the whole training set.
        valid_split: `last:<n>` or `first:<n>` with n validation examples, at least 1.

    Returns:
        The slices of the training and of the validation examples.

    Raises:
        UserError: `valid_split` is written otherwise, or leaves nothing to train on.
    """
    side, size = _parse_split(valid_split)
    if size >= num_examples:
        raise UserError(
            f"data.valid_split={valid_split} leaves nothing of {num_examples} training examples"
        )
    if side == "first":
        return slice(size, num_examples), slice(0, size)
    return slice(0, num_examples - size), slice(num_examples - size, num_examples)


def _parse_split(valid_split: str) -> tuple[str, int]:
    match = re.fullmatch("(last|first):([1-9][0-9]*)", valid_split)
    if not match:
        raise UserError(
            f"data.valid_split={valid_split!r}: use last:<n> or first:<n> with n at least 1"
        )
    return match[1], int(match[2])


def _scaling(
    builder: Any, normalise: bool, name: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns offset and scale of pixel values: one for all, or with `normalise` one a channel."""
    if not normalise:
        return (0.0,), (1 / builder.PIXEL_MAX,)
    if not builder.MEAN:
        raise UserError(f"data.normalise=true has no published mean and deviation for {name}")
    offset = tuple(mean * builder.PIXEL_MAX for mean in builder.MEAN)
    return offset, tuple(1 / (std * builder.PIXEL_MAX) for std in builder.STD)
