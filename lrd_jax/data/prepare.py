r"""Prepares data sets on disk; on the command line, also from files that are already there.

    python -m lrd_jax.data.prepare NAME [--from_dir=DIR] [--data_dir=DIR]

Without `--from_dir` the source files are downloaded. Training does the same by itself. Pictures
with captions are never downloaded; of them features are made too (`--encoder`, `--features`). NAME
`sequences` stands for your own, see `sequence_store.prepare_sequences`.
"""

import contextlib
import dataclasses
import logging as stdlogging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lrd_jax.runtime import address_space, terminal

if __name__ == "__main__":  # before what loads JAX
    terminal.be_courteous()
    address_space.check_or_exit()

from lrd_jax.config.command_line import ArgumentParser
from lrd_jax.config.paths import expand_user
from lrd_jax.data.builders import Builder
from lrd_jax.data.builders.sources import DownloadError, download
from lrd_jax.data.builders.writing import DamagedError, damaged, generate
from lrd_jax.data.encoders import DEFAULT
from lrd_jax.data.registry import caption_names, find_builder, prepared_names
from lrd_jax.data.sequence_files import Layout
from lrd_jax.errors import RunError, UserError
from lrd_jax.runtime.locks import locked_folder

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
logger = stdlogging.getLogger(__name__)
_KEY = "--config.data.data_dir=DIR (of lrd_jax.data.prepare: --data_dir=DIR)"
_MOST_DIGITS = 14  # of a number in a variant: NumPy has no error of its own for arrays beyond
_READ_AT_ONCE = 4096  # records; bounds the memory that the decoded ones take


def open_builder(name: str, data_dir: str | Path) -> Builder:
    """Returns the builder of a data set, whether or not it is prepared.

    Args:
        name: of a data set, or `NAME/VARIANT` where it has variants, e.g. `copy/hdetach`.
        data_dir: the folder of all prepared data sets; `~` is expanded.

    Raises:
        UserError: unknown name, or a prepared data set that is damaged or may not be read.
    """
    builder, variant = _look_up(name)
    data_dir = expand_user(data_dir, _KEY)
    try:
        return builder(data_dir=data_dir, file_format="array_record", config=variant or None)
    except OSError as error:
        raise UserError(f"cannot read {data_dir}: {error.strerror}") from error
    except Exception as error:  # whatever the parser of dataset_info.json raises
        folder = data_dir / builder.name / variant
        if not folder.exists():  # a task of one's own that raises while it is drawn
            raise
        raise damaged(folder, error) from error


def _look_up(name: str) -> tuple[type[Builder], str]:
    """Returns the builder and the variant that a name means."""
    name, _, variant = name.partition("/")
    builder = find_builder(name)
    for number in variant.split("-"):
        if number.isdecimal() and len(number.lstrip("0")) > _MOST_DIGITS:
            raise UserError(f"{name}/{variant} is too large: name a smaller variant")
    builder.check_variant(variant)
    return builder, variant


def is_prepared(builder: Builder) -> bool:
    """Returns whether the data set is there, complete.

    Raises:
        UserError: its folder is there, but not complete or not readable.
    """
    try:
        if not builder.data_path.exists():
            return False
        if not builder.is_prepared():
            raise damaged(builder.data_dir, "it is not complete")
        if missing := [split for split in builder.SPLITS if split not in builder.info.splits]:
            raise damaged(builder.data_dir, f"it has no split {missing[0]!r}")
    except OSError as error:
        raise UserError(f"cannot read {builder.data_dir}: {error.strerror}") from error
    return True


