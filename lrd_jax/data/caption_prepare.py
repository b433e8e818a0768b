"""Prepares pictures with captions: captions.json, and the features of an encoder beside it."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lrd_jax.config.paths import expand_user
from lrd_jax.data import caption_store, features_brought
from lrd_jax.data.caption_files import Source, find_captions
from lrd_jax.data.caption_store import StoredCaptions
from lrd_jax.data.captions import Picture
from lrd_jax.data.encoders import Encoder, make_encoder
from lrd_jax.data.pictures import PictureFolder, pillow
from lrd_jax.errors import RunError, UserError
from lrd_jax.runtime.locks import locked_folder

_SAVE_EVERY = 8  # batches between two notes of how far an extraction is


def prepare(
    name: str,
    data_dir: str | Path,
    from_dir: str | Path,
    *,
    encoder: str,
    features: str = "",
    grid: int = 14,
    att: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes captions and features unless that was done before.

    Both appear under their names in one step when they are complete. An extraction that was
    interrupted goes on where it was, and ends with the same bytes.

    Args:
        name: `flickr8k` or `coco`.
        data_dir: the folder of all prepared data sets.
        from_dir: captions, and pictures unless features are brought.
        encoder: see `make_encoder`; with `features` any name for the folder.
        features: folder or file of features that were made elsewhere.
        grid: torchvision: parts on a side.
        att: whether to keep the features of the parts, or `fc` alone.
        say: told of what is left out, in one line each.

    Returns:
        The folder of the features.

    Raises:
        UserError: captions or pictures that are missing or damaged, or no right to write.
        RunError: the disk is full, or fails.
    """
    if not from_dir:
        raise UserError(
            f"{name} is not downloaded: name the folder of its files with --from_dir=DIR"
        )
    folder = caption_store.set_folder(name, data_dir)
    target = folder / caption_store.feature_folder(encoder)
    if (target / "about.json").exists():
        say(
            f"the features {encoder} of {name} are there already; delete {target} to make them anew"
        )
        return target
    source = find_captions(from_dir, say)
    with locked_folder(folder):
        try:
            if features:
                captions = StoredCaptions(tuple(source.pictures))
                _keep_captions(folder, captions, say, write=False)
                brought = features_brought.read(features, source, att=att)
                _check_disk(folder, brought.shapes())
                _write_brought(folder, target, encoder, brought)
            else:
                with PictureFolder(from_dir, tuple(source.folders)) as files:
                    captions = _with_files(source, files, from_dir, say)
                    _keep_captions(folder, captions, say, write=False)
                    model = make_encoder(encoder, grid)
                    unreadable = _extract(folder, target, model, captions.pictures, files, att, say)
                captions = _without(captions, unreadable)
            _keep_captions(folder, captions, say, write=True)
            (folder / f"incomplete.{target.name}").rename(target)
        except OSError as error:
            raise RunError(f"preparing {name} in {data_dir} failed: {error}") from error
    return target


def _with_files(
    source: Source, files: PictureFolder, where: str | Path, say: Callable[[str], None]
) -> StoredCaptions:
    """The captions whose pictures are there."""
    pictures = source.pictures
    found = tuple(picture for picture in pictures if picture.name in files)
    if not found:
        raise UserError(
            f"none of the {len(pictures)} pictures is in {where} (looked for {pictures[0].name});"
            " name the folder that holds them, or bring features with --features=DIR"
        )
    if len(found) < len(pictures):
        counts = ", ".join(
            f"{sum(p.split == split for p in found)} of {total} {split} pictures found"
            for split in ("train", "restval", "valid", "test")
            if (total := sum(p.split == split for p in pictures))
        )
        say(f"{counts}; captions of the others are left out")
    return StoredCaptions(found, str(expand_user(where).resolve()), tuple(source.folders))


def _without(captions: StoredCaptions, names: Sequence[str]) -> StoredCaptions:
    kept = tuple(picture for picture in captions.pictures if picture.name not in names)
    return dataclasses.replace(captions, pictures=kept, left_out=tuple(names))


def _keep_captions(
    folder: Path, captions: StoredCaptions, say: Callable[[str], None], *, write: bool
) -> None:
    """Writes `captions.json`; one that is there must hold the same captions.

    Raises:
        UserError: it holds others.
    """
    path = folder / "captions.json"
    if not path.exists():
        if write:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(caption_store.to_json(captions), encoding="utf-8")
            temporary.replace(path)
        return
    kept = caption_store.read_captions(folder.name, folder.parent.parent)
    out = set(kept.left_out) | set(captions.left_out)

    def known(stored: StoredCaptions) -> list[Picture]:
        return sorted(p for p in map(_comparable, stored.pictures) if p[0] not in out)

    if known(kept) != known(captions):
        raise UserError(
            f"{path} holds {len(kept.pictures)} pictures with captions, and there are"
            f" {len(captions.pictures)} here, or others: delete {folder} to begin anew, or choose"
            " another --data_dir"
        )
    if write and not kept.source and captions.source:
        say(f"{path} stays as it is: the page of an evaluation will show no pictures")


