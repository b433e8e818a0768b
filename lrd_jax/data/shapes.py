"""Generated pictures of two objects with captions that say what is where; no download.

White pictures of 32 x 32 with two different objects (a colour and a shape) in two neighbouring
quarters. A scene is the objects in order and the quarters, 528 in all; captions tell whether one
is left of or above the other, not in which row or column: 264 sets of captions, three in each. Of
these sets (sorted) every eighth is held out, alternately for validation and test: their scenes
never occur in training.
"""

import itertools

import numpy as np

from lrd_jax.data.captions import Picture

SIZE = 32
PICTURES = 2500
PATCH = 8  # pixels of a side
_COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 210, 50),
}
_SHAPES = ("circle", "square", "triangle")
_OBJECTS = tuple(f"{colour} {shape}" for colour in _COLOURS for shape in _SHAPES)
# Of each relation its captions, and its two pairs of quarters (row, column).
_RELATIONS = {
    "left": (
        ("a {a} left of a {b}", "a {b} right of a {a}", "there is a {a} to the left of a {b}"),
        (((0, 0), (0, 1)), ((1, 0), (1, 1))),
    ),
    "above": (
        ("a {a} above a {b}", "a {b} below a {a}", "there is a {a} on top of a {b}"),
        (((0, 0), (1, 0)), ((0, 1), (1, 1))),
    ),
}


def make(count: int = PICTURES, seed: int = 0) -> tuple[list[Picture], np.ndarray]:
    """Draws scenes.

    Args:
        count: pictures.
        seed: another one draws other scenes.

    Returns:
        The pictures with their captions, and their pixels, (count, 32, 32, 3) uint8.
    """
    pairs = itertools.permutations(_OBJECTS, 2)
    sets = sorted((relation, *pair) for relation, pair in itertools.product(_RELATIONS, pairs))
    held_out = sets[::8]
    splits = dict.fromkeys(held_out[::2], "valid") | dict.fromkeys(held_out[1::2], "test")
    rng = np.random.Generator(np.random.Philox(seed))
    pictures, pixels = [], np.full((count, SIZE, SIZE, 3), 255, np.uint8)
    for number in range(count):
        relation, a, b = sets[rng.integers(len(sets))]
        captions, quarters = _RELATIONS[relation]
        for thing, quarter in zip((a, b), quarters[rng.integers(2)], strict=True):
            _draw(pixels[number], thing, quarter, rng.integers(-1, 2, size=2))
        split = splits.get((relation, a, b), "train")
        texts = [caption.format(a=a, b=b) for caption in captions]
        pictures.append(Picture.of_raw(f"scene-{number:04}.png", number, split, texts))
    return pictures, pixels


def _draw(pixels: np.ndarray, thing: str, quarter: tuple[int, int], shift: np.ndarray) -> None:
    """Draws a coloured shape, such as "red circle", into `pixels` `(SIZE, SIZE, 3)`."""
    colour, shape = thing.split()
    row, column = 8 + 16 * np.array(quarter) + shift
    dy, dx = np.mgrid[:SIZE, :SIZE] - np.array([row, column])[:, None, None]
    inside = {
        "circle": dx**2 + dy**2 <= 36,
        "square": (abs(dx) <= 5) & (abs(dy) <= 5),
        "triangle": (dy >= -6) & (dy <= 5) & (abs(dx) <= (dy + 6) / 2),
    }
    pixels[inside[shape]] = _COLOURS[colour]


def encode(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Makes features without a network.

    Args:
        pixels: (pictures, 32, 32, 3) uint8.

    Returns:
        `fc`, the picture averaged to 16 x 16, (pictures, 768) float32; and `att`, its 16 patches
        of 8 x 8 pixels with their row and column one-hot, (pictures, 16, 200) float32. White is 0.
    """
    ink = 1 - pixels.astype(np.float32) / 255
    count, side = len(ink), SIZE // PATCH
    halves = ink.reshape(count, SIZE // 2, 2, SIZE // 2, 2, 3).mean((2, 4))
    patches = ink.reshape(count, side, PATCH, side, PATCH, 3).swapaxes(2, 3)
    patches = patches.reshape(count, side * side, PATCH * PATCH * 3)
    place = np.eye(side, dtype=np.float32)
    places = np.concatenate([np.repeat(place, side, 0), np.tile(place, (side, 1))], axis=1)
    places = np.broadcast_to(places, (count, *places.shape))
    return halves.reshape(count, -1), np.concatenate([patches, places], axis=2)