def prepare(name: str, data_dir: str | Path, from_dir: str | Path = "") -> Builder:
    """Prepares a data set unless that was done before.

    The data set appears under its name in one step, when it is complete: an interrupted run leaves
    nothing that looks prepared. Of several processes that want the same one, one prepares it.

    Args:
        name: as `open_builder` takes it.
        data_dir: the folder of all prepared data sets; `~` is expanded.
        from_dir: folder of the source files; empty = download them to `data_dir/downloads`.

    Returns:
        The builder, prepared.

    Raises:
        UserError: unknown name; bad, missing or unobtainable source files; no right to write.
        RunError: the disk is full, or fails.
    """
    builder = open_builder(name, data_dir)
    if is_prepared(builder):
        return builder
    if from_dir and not builder.SOURCES:
        raise UserError(f"{name} needs no source files: leave out --from_dir")
    if from_dir and not any(expand_user(from_dir).glob("*")):
        raise UserError(f"there is no directory {from_dir}, or nothing in it")
    folder = Path(builder.data_dir).parent
    with locked_folder(folder):
        builder = open_builder(name, data_dir)  # another process may have prepared it meanwhile
        if is_prepared(builder):
            return builder
        downloads = expand_user(data_dir) / "downloads"
        source_dir = expand_user(from_dir or ".")  # "." where there is nothing to read
        try:
            for leftover in folder.glob("incomplete.*"):
                shutil.rmtree(leftover)  # of a killed run: whoever is alive holds the lock
            if builder.SOURCES and not from_dir:
                source_dir = downloads / builder.name
                for source in builder.SOURCES:
                    download(source, source_dir)
            generate(builder, downloads, source_dir)
        except DownloadError as error:
            raise UserError(
                f"{name} is not prepared in {data_dir} and cannot be downloaded ({error}). Ways "
                "out: train on bundled digits with --config=configs/urlstm_pdigits.py; build it "
                f"from files on disk with `python -m lrd_jax.data.prepare {name} --from_dir=DIR`; "
                "or name the folder of a prepared copy with --config.data.data_dir=DIR"
            ) from error
        except OSError as error:
            raise RunError(f"preparing {name} in {data_dir} failed: {error}") from error
    return builder


@contextlib.contextmanager
def prepared(name: str, data_dir: str | Path) -> Iterator[Builder]:
    """Yields the prepared builder; it lies in a temporary folder where it had nowhere to go.

    That happens only to data that needs no source files: preparing it costs seconds at most, and a
    first run works on any machine.

    Args:
        name: as `open_builder` takes it.
        data_dir: the folder of all prepared data sets; `~` is expanded.

    Raises:
        UserError, RunError: as `prepare`.
    """
    builder_class, _ = _look_up(name)
    try:
        builder = prepare(name, data_dir)
    except (UserError, RunError) as error:
        if builder_class.SOURCES or isinstance(error, DamagedError):
            raise
        logger.warning("%s is made for this run alone: %s", name, error)
        with tempfile.TemporaryDirectory(prefix="lrd_jax-") as folder:
            yield prepare(name, folder)
        return
    yield builder


