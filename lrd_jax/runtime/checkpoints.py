"""Checkpoints: atomic, asynchronous, verified. The only file that knows Orbax."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from lrd_jax.errors import RunError, UserError
from lrd_jax.runtime import processes

logger = logging.getLogger(__name__)

_BESIDE_BYTES = 1 << 20  # more than what a checkpoint holds beside the arrays

# 1 (without a number): `best` was a part of `state`. 2: it is an item of its own.
_FORMAT = 2

# Of what a run keeps beside the arrays, where it does.
_KINDS = {
    "metrics_bytes": int,
    "wall_time_s": (int, float),
    "seconds": dict,
    "unevaluated": bool,
    "first_nonfinite_step": list,
}

Items = dict[str, Any]  # `state`, `best` -> a tree of arrays, or of their shapes


def _leaves(items: Items) -> Iterator[tuple[str, Any]]:
    """Every leaf with its path: those of `state` by their own, of other items below its name."""
    for name, tree in items.items():
        prefix = "" if name == "state" else f".{name}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            yield prefix + jax.tree_util.keystr(path), leaf


def _of_items(paths: dict[str, str], items: Items) -> dict[str, str]:
    """Those of the paths that belong to these items."""
    return {
        path: value
        for path, value in paths.items()
        if ("best" if path.startswith(".best") else "state") in items
    }


def _digests(items: Items) -> dict[str, str]:
    """Sha256 of the bytes of every leaf, by its path; the same on any number of processes."""
    return {
        path: hashlib.sha256(_whole(leaf).tobytes()).hexdigest() for path, leaf in _leaves(items)
    }


def _whole(leaf: jax.Array) -> np.ndarray:
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def _check_digests(saved: dict[str, str], found: dict[str, str]) -> None:
    for path, digest in found.items():
        if saved.get(path, digest) != digest:
            raise ValueError(f"{path.lstrip('.')} does not match its sha256")


def _shapes(items: Items) -> dict[str, str]:
    """Dtype and shape of every leaf, e.g. "float32(3, 4)", by its path."""
    return {path: f"{leaf.dtype}{leaf.shape}" for path, leaf in _leaves(items)}


def _reason(error: Exception) -> str:
    """The first line of a message, cut to a readable length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


@functools.cache
def _drop_late_answers() -> None:
    """Has nobody told of what TensorStore answers after Orbax has given up a read.

    Orbax reads all arrays at a time and ends at the first that it cannot; the others come back to a
    loop that is closed, each as a page of traceback beside the line that says what is damaged.
    """
    previous = sys.unraisablehook

    def hook(found: Any) -> None:
        if found.object is not None or str(found.exc_value) != "Event loop is closed":
            previous(found)

    sys.unraisablehook = hook


@flax.struct.dataclass
class _Stopped:
    """The one leaf of `state` that evaluation wants; format 2 has it in `extra`."""

    first_nonfinite_step: Any


class _Reader:
    """Reads one checkpoint; what one process cannot read counts as damaged for all."""

    def __init__(self, path: Path) -> None:
        self._step = int(path.name)
        options = ocp.CheckpointManagerOptions(read_only=True)
        self._manager = ocp.CheckpointManager(path.parent, options=options)

    def extra(self) -> tuple[dict[str, Any], int, dict[str, str], dict[str, str]]:
        """Returns JSON values, format, shapes and digests."""
        extra = self._restore(extra=ocp.args.JsonRestore())["extra"]
        shapes, sha256 = dict(extra.pop("shapes")), dict(extra.pop("sha256"))
        if not shapes or shapes.keys() != sha256.keys():
            raise ValueError("what lies beside the arrays does not describe them")
        for name, kind in _KINDS.items():
            if name in extra and not isinstance(extra[name], kind):
                raise ValueError(f"{name} is {extra[name]!r}"[:80])
        return extra, int(extra.pop("format", 1)), shapes, sha256

    def items(self, wanted: Items) -> Items:
        """Returns the items of a checkpoint of this format."""
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = self._restore(**args)
        return {name: restored[name] for name in wanted}

    def items_of_first_format(self, wanted: Items) -> Items:
        """Returns the same where `best` is a field of `state`, and `_Stopped` if that is all."""
        if "state" not in wanted:
            wanted = {**wanted, "state": _Stopped(wanted["best"].step)}  # shaped alike
        state = wanted["state"]
        filled = {name: part for name, part in vars(state).items() if jax.tree.leaves(part)}
        if "best" in wanted:
            filled["best"] = wanted["best"]
        restore_args = ocp.checkpoint_utils.construct_restore_args(filled)
        args = ocp.args.PyTreeRestore(filled, restore_args=restore_args, partial_restore=True)
        parts = dict(self._restore(state=args)["state"])
        items = {"best": parts.pop("best")} if "best" in wanted else {}
        return {"state": dataclasses.replace(state, **parts), **items}

    def _restore(self, **items: Any) -> Any:
        _drop_late_answers()
        args = ocp.args.Composite(**items)
        return processes.together(self._manager.restore, self._step, args=args)

    def close(self) -> None:
        """Frees the background threads."""
        self._manager.close()