def _comparable(picture: Picture) -> Any:
    return (picture.name, picture.split, picture.tokens, picture.scored)


def _check_disk(folder: Path, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> None:
    """Raises UserError where the features would not fit on the disk."""
    needed = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the features need {needed / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} free:"
            " make room, choose another --data_dir, or leave out the parts with --no_att"
        )


def _write_brought(folder: Path, target: Path, encoder: str, brought: Any) -> None:
    """Writes features row by row into a folder that gets its name last; UserError for NaN."""
    unfinished = folder / f"incomplete.{target.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name, (shape, dtype) in brought.shapes().items():
        array = np.lib.format.open_memmap(unfinished / f"{name}.npy", "w+", dtype, shape)
        for row in range(shape[0]):
            array[row] = brought.row(name, row)
            if not np.isfinite(array[row]).all():
                raise UserError(
                    f"the features of {brought.names[row]} hold NaN or infinite numbers ({name}):"
                    " make them again"
                )
        array.flush()
    _note(unfinished, {"encoder": encoder, "weights": "brought", "names": brought.names})


def _extract(
    folder: Path,
    target: Path,
    encoder: Encoder,
    pictures: Sequence[Picture],
    files: PictureFolder,
    att: bool,
    say: Callable[[str], None],
) -> list[str]:
    """Fills `incomplete.<encoder>`, going on where an earlier one was; returns what is unreadable.

    A picture that cannot be read has a row of zeros. Batches are the same whenever it starts, and
    so are the bytes.
    """
    pillow()  # or every picture would be unreadable
    names, count, size = [p.name for p in pictures], len(pictures), encoder.batch_size
    unfinished = folder / f"incomplete.{target.name}"
    plan: dict[str, Any] = {
        "encoder": encoder.name,
        "weights": encoder.weights,
        "att_shape": list(encoder.att_shape) if att else None,
        "names": names,
    }
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    shapes["fc"] = ((count, encoder.fc_size), np.dtype(np.float32))
    if att:
        shapes["att"] = ((count, *encoder.att_shape), np.dtype(np.float16))
    done, unreadable = _progress(unfinished, plan)
    if done:
        say(f"going on after {done} of {count} pictures")
    else:
        shutil.rmtree(unfinished, ignore_errors=True)
        _check_disk(folder, shapes)
        unfinished.mkdir()
    arrays = {
        name: np.lib.format.open_memmap(
            unfinished / f"{name}.npy", "r+" if done else "w+", dtype, shape
        )
        for name, (shape, dtype) in shapes.items()
    }
    with tqdm(total=count, initial=done, unit="picture", desc=encoder.name, disable=None) as bar:
        for number, start in enumerate(range(done, count, size), 1):
            here = names[start : start + size]
            seen, missing = _read_batch(encoder, files, here)
            for name in missing:
                say(f"{name} cannot be read as a picture: left out")
            unreadable += missing
            for name, values in seen.items() if seen else ():
                if name in arrays:
                    arrays[name][start : start + len(here)] = values[: len(here)]
            bar.update(len(here))
            if number % _SAVE_EVERY == 0:
                for array in arrays.values():
                    array.flush()
                _note(unfinished, {**plan, "done": start + len(here), "unreadable": unreadable})
    for array in arrays.values():
        array.flush()
    _note(unfinished, {**plan, "done": count, "unreadable": unreadable})
    if len(unreadable) == count:
        raise UserError("none of the pictures can be read")
    return unreadable


def _read_batch(
    encoder: Encoder, files: PictureFolder, names: Sequence[str]
) -> tuple[dict[str, np.ndarray] | None, list[str]]:
    """Features of some pictures, rows of zeros where one cannot be read; and the names of these."""
    read: list[np.ndarray | None] = []
    for name in names:
        try:
            read.append(encoder.read(files.open(name)))
        except UserError:
            read.append(None)
    missing = [name for name, array in zip(names, read, strict=True) if array is None]
    whole = [array for array in read if array is not None]
    if not whole:
        return None, missing
    blank = np.zeros_like(whole[0])
    batch = [blank if array is None else array for array in read]
    batch += [blank] * (encoder.batch_size - len(batch))  # one size, one compilation
    fc, att = encoder.encode(np.stack(batch))
    lost = np.array([array is None for array in read])
    fc[: len(names)][lost] = 0
    att[: len(names)][lost] = 0
    return {"fc": fc, "att": att}, missing


def _progress(unfinished: Path, plan: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many pictures an interrupted extraction of the same plan has done; and its unreadable."""
    try:
        about = json.loads((unfinished / "about.json").read_text(encoding="utf-8"))
        if all(about[key] == value for key, value in plan.items()):
            return int(about["done"]), list(about["unreadable"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0, []


def _note(folder: Path, about: Mapping[str, Any]) -> None:
    temporary = folder / "about.json.tmp"
    temporary.write_text(json.dumps(about, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / "about.json")
