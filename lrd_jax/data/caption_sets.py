"""The data sets of pictures with captions, by the keys of `config.data`."""

from typing import Any

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


def make_flickr8k(
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
    """Opens Flickr8k as `lrd_jax.data.prepare` left it; arguments as for `CaptionDataset`.

    Args:
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
    return _prepared(
        "flickr8k",
        data_dir,
        encoder,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        max_words=max_words,
        min_count=min_count,
        vocabulary_from=vocabulary_from,
        standardise=standardise,
        att=att,
    )


def make_coco(
    data_dir: str,
    encoder: str,
    batch_size: int,
    captions_per_image: int,
    max_words: int,
    min_count: int,
    vocabulary_from: str,
    standardise: bool,
    use_restval: bool,
    att: bool,
) -> CaptionDataset:
    """Opens COCO as `make_flickr8k` does; its pictures of the split restval train if asked for."""
    return _prepared(
        "coco",
        data_dir,
        encoder,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        max_words=max_words,
        min_count=min_count,
        vocabulary_from=vocabulary_from,
        standardise=standardise,
        use_restval=use_restval,
        att=att,
    )


def _prepared(name: str, data_dir: str, encoder: str, **options: Any) -> CaptionDataset:
    captions = read_captions(name, data_dir)
    features = open_features(name, data_dir, encoder, att=options["att"])
    return CaptionDataset(
        captions.pictures, features, name=name, draw=captions.thumbnail, **options
    )
