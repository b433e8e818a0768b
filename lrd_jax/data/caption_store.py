"""Prepared captions and features on disk, in plain files that people can exchange.

`<data_dir>/lrd_captions/<name>/captions.json`, and of each encoder a folder beside it with
`fc.npy` (N, F) float32, `att.npy` (N, P, F) float16 and `about.json`. Rows are mapped, not read.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.config.paths import expand_user
from lrd_jax.data.captions import Features, Picture
from lrd_jax.data.pictures import PictureFolder, thumbnail
from lrd_jax.errors import UserError

FOLDER = "lrd_captions"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class StoredCaptions:
    """What `captions.json` holds.

    Attributes:
        pictures: of all splits.
        source: the folder of the picture files; may be gone. "" if there never was one.
        folders: below it, where the captions' file says that they are.
        left_out: names of pictures that could not be read.
    """

    pictures: tuple[Picture, ...]
    source: str = ""
    folders: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @functools.cached_property
    def _files(self) -> PictureFolder | None:
        try:
            return PictureFolder(self.source, self.folders) if self.source else None
        except UserError:  # it is gone
            return None

    def thumbnail(self, place: int) -> np.ndarray | None:
        """Returns a small copy of a picture, (height, width, 3) uint8; None without its file."""
        if self._files is None:
            return None
        try:
            return thumbnail(self._files.open(self.pictures[place].name))
        except UserError:
            return None


def set_folder(name: str, data_dir: str | Path) -> Path:
    """Returns where a set lies."""
    return expand_user(data_dir) / FOLDER / name


def to_json(captions: StoredCaptions) -> str:
    """Returns the text of `captions.json`; words are joined by blanks."""
    pictures = []
    for picture in captions.pictures:
        entry: dict[str, Any] = {
            "name": picture.name,
            "id": picture.number,
            "split": picture.split,
            "tokens": [" ".join(words) for words in picture.tokens],
        }
        if picture.scored != picture.tokens:
            entry["scored"] = [" ".join(words) for words in picture.scored]
        pictures.append(entry)
    content = {
        "version": _VERSION,
        "source": captions.source,
        "folders": list(captions.folders),
        "left_out": list(captions.left_out),
        "pictures": pictures,
    }
    return json.dumps(content, ensure_ascii=False, indent=0) + "\n"


def read_captions(name: str, data_dir: str | Path) -> StoredCaptions:
    """Reads `captions.json` of a prepared set.

    Raises:
        UserError: it is not there, or damaged.
    """
    path = set_folder(name, data_dir) / "captions.json"
    if not path.exists():
        raise UserError(
            f"{name} is not prepared in {data_dir}: run `python -m lrd_jax.data.prepare {name}"
            f" --from_dir=DIR --data_dir={data_dir}`, DIR with its captions and pictures"
        )

    def split(captions: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(caption.split()) for caption in captions)

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pictures = tuple(
            Picture(
                entry["name"],
                int(entry["id"]),
                entry["split"],
                split(entry["tokens"]),
                split(entry.get("scored", entry["tokens"])),
            )
            for entry in content["pictures"]
        )
        return StoredCaptions(
            pictures, content["source"], tuple(content["folders"]), tuple(content["left_out"])
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, and prepare it again") from error


def open_features(name: str, data_dir: str | Path, encoder: str, *, att: bool) -> Features:
    """Maps the features that an encoder made of a set.

    Args:
        name: of the set.
        data_dir: the folder of all prepared data sets.
        encoder: the folder of the features.
        att: whether `att.npy` is wanted; left alone otherwise.

    Raises:
        UserError: none are there, or they are damaged.
    """
    folder = set_folder(name, data_dir) / feature_folder(encoder)
    if not (folder / "about.json").exists():
        raise UserError(
            f"there are no features {encoder} of {name} in {data_dir}: run `python -m"
            f" lrd_jax.data.prepare {name} --from_dir=DIR --encoder={encoder}"
            f" --data_dir={data_dir}`"
        )
    about = read_about(folder)
    names = about.get("names")
    if not isinstance(names, list):
        raise UserError(f"{folder}/about.json is damaged (no names): make the features again")
    fc = load_array(folder / "fc.npy", 2)
    parts = load_array(folder / "att.npy", 3) if att and (folder / "att.npy").exists() else None
    return Features(fc, parts, {name: row for row, name in enumerate(names)}, encoder)


def feature_folder(encoder: str) -> str:
    """Returns the folder of an encoder's features; `torchvision:resnet101` has a colon."""
    return encoder.replace(":", "-")


def read_about(folder: Path) -> Mapping[str, Any]:
    """Reads `about.json`; UserError if it is damaged."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}/about.json is damaged ({error}): delete {folder}, and make it again"
        ) from error
    return about


def load_array(path: Path, axes: int) -> np.ndarray:
    """Maps a .npy file; UserError where it is none, or has other axes."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): make the features again") from error
    if array.ndim != axes or not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{path} is {array.dtype}{list(array.shape)}, and must be numbers on {axes} axes"
        )
    return array
