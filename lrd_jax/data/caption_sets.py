"""The data sets of pictures with captions, by the keys of `config.data`."""

import functools

from lrd_jax.data import shapes
from lrd_jax.data.caption_store import open_features, read_captions
from lrd_jax.data.captions import CaptionDataset, Features


def make_shapes(
    batch_size: int,
    captions_per_image: int,
    max_words: int,
    min_count: int,
    vocabulary_from: str,
    standardise: bool,
    att: bool,
) -> CaptionDataset:
    """Makes the generated set, see `lrd_jax.data.shapes`; arguments as for `CaptionDataset`."""
    pictures, pixels = shapes.make()
    fc, parts = shapes.encode(pixels)
    rows = {picture.name: row for row, picture in enumerate(pictures)}
    return CaptionDataset(
        pictures,
        Features(fc, parts, rows, "pixels"),
        name="shapes",
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        max_words=max_words,
        min_count=min_count,
        vocabulary_from=vocabulary_from,
        standardise=standardise,
        att=att,
        draw=lambda place: pixels[place],
    )


def _open(
    name: str,
    use_restval: bool,
    data_dir: str,
    encoder: str,
    batch_size: int,
    captions_per_image: int,
    max_words: int,
    min_count: int,
    vocabulary_from: str,
    standardise: bool,
    att: bool,
) -> CaptionDataset:
    """Opens a set as `lrd_jax.data.prepare` left it; other arguments as for `CaptionDataset`.

    Args:
        name: of the set.
        use_restval: see `CaptionDataset`.
        data_dir: the folder of all prepared data sets.
        encoder: the folder of the features.
        batch_size: see `CaptionDataset`, as all that follows.
        captions_per_image: see there.
        max_words: see there.
        min_count: see there.
        vocabulary_from: see there.
        standardise: see there.
        att: see there.

    Raises:
        UserError: no captions or features are there, or they do not fit.
    """
    captions = read_captions(name, data_dir)
    features = open_features(name, data_dir, encoder, att=att)
    return CaptionDataset(
        captions.pictures,
        features,
        name=name,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        max_words=max_words,
        min_count=min_count,
        vocabulary_from=vocabulary_from,
        standardise=standardise,
        att=att,
        use_restval=use_restval,
        draw=captions.thumbnail,
    )


# What is left of their parameters are their keys of `config.data`; Flickr8k has no split restval.
make_flickr8k = functools.partial(_open, "flickr8k", True)
make_coco = functools.partial(_open, "coco")
