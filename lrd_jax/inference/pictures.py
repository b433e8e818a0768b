"""Pictures of a person's own, for models of images and of captions."""

from __future__ import annotations

import collections
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrd_jax.data.encoders import make_encoder
from lrd_jax.data.images import to_sequences
from lrd_jax.data.pictures import SUFFIXES, PictureFolder, decode, pillow, thumbnail
from lrd_jax.data.pipeline import pad_rows
from lrd_jax.data.registry import find_builder, prepared_names
from lrd_jax.data.spec import Batch
from lrd_jax.errors import UserError
from lrd_jax.evaluation import captions
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.reporting.page import Html
from lrd_jax.reporting.sheet import Entry, sheet

logger = logging.getLogger(__name__)


class Pictures:
    """One picture, or those of a folder (or of an archive in it), by name.

    A context manager; what cannot be read as a picture is left out, and told.
    """

    def __init__(self, path: Path) -> None:
        """Lists them.

        Raises:
          UserError: there are none, or Pillow is not installed.
        """
        pillow()
        self._single = None if path.is_dir() else path
        self._files = PictureFolder(path) if path.is_dir() else None
        if self._files is not None and not list(self._files):
            raise UserError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        if self._files is not None:
            self._files.__exit__()

    def _open(self, name: str) -> Any:
        """A picture as `PIL.Image` in RGB; UserError where it cannot be read."""
        if self._single is not None:
            return decode(self._single.read_bytes(), self._single.name)
        assert self._files is not None
        return self._files.open(name)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yields name and picture of all that can be read; UserError where none can."""
        if self._single is not None:
            yield self._single.name, self._open("")
            return
        read = 0
        for name in self._files or ():
            try:
                picture = self._open(name)
            except UserError as error:
                logger.warning("%s: left out", error)
                continue
            read += 1
            yield name, picture
        if not read:
            raise UserError("none of the pictures can be read")


# ---- Models of images ---------------------------------------------------------------------------


def is_image_set(name: str) -> bool:
    """Whether a data set is images that are read as sequences."""
    return name in prepared_names() and hasattr(find_builder(name), "IMAGE_SHAPE")


def sequence_of(picture: Any, data: Any) -> np.ndarray:
    """A picture as the data set of a config would store it, `(time, features)` uint8.

    It is made as large as those of the data set, grey where they are, and its values brought to
    their range; nothing is turned, cut or inverted.

    Args:
      picture: `PIL.Image`.
      data: the group of the config.
    """
    builder = find_builder(data.name)
    height, width, channels = builder.IMAGE_SHAPE
    mode = "L" if channels == 1 else "RGB"
    fitted = picture.convert(mode).resize((width, height), pillow().Resampling.BOX)
    pixels = np.asarray(fitted, np.float64) * builder.PIXEL_MAX / 255
    image = np.round(pixels).astype(np.uint8).reshape(1, height, width, channels)
    return to_sequences(
        image,
        permutation=data.permutation,
        order=data.order,
        pixels_per_step=data.pixels_per_step,
    )[0]


# ---- Captions -----------------------------------------------------------------------------------


class Captioned(NamedTuple):
    """What was said of a picture.

    Attributes:
      name: of its file.
      words: of the caption.
      score: their log probability.
    """

    name: str
    words: Sequence[str]
    score: float


class Captioner:
    """Captions pictures batch by batch; keeps the first for a page."""

    def __init__(self, loaded: Loaded, seeds: str | int) -> None:
        """Takes the seeds that speak, see `best.chosen`.

        Raises:
          UserError: no such seed, or features of pictures that cannot be made here.
        """
        self._loaded, self._speaker = loaded, captions.speaker_of(loaded, seeds)
        inputs, data = loaded.spec.inputs, loaded.config.data
        att = inputs.get("att")
        grid = math.isqrt(att.shape[0]) if att else 14
        self._encoder = make_encoder("pixels" if data.name == "shapes" else data.encoder, grid)
        if self._encoder.fc_size != inputs["fc"].features:
            raise UserError(
                f"{self._encoder.name} makes {self._encoder.fc_size} features, and the model was"
                f" trained with {inputs['fc'].features}: they are of another encoder"
            )
        self._first: list[tuple[str, np.ndarray]] = []  # of the page, as they are shown
        self._batches: list[Batch] = []  # and as the model sees them
        self._said: list[Captioned] = []

    def __call__(self, pictures: Pictures) -> Iterator[Captioned]:
        """Yields what is said, in the order of the pictures."""
        names: collections.deque[str] = collections.deque()
        most = self._loaded.config.eval.sheet_images
        found = captions.captions_of(self._speaker, self._loaded, self._read(pictures, names, most))
        for words, score in found:
            said = Captioned(names.popleft(), words, score)
            if len(self._said) < most:
                self._said.append(said)
            yield said

    def page(self, where: Path) -> Html:
        """The first pictures with their captions, and where attention looked at every word."""
        looks = captions.attention(self._speaker, iter(self._batches), len(self._said))
        entries = [
            Entry(name, said.words, said.score, (), pixels, look)
            for (name, pixels), said, look in zip(self._first, self._said, looks, strict=False)
        ]
        return sheet("Captions", captions.about(self._loaded, self._speaker, str(where)), entries)

    def _read(
        self, pictures: Pictures, names: collections.deque[str], most: int
    ) -> Iterator[Batch]:
        """Yields batches, and notes the names that are in them."""
        size, count, rest = captions.batch_size(self._loaded), 0, iter(pictures)
        while held := list(itertools.islice(rest, size)):
            names.extend(name for name, _ in held)
            batch = self._features([picture for _, picture in held], count, size if count else 0)
            if len(self._first) < most:
                self._first += [(name, thumbnail(picture)) for name, picture in held]
                self._batches.append(batch)
            count += len(held)
            yield batch

    def _features(self, pictures: list[Any], first: int, size: int) -> Batch:
        """Features of pictures as a data set would give them, in a batch of at least `size`."""
        encoder, rows = self._encoder, {"fc": [], "att": []}
        for start in range(0, len(pictures), encoder.batch_size):
            read = [encoder.read(each) for each in pictures[start : start + encoder.batch_size]]
            blank = [np.zeros_like(read[0])] * (encoder.batch_size - len(read))
            fc, parts = encoder.encode(np.stack(read + blank))
            rows["fc"] += list(fc[: len(read)])
            rows["att"] += list(parts[: len(read)].astype(np.float16))  # as they are stored
        here = {name: np.stack(each) for name, each in rows.items()}
        here["picture"] = np.arange(first, first + len(pictures), dtype=np.int32)
        padding, inputs = max(0, size - len(pictures)), self._loaded.spec.inputs
        return {
            "inputs": {n: pad_rows(each, padding) for n, each in here.items() if n in inputs},
            "mask": pad_rows(np.ones(len(pictures), np.float32), padding),
        }
