"""A page of pictures with their captions, and where attention looked at every word."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lrd_jax.reporting.page import Html, folded, grid, join, page, picture, tag

_SHOWN = 320  # pixels of a picture's longer side, at most
_SMALL = 128  # of a word's
_LEAST = 160  # smaller pictures are enlarged


class Entry(NamedTuple):
    """A picture on the page.

    Attributes:
      name: of its file.
      caption: words that were said of it.
      score: log probability of them.
      references: captions that people wrote; none of pictures of one's own.
      pixels: (height, width, 3) uint8; None where it is not at hand.
      attention: (words and perhaps the end, parts), rows sum to 1; None without.
      note: shown beside the caption, e.g. a score.
    """

    name: str
    caption: Sequence[str]
    score: float
    references: Sequence[Sequence[str]]
    pixels: np.ndarray | None = None
    attention: np.ndarray | None = None
    note: str = ""


def pillow() -> Any:
    """Returns `PIL.Image`, None where it is not installed."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError:
        return None


def sheet(title: str, about: str, entries: Sequence[Entry]) -> Html:
    """Makes the page.

    Args:
      title: of the page.
      about: a line below it: which model, which split, how it was decoded.
      entries: in the order of the page.
    """
    return page(title, tag("p", about), grid(*(_card(entry) for entry in entries)))


def _card(entry: Entry) -> Html:
    """A picture with its caption, score, references, and where each word looked."""
    said = " ".join(entry.caption) or "(no words)"
    parts: list[Html] = []
    image = pillow()
    if entry.pixels is not None and image is not None:
        shown = _fit(image, entry.pixels, _SHOWN)
        parts.append(picture(_jpeg(shown), said, kind="image/jpeg"))
    parts.append(tag("p", tag("b", said)))
    likely = f"{entry.name}, log p {entry.score:.2f}"
    parts.append(tag("p", f"{likely}, {entry.note}" if entry.note else likely, class_="soft"))
    if entry.references:
        lines = (tag("li", " ".join(words)) for words in entry.references)
        parts.append(folded("by people", tag("ul", *lines)))
    if entry.attention is not None and entry.pixels is not None and image is not None:
        words = [*entry.caption, "(end)"][: len(entry.attention)]
        maps = (
            picture(
                _jpeg(_heat(image, entry.pixels, weights)),
                f"seen at {word}",
                caption=word,
                kind="image/jpeg",
                width=_SMALL,
            )
            for word, weights in zip(words, entry.attention, strict=False)
        )
        parts.append(folded("seen at each word", grid(*maps)))
    return tag("div", join(*parts), class_="card")


def _fit(image: Any, pixels: np.ndarray, side: int) -> Any:
    """A picture with `side` pixels at most, small ones enlarged with their pixels sharp."""
    shown = image.fromarray(pixels)
    least = min(side, _LEAST)
    if max(shown.size) < least:
        factor = least // max(shown.size)
        return shown.resize((shown.width * factor, shown.height * factor), image.Resampling.NEAREST)
    shown.thumbnail((side, side))
    return shown


def _heat(image: Any, pixels: np.ndarray, weights: np.ndarray) -> Any:
    """A small picture, darker where attention did not look; brightest where it looked most."""
    shown = _fit(image, pixels, _SMALL)
    side = math.isqrt(len(weights))
    if side * side != len(weights):  # of features from elsewhere, which are no square
        return shown
    seen = np.asarray(weights, np.float32).reshape(side, side)
    seen = (255 * seen / max(float(seen.max()), 1e-12)).astype(np.uint8)
    mask = image.fromarray(seen).resize(shown.size, image.Resampling.BICUBIC)
    dark = image.blend(shown.convert("L").convert("RGB"), image.new("RGB", shown.size), 0.7)
    return image.composite(shown, dark, mask)


def _jpeg(shown: Any) -> bytes:
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=80)
    return file.getvalue()