def read_records(builder: Any, split: str) -> dict[str, np.ndarray]:
    """Reads a prepared split into memory.

    Args:
        builder: a prepared `Builder`.
        split: as TFDS calls it.

    Returns:
        One array (examples, ...) for each feature, in its stored shape and dtype.

    Raises:
        UserError: the files are damaged.
    """
    if split not in builder.info.splits:
        raise damaged(builder.data_dir, f"it has no split {split!r}")
    count = builder.info.splits[split].num_examples
    features = builder.info.features
    arrays = {
        name: np.empty((count, *features[name].shape), features[name].np_dtype) for name in features
    }
    try:
        source = builder.as_data_source(split=split)
        for start in range(0, count, _READ_AT_ONCE):
            numbers = range(start, min(start + _READ_AT_ONCE, count))
            for number, record in zip(numbers, source.__getitems__(numbers), strict=True):
                for name, array in arrays.items():
                    array[number] = record[name]
    except Exception as error:  # whatever the reader of the record files raises
        raise damaged(builder.data_dir, error) from error
    return arrays


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = ArgumentParser(
        prog="python -m lrd_jax.data.prepare",
        description="Prepares a data set, from source files on disk or by downloading them.",
    )
    names = (*prepared_names(), *caption_names(), "sequences")
    parser.add_argument("name", metavar="NAME", help=", ".join(names))
    parser.add_argument(
        "--from_dir", default="", help="folder of the source files, packed (.gz) or unpacked"
    )
    parser.add_argument("--data_dir", default=DEFAULT_DATA_DIR, help="default: %(default)s")
    captions = parser.add_argument_group("pictures with captions")
    captions.add_argument(
        "--encoder",
        default="",
        help=f"network that looks at the pictures: {DEFAULT} (default), torchvision:resnet152 and"
        " the like; with --features a name for them",
    )
    captions.add_argument(
        "--features", default="", metavar="DIR2", help="folder or file of features made elsewhere"
    )
    captions.add_argument(
        "--grid", type=int, default=14, help="torchvision: parts on a side (default: %(default)s)"
    )
    captions.add_argument(
        "--no_att", action="store_true", help="only what Show & Tell needs: no features of parts"
    )
    own = parser.add_argument_group("sequences of your own")
    own.add_argument("--name", dest="set_name", default="", help="default: that of the folder")
    own.add_argument("--valid_split", default="", help="where there is no file for it, e.g. 0.1")
    own.add_argument("--test_split", default="", help="the same")
    for key, default in dataclasses.asdict(Layout()).items():
        text = default if isinstance(default, str) else ",".join(default)
        own.add_argument(f"--{key}", default=text, help=f"see data.{key} (default: %(default)r)")
    logging.use_absl_handler()
    return terminal.status_of(
        lambda: _run(parser.parse_args(argv)), interrupted="interrupted: nothing was prepared"
    )


def _run(flags: Any) -> None:
    if flags.name in caption_names():
        _prepare_captions(flags)
        return
    if flags.name == "sequences":
        _prepare_sequences(flags)
        return
    if flags.encoder or flags.features or flags.no_att:
        raise UserError(
            f"--encoder, --features and --no_att are for {' and '.join(caption_names())}, not"
            f" for {flags.name}: leave them out"
        )
    try:
        was_prepared = is_prepared(open_builder(flags.name, flags.data_dir))
        builder = prepare(flags.name, flags.data_dir, flags.from_dir)
    except MemoryError as error:
        if "/" not in flags.name:
            raise
        raise UserError(f"{flags.name} is too large ({error}): name a smaller variant") from error
    sizes = ", ".join(f"{name} {info.num_examples}" for name, info in builder.info.splits.items())
    sizes += f" {builder.RECORDS}" if builder.RECORDS else ""
    state = "was already prepared" if was_prepared else "is prepared"
    print(f"{flags.name} {state} in {builder.data_dir}: {sizes}")


def _prepare_captions(flags: Any) -> None:
    """Prepares pictures with captions; raises UserError for bad input."""
    from lrd_jax.data import caption_prepare

    encoder = flags.encoder or ("brought" if flags.features else DEFAULT)
    folder = caption_prepare.prepare(
        flags.name,
        flags.data_dir,
        flags.from_dir,
        encoder=encoder,
        features=flags.features,
        grid=flags.grid,
        att=not flags.no_att,
    )
    print(f"{flags.name} is prepared in {folder}: train with --config.data.encoder={encoder}")


def _prepare_sequences(flags: Any) -> None:
    """Prepares a person's own sequences; raises UserError for bad input."""
    from lrd_jax.data import sequence_store

    if not flags.from_dir:
        raise UserError("name the folder of your sequences by --from_dir=DIR")
    given: Any = {
        key: getattr(flags, key)
        if isinstance(default, str)
        else tuple(filter(None, getattr(flags, key).split(",")))
        for key, default in dataclasses.asdict(Layout()).items()
    }
    folder, sizes, written = sequence_store.prepare_sequences(
        flags.from_dir,
        flags.data_dir,
        flags.set_name,
        Layout(**given),
        flags.valid_split,
        flags.test_split,
    )
    state = "is prepared" if written else "was already prepared (delete it to prepare it anew)"
    counted = ", ".join(f"{split} {count}" for split, count in sizes.items())
    print(f"{folder} {state}: {counted}; train with --config.data.path={folder}")


if __name__ == "__main__":
    sys.exit(main())
