"""The layouts in which people have captions: Karpathy's JSON, COCO's JSON, Flickr8k's text."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lrd_jax.config.paths import expand_user
from lrd_jax.data.captions import Picture
from lrd_jax.errors import UserError

_KARPATHY = "dataset_*.json"
_COCO = "captions_*.json"
_FLICKR = "Flickr8k.token.txt"
_FLICKR_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
_SPLITS = {"train": "train", "val": "valid", "test": "test", "restval": "restval"}
_VALIDATE = 5000  # of COCO's val, and as many test


class Source:
    """Captions as they were found.

    Attributes:
        pictures: in the order of the file.
        folders: below the source's folder in which the file says that pictures are.
        authors_number: picture's name -> the number that the code of Arpit et al. gives it.
    """

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.folders: dict[str, None] = {}
        self.authors_number: dict[str, int] = {}


def find_captions(folder: str | Path, say: Callable[[str], None]) -> Source:
    """Reads the captions in a folder, whichever of the three layouts they are in.

    Args:
        folder: with the files, or with COCO's in `annotations`.
        say: told in one line what is dropped.

    Raises:
        UserError: nothing that is known, or something damaged.
    """
    root = expand_user(folder)
    if not root.is_dir():
        raise UserError(f"there is no folder {folder}")
    for pattern, read in (
        (_KARPATHY, _read_karpathy),
        (_COCO, _read_coco),
        (_FLICKR, _read_flickr),
    ):
        if found := [*sorted(root.glob(pattern)), *sorted((root / "annotations").glob(pattern))]:
            return read(found, say)
    others = ", ".join(sorted(path.name for path in root.glob("*"))[:5]) or "nothing"
    raise UserError(
        f"{folder} holds no captions in a known layout ({_KARPATHY}, {_COCO} or {_FLICKR}); found:"
        f" {others}"
    )


def _load(path: Path, *keys: str) -> Any:
    """Returns a JSON file, an object with these keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        kind = ", ".join(list(content)[:5]) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"{path} is in none of the known layouts: it needs lists {' and '.join(keys)}, and"
            f" holds {kind or 'nothing'}"
        )
    return content


def _read_karpathy(paths: Sequence[Path], say: Callable[[str], None]) -> Source:
    """`tokens` are trained on as they are; `raw` is scored."""
    del say
    if len(paths) > 1:
        raise UserError(f"several files of Karpathy's layout ({paths[0].name}, ...): leave one")
    source = Source()
    try:
        for place, image in enumerate(_load(paths[0], "images")["images"]):
            number = image.get("cocoid", image.get("imgid", place))
            if image["split"] not in _SPLITS:
                raise UserError(f"{paths[0]}: unknown split {image['split']!r}")
            sentences = image["sentences"]
            of_raw = Picture.of_raw(
                image["filename"], number, _SPLITS[image["split"]], [s["raw"] for s in sentences]
            )
            tokens = tuple(tuple(sentence["tokens"]) for sentence in sentences)
            source.pictures.append(
                Picture(of_raw.name, number, of_raw.split, tokens, of_raw.scored)
            )
            if image.get("filepath"):
                source.folders[image["filepath"]] = None
            source.authors_number[image["filename"]] = number
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{paths[0]} is not in Karpathy's layout ({error!r})") from error
    return source


def _read_coco(paths: Sequence[Path], say: Callable[[str], None]) -> Source:
    """Train files train; of val the first 5000 numbers validate, the next test; else halves."""
    source = Source()
    for path in paths:
        content = _load(path, "images", "annotations")
        try:
            names = {int(image["id"]): image["file_name"] for image in content["images"]}
            captions = defaultdict(list)
            for note in sorted(content["annotations"], key=lambda note: note["id"]):
                captions[int(note["image_id"])].append(note["caption"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not in COCO's layout ({error!r})") from error
        numbers = sorted(names)
        if "train" in path.stem:
            splits = dict.fromkeys(numbers, "train")
        elif "val" in path.stem:
            half = _VALIDATE if len(numbers) >= 2 * _VALIDATE else len(numbers) // 2
            end = 2 * _VALIDATE if half == _VALIDATE else len(numbers)
            splits = dict.fromkeys(numbers[:half], "valid") | dict.fromkeys(
                numbers[half:end], "test"
            )
            if end < len(numbers):
                say(f"{len(numbers) - end} pictures of {path.name} are in no split")
        else:
            raise UserError(f"{path}: its name says neither train nor val")
        if bare := [number for number in numbers if not captions[number]]:
            say(f"{len(bare)} pictures of {path.name} have no captions: left out")
        source.pictures += [
            Picture.of_raw(names[n], n, splits[n], captions[n])
            for n in numbers
            if n in splits and captions[n]
        ]
        source.authors_number |= {names[n]: n for n in numbers}
    return source


def _read_flickr(paths: Sequence[Path], say: Callable[[str], None]) -> Source:
    """Lines `name.jpg#k<TAB>caption`, and lists of the names in each split."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(paths[0]), 1):
        key, tab, caption = line.partition("\t")
        name, mark, _ = key.rpartition("#")
        if not tab or not mark:
            raise UserError(f"{paths[0]} line {number} is not `name.jpg#k<TAB>caption`")
        captions.setdefault(name, []).append(caption)
    if odd := [name for name in captions if re.search(r"\.jpg\.\d+$", name)]:
        lost = sum(len(captions.pop(name)) for name in odd)
        say(f"{', '.join(odd)} is no picture: {lost} captions left out")
    splits: dict[str, str] = {}
    for word, split in _FLICKR_SPLITS.items():
        path = paths[0].with_name(f"Flickr_8k.{word}Images.txt")
        if not path.exists():
            raise UserError(f"there is no {path}, the list of the pictures in a split")
        splits |= dict.fromkeys((name.strip() for name in _lines(path)), split)
    if without := sum(name not in splits for name in captions):
        say(f"{without} pictures are in no split: left out")
    source = Source()
    known = [name for name in captions if name in splits]
    source.pictures = [
        Picture.of_raw(name, place, splits[name], captions[name])
        for place, name in enumerate(known)
    ]
    source.authors_number = {name: place for place, name in enumerate(known)}
    return source


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text ({error})") from error
    return [line for line in lines if line.strip()]