class Checkpoints:
    """The checkpoints of one work directory, newest two kept.

    A checkpoint is one directory that Orbax renames into place when it is complete, so a kill at
    any instant leaves the one before. It holds the items `state` (what training goes on from) and
    `best` (what is evaluated), each a tree of arrays that can be restored alone, and `extra`: JSON
    values, with the shapes and digests of all leaves. A damaged file is so noticed even where the
    storage format has no checksum, and told apart from a whole one that was made for another model.

    A step that is saved again first sets the old checkpoint aside, in `checkpoints_replaced/`
    beside the directory, by a rename; it is removed when the new one is complete. Restoring takes
    the one set aside where the new one is missing or damaged.
    """

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        """Opens the directory.

        Args:
          directory: created if missing; half-written checkpoints in it are removed.
          read_only: touches nothing, so it may stand beside a run that is writing.
        """
        self._directory = directory
        self._replaced = directory.with_name(directory.name + "_replaced")
        self._read_only = read_only
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                create=not self._read_only,
                cleanup_tmp_directories=not self._read_only,
                enable_async_checkpointing=True,
                read_only=self._read_only,
            ),
        )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    # ---- Saving -------------------------------------------------------------------------------

    def save(self, step: int, items: Items, extra: dict[str, Any]) -> None:
        """Starts writing a checkpoint; returns once the arrays may be overwritten.

        Args:
          step: updates applied; the checkpoint's label. One that is there already is replaced.
          items: `state` and `best`, trees of arrays.
          extra: JSON values stored beside them.

        Raises:
          RunError: writing failed, now or in the background since the last call.
        """
        # Told here in one line: Orbax's writers print a page of tracebacks when the disk fills up.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(items)) + _BESIDE_BYTES
        if (free := shutil.disk_usage(self._directory).free) < size:
            raise self._failure(OSError(f"{size:,} bytes wanted, {free:,} bytes free"))
        # The next step donates the state's buffers, and on a CPU Orbax may write straight from
        # them in the background: it gets a copy of its own.
        items = jax.tree.map(jnp.copy, items)
        beside = {"format": _FORMAT, "shapes": _shapes(items), "sha256": _digests(items)}
        try:
            self._finish()
            if step in self._manager.all_steps():
                processes.from_first(lambda: self._replace(step))
                self._manager.reload()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                    extra=ocp.args.JsonSave(extra | beside),
                ),
            )
        except Exception as error:
            raise self._failure(error) from error

    def _replace(self, step: int) -> None:
        """Sets a checkpoint aside, until its successor is complete."""
        self._replaced.mkdir(exist_ok=True)
        old = self._replaced / str(step)
        if old.exists():  # of a save that was killed before; what is in place is newer
            _remove(old)
        (self._directory / str(step)).rename(old)

    def _finish(self) -> None:
        """Waits until everything is on disk, and removes what was replaced."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        if processes.is_first() and not self._read_only:
            self._drop_replaced()

    def _drop_replaced(self) -> None:
        """Removes what was set aside and has a successor in place."""
        if not self._replaced.is_dir():
            return
        for old in list(self._replaced.iterdir()):
            if (self._directory / old.name).exists():
                _remove(old)
        if not any(self._replaced.iterdir()):
            self._replaced.rmdir()

    # ---- Restoring ----------------------------------------------------------------------------

    def layout(self) -> dict[str, str]:
        """Dtype and shape of every leaf of the newest readable checkpoint, by path; or nothing."""
        for path in map(Path, processes.from_first(self._candidates)):
            with contextlib.closing(_Reader(path)) as reader, contextlib.suppress(Exception):
                return reader.extra()[2]
        return {}

    def restore_latest(self, wanted: Items) -> tuple[Items, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole.

        Newer ones, which are damaged then, are reported and moved aside (`checkpoints_damaged/`;
        where it is if read-only).

        Args:
          wanted: the items to read, trees of `jax.ShapeDtypeStruct` with shardings. Of a checkpoint
            whose other items are damaged, these are still read.

        Returns:
          The items and the JSON values, None if there is no checkpoint.

        Raises:
          UserError: none is whole, and nothing was moved; or the newest holds another model.
        """
        damaged: dict[Path, Exception] = {}
        self._manager.wait_until_finished()
        for path in map(Path, processes.from_first(self._candidates)):
            with contextlib.closing(_Reader(path)) as reader:
                try:
                    extra, layout, shapes, sha256 = reader.extra()
                except Exception as error:  # Orbax raises whatever its readers raise
                    damaged[path] = error
                    continue
                self._check_fit(layout, _of_items(shapes, wanted), _shapes(wanted))
                try:
                    read = reader.items_of_first_format if layout == 1 else reader.items
                    items = read(wanted)
                    processes.together(_check_digests, sha256, _digests(items))
                except Exception as error:
                    damaged[path] = error
                    continue
            self._settle(path, damaged)
            if "state" not in wanted and layout == 1:
                stopped = jax.device_get(items.pop("state").first_nonfinite_step)
                extra["first_nonfinite_step"] = stopped.tolist()
            return items, extra
        if damaged:
            found = "; ".join(f"step {path.name}: {_reason(e)}" for path, e in damaged.items())
            raise UserError(
                f"no checkpoint in {self._directory} is whole ({found}); bring back a copy, or"
                " choose another --workdir to start over"
            )
        return None

    def _candidates(self) -> list[str]:
        """Folders of the checkpoints, the newest first; of one step, what was replaced last."""
        replaced = self._replaced.glob("*") if self._replaced.is_dir() else []
        steps = [(step, True, self._directory / str(step)) for step in self.steps()]
        steps += [(int(path.name), False, path) for path in replaced]
        return [str(path.absolute()) for *_, path in sorted(steps, reverse=True)]

    def _check_fit(self, layout: int, found: dict[str, str], wanted: dict[str, str]) -> None:
        if layout > _FORMAT:
            raise UserError(
                f"the checkpoints in {self._directory} have format {layout}, which a later version"
                f" of lrd_jax wrote; this one reads up to {_FORMAT}: use that version"
            )
        for path in sorted(found.keys() | wanted.keys()):
            old, new = (side.get(path, "nothing") for side in (found, wanted))
            if old != new:
                raise UserError(
                    f"the checkpoints in {self._directory} do not fit: {path.lstrip('.')} is {old}"
                    f" there, and {new} with this config and this version of lrd_jax"
                )

    def _settle(self, whole: Path, damaged: dict[Path, Exception]) -> None:
        """Reports what is damaged, and leaves `whole` in place as the newest."""
        same = {str(self._directory.absolute() / whole.name): "the one that it replaced"}
        for path, error in damaged.items():
            older = f"the one before, of step {whole.name},"
            found = f"the checkpoint of step {path.name} is damaged ({_reason(error)})"
            instead = f"{same.get(str(path), older)} is used"
            if self._read_only:
                logger.warning("%s; %s", found, instead)
            else:
                processes.from_first(lambda p=path, f=found, i=instead: self._move_aside(p, f, i))
        if not self._read_only:
            processes.from_first(lambda: self._put_back(whole))
            self._manager.close()
            self._manager = self._open()

    def _put_back(self, whole: Path) -> None:
        if whole.parent.name == self._replaced.name:
            whole.rename(self._directory / whole.name)
        self._drop_replaced()

    def _move_aside(self, path: Path, found: str, instead: str) -> None:
        aside = self._directory.with_name(self._directory.name + "_damaged")
        names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(1)))
        target = next(aside / name for name in names if not (aside / name).exists())
        logger.warning("%s and was moved to %s; %s", found, target, instead)
        aside.mkdir(exist_ok=True)
        shutil.move(path, target)

    # ---- Ends ---------------------------------------------------------------------------------

    def wait(self) -> None:
        """Returns when everything is on disk; raises RunError if that failed."""
        try:
            self._finish()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Finishes pending writes and frees the background threads; RunError if a write failed."""
        try:
            self._manager.close()
            if processes.is_first() and not self._read_only:
                self._drop_replaced()
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> RunError:
        kept = "the ones before are kept" if self.steps() else "there is none before it"
        then = "continue" if self.steps() else "start again"
        return RunError(
            f"could not write a checkpoint to {self._directory} ({_reason(error)});"
            f" {kept}: free some space, then run the same command to {then}"
        )
