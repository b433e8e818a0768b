"""Picture files: found in a folder or an archive, opened as RGB whatever they are."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"})
THUMBNAIL = 320  # pixels of the longer side, at most
# Where people keep the pictures of Flickr8k and COCO.
_FOLDERS = ("", "Flicker8k_Dataset", "Images", "images", "train2014", "val2014")
_FOLDERS += ("train2017", "val2017")
_ADVICE = "pictures are read by Pillow: pip install 'lrd-jax[captioning]'"


def pillow() -> Any:
    """Returns `PIL.Image`; UserError that names the extra where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(_ADVICE) from error
    return Image


class PictureFolder:
    """Finds picture files by name: in a folder, in the usual ones below it, or in one archive.

    A context manager; the archive stays packed.
    """

    def __init__(self, folder: str | Path, paths: tuple[str, ...] = ()) -> None:
        """Lists what is there.

        Args:
            folder: with pictures, or with one .tar or .zip of them.
            paths: further folders below it.

        Raises:
            UserError: no such folder, or a damaged archive.
        """
        self._archive: Any = None
        self._root = expand_user(folder)
        if not self._root.is_dir():
            raise UserError(f"there is no folder {folder}")
        self._where: dict[str, Any] = {}
        for below in dict.fromkeys((*paths, *_FOLDERS)):
            self._where |= {
                path.name: path
                for path in sorted((self._root / below).glob("*"))
                if path.suffix.lower() in SUFFIXES and path.name not in self._where
            }
        if not self._where:
            self._open_archive()

    def _open_archive(self) -> None:
        """Opens the one archive of the folder, if any; UserError for several, or a damaged one."""
        archives = sorted(p for p in self._root.glob("*") if p.suffix.lower() in (".tar", ".zip"))
        if len(archives) > 1:
            names = ", ".join(path.name for path in archives[:3])
            raise UserError(f"{self._root} holds several archives ({names}): leave one")
        for path in archives:
            try:
                if path.suffix.lower() == ".tar":
                    self._archive = tarfile.open(path, "r:")
                    members = {m.name: m for m in self._archive.getmembers() if m.isfile()}
                else:
                    self._archive = zipfile.ZipFile(path)
                    members = {m.filename: m for m in self._archive.infolist() if not m.is_dir()}
            except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
                raise UserError(f"the archive {path} is damaged ({error}): get it again") from error
            for name, member in members.items():
                if Path(name).suffix.lower() in SUFFIXES:
                    self._where[Path(name).name] = member

    def __enter__(self) -> "PictureFolder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    __del__ = __exit__

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._where))

    def open(self, name: str) -> Any:
        """Returns a picture as `PIL.Image` in RGB, upright.

        Raises:
            UserError: the file cannot be read as a picture.
        """
        if name not in self._where:
            raise UserError(f"there is no picture {name} in {self._root}")
        where = self._where[name]
        try:
            if isinstance(where, Path):
                data = where.read_bytes()
            elif isinstance(where, tarfile.TarInfo):
                data = self._archive.extractfile(where).read()
            else:
                data = self._archive.read(where)
        except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise UserError(f"the picture {name} cannot be read ({error})") from error
        return decode(data, name)


def decode(data: bytes, name: str) -> Any:
    """Returns the picture in a file's bytes as `PIL.Image` in RGB, turned as its EXIF says.

    Raises:
        UserError: they are no picture.
    """
    image = pillow()
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image.open(io.BytesIO(data))).convert("RGB")
    except image.UnidentifiedImageError as error:  # whose own words name an address in memory
        raise UserError(
            f"the picture {name} cannot be read (of no kind that Pillow knows)"
        ) from error
    except Exception as error:  # Pillow raises many kinds for broken files
        raise UserError(f"the picture {name} cannot be read ({error})") from error


def thumbnail(picture: Any) -> np.ndarray:
    """Returns a copy of at most `THUMBNAIL` pixels a side, (height, width, 3) uint8."""
    picture = picture.copy()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)
