"""Features that were made elsewhere, in the files that people have."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.config.paths import expand_user
from lrd_jax.data.caption_files import Source
from lrd_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Brought:
    """Rows of features, read one by one.

    Attributes:
        names: of the pictures.
        read: `fc` or `att`, and a row, to its numbers: (F,), or (P, F) or (g, g, F).
        has_att: whether there are features of parts.
    """

    names: list[str]
    read: Callable[[str, int], np.ndarray]
    has_att: bool

    def row(self, name: str, number: int) -> np.ndarray:
        """Returns a row, parts on one axis."""
        values = np.asarray(self.read(name, number))
        return values.reshape(-1, values.shape[-1]) if name == "att" else values.reshape(-1)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Returns shape and dtype of what is stored."""
        count = len(self.names)
        found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        found["fc"] = ((count, *self.row("fc", 0).shape), np.dtype(np.float32))
        if self.has_att:
            found["att"] = ((count, *self.row("att", 0).shape), np.dtype(np.float16))
        return found


def read(where: str, source: Source, *, att: bool) -> Brought:
    """Opens features in any of these layouts.

    * Folders `*_fc` with `<number>.npy` and `*_att` with `<number>.npz` (key `feat`), as the code
      of Arpit et al. (2019) writes them; the number is `cocoid`, of Flickr8k `imgid`.
    * One `.npz`, or `.h5` (needs h5py), or a folder of `fc.npy` and `att.npy`: `fc` (N, F), `att`
      (N, P, F) or (N, g, g, F), perhaps `names` (N,); without names in the order of the captions.

    Args:
        where: the file or folder.
        source: the captions.
        att: whether features of parts are wanted.

    Raises:
        UserError: none of these, or of other pictures than the captions.
    """
    path = expand_user(where)
    folders = sorted(path.glob("*_fc")) if path.is_dir() else []
    if len(folders) == 1:
        return _of_authors(folders[0], source, att)
    arrays = _arrays(path)
    if "fc" not in arrays:
        raise UserError(f"{where} holds no array `fc`, but {', '.join(arrays) or 'nothing'}")
    names = [str(_text(name)) for name in arrays["names"][:]] if "names" in arrays else []
    wanted = [picture.name for picture in source.pictures]
    count = len(arrays["fc"])
    if not names and count != len(wanted):
        raise UserError(
            f"{where} has {count} rows without names, and there are {len(wanted)} pictures with"
            " captions: they must agree"
        )
    place = {name: row for row, name in enumerate(names or wanted)}
    _check_names(wanted, place, where)
    has_att = att and "att" in arrays
    for name in ("fc", "att") if has_att else ("fc",):
        if len(arrays[name]) < len(place):
            raise UserError(
                f"{name} of {where} has {len(arrays[name])} rows for {len(place)} names"
            )
    return Brought(wanted, lambda name, row: arrays[name][place[wanted[row]]], has_att)


def _of_authors(fc: Path, source: Source, att: bool) -> Brought:
    """Features as the authors' code writes them: a file for each picture, by COCO's number.

    Args:
      fc: the folder of the features of whole pictures, `NUMBER.npy`, each `(F,)`; beside it one of
        those of parts, `NUMBER.npz`, each `(P, F)`.
      source: the pictures that need them.
      att: whether parts are wanted.

    Raises:
      UserError: a picture has none; or, when they are read, a file is damaged.
    """
    parts = fc.with_name(fc.name.removesuffix("_fc") + "_att")
    has_att = att and parts.is_dir()
    numbers = source.authors_number
    wanted = [picture.name for picture in source.pictures]
    there = {name for name in wanted if (fc / f"{numbers[name]}.npy").exists()}
    _check_names(wanted, there, str(fc))

    def read(kind: str, row: int) -> np.ndarray:
        number = numbers[wanted[row]]
        try:
            if kind == "fc":
                return np.load(fc / f"{number}.npy", allow_pickle=False)
            with np.load(parts / f"{number}.npz", allow_pickle=False) as archive:
                return archive["feat"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the features {kind} of {wanted[row]} cannot be read ({error})"
            ) from error

    return Brought(wanted, read, has_att)


def _check_names(wanted: Sequence[str], there: Any, where: str) -> None:
    if missing := [name for name in wanted if name not in there]:
        raise UserError(
            f"the features in {where} are of other pictures than the captions: {len(missing)} are"
            f" missing ({', '.join(missing[:3])})"
        )


def _arrays(path: Path) -> Any:
    """The arrays of a folder or file, by name."""
    try:
        if path.is_dir():
            found = {p.stem: p for p in sorted(path.glob("*.npy"))}
            return {
                name: np.load(p, mmap_mode="r", allow_pickle=False) for name, p in found.items()
            }
        if path.suffix == ".npy":
            return {"fc": np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix == ".npz":
            return dict(np.load(path, allow_pickle=False))
        if path.suffix in (".h5", ".hdf5"):
            try:
                h5py = importlib.import_module("h5py")
            except ImportError as error:
                raise UserError(f"{path} is read by h5py: pip install h5py") from error
            return h5py.File(path, "r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    raise UserError(
        f"{path} holds no features: use folders *_fc and *_att, or a file .npy, .npz or .h5 with"
        " arrays fc and att"
    )


def _text(name: Any) -> Any:
    return name.decode("utf-8") if isinstance(name, bytes) else name
