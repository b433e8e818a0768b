"""Checkpoints: atomic, asynchronous, verified. The only file that knows Orbax."""

from __future__ import annotations

import hashlib
import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from lrd_jax.errors import RunError, UserError
from lrd_jax.runtime import processes

logger = logging.getLogger(__name__)


_BESIDE_BYTES = 1 << 20  # more than what a checkpoint holds beside the arrays


def _digests(tree: Any) -> dict[str, str]:
    """Sha256 of the bytes of every leaf, by its path; the same on any number of processes."""
    return {
        jax.tree_util.keystr(path): hashlib.sha256(_whole(leaf).tobytes()).hexdigest()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _whole(leaf: jax.Array) -> np.ndarray:
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)


def _check_digests(saved: dict[str, str], found: dict[str, str]) -> None:
    for path, digest in found.items():
        if saved.get(path, digest) != digest:
            raise ValueError(f"{path.lstrip('.')} does not match its sha256")


def _shapes(tree: Any) -> dict[str, str]:
    """Dtype and shape of every leaf, e.g. "float32(3, 4)", by its path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _reason(error: Exception) -> str:
    """The first line of a message, cut to a readable length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Checkpoints:
    """The checkpoints of one work directory, newest two kept.

    A checkpoint is one directory that Orbax renames into place when it is complete, so a kill at
    any instant leaves the one before. It holds the state and, beside it, the shapes and digests
    of the state's leaves: a damaged file is noticed even where the storage format has no checksum,
    and told apart from a whole one that was made for another model.
    """

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        """Opens the directory.

        Args:
          directory: created if missing; half-written checkpoints in it are removed.
          read_only: touches nothing, so it may stand beside a run that is writing.
        """
        self._directory = directory
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

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Starts writing a checkpoint; returns once the state may be overwritten.

        Args:
          step: updates applied; the checkpoint's label. One that is there already is replaced.
          state: a tree of arrays.
          extra: JSON values stored beside it.

        Raises:
          RunError: writing failed, now or in the background since the last call.
        """
        # Told here in one line: Orbax's writers print a page of tracebacks when the disk fills up.
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _BESIDE_BYTES
        if (free := shutil.disk_usage(self._directory).free) < size:
            raise self._failure(OSError(f"{size:,} bytes wanted, {free:,} bytes free"))
        # The next step donates the state's buffers, and on a CPU Orbax may write straight from
        # them in the background: it gets a copy of its own.
        state = jax.tree.map(jnp.copy, state)
        try:
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    extra=ocp.args.JsonSave(
                        {**extra, "shapes": _shapes(state), "sha256": _digests(state)}
                    ),
                ),
            )
        except Exception as error:
            raise self._failure(error) from error

    def restore_latest(self, template: Any) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole.

        Newer ones, which are damaged then, are reported and moved aside (`checkpoints_damaged/`;
        where it is if read-only).

        Args:
          template: a tree of `jax.ShapeDtypeStruct` with shardings.

        Returns:
          The state and the JSON values, None if there is no checkpoint.

        Raises:
          UserError: none is whole, and nothing was moved; or the newest holds another model.
        """
        damaged: dict[int, Exception] = {}
        for step in reversed(processes.from_first(self.steps)):
            try:
                extra = self._restore(step, extra=ocp.args.JsonRestore())["extra"]
                shapes, sha256 = extra.pop("shapes"), extra.pop("sha256")
            except Exception as error:  # Orbax raises whatever its readers raise
                damaged[step] = error
                continue
            self._check_fit(shapes, _shapes(template))
            try:
                state = self._restore(step, state=ocp.args.StandardRestore(template))["state"]
                processes.together(_check_digests, sha256, _digests(state))
            except Exception as error:
                damaged[step] = error
                continue
            for newer, error in damaged.items():
                self._set_aside(newer, step, error)
            return state, extra
        if damaged:
            found = "; ".join(f"step {step}: {_reason(e)}" for step, e in damaged.items())
            raise UserError(
                f"no checkpoint in {self._directory} is whole ({found}); bring back a copy, or"
                " choose another --workdir to start over"
            )
        return None

    def _restore(self, step: int, **items: Any) -> Any:
        """Reads items of a checkpoint; what one process cannot read counts as damaged for all."""
        args = ocp.args.Composite(**items)
        return processes.together(self._manager.restore, step, args=args)

    def _check_fit(self, found: dict[str, str], wanted: dict[str, str]) -> None:
        for path in sorted(found.keys() | wanted.keys()):
            old, new = (side.get(path, "nothing") for side in (found, wanted))
            if old != new:
                raise UserError(
                    f"the checkpoints in {self._directory} do not fit: {path.lstrip('.')} is {old}"
                    f" there, and {new} with this config and this version of lrd_jax"
                )

    def _set_aside(self, step: int, whole: int, error: Exception) -> None:
        found = f"the checkpoint of step {step} is damaged ({_reason(error)})"
        instead = f"the one before, of step {whole}, is used"
        if self._read_only:
            logger.warning("%s; %s", found, instead)
            return
        self._manager.close()
        processes.from_first(lambda: self._move_aside(step, found, instead))
        self._manager = self._open()

    def _move_aside(self, step: int, found: str, instead: str) -> None:
        aside = self._directory.with_name(self._directory.name + "_damaged")
        names = itertools.chain([str(step)], (f"{step}-{n}" for n in itertools.count(1)))
        target = next(aside / name for name in names if not (aside / name).exists())
        logger.warning("%s and was moved to %s; %s", found, target, instead)
        aside.mkdir(exist_ok=True)
        shutil.move(self._directory / str(step), target)

    def wait(self) -> None:
        """Returns when everything is on disk; raises RunError if that failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Finishes pending writes and frees the background threads; RunError if a write failed."""
        try:
            self._manager.close()
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> RunError:
        return RunError(
            f"could not write a checkpoint to {self._directory} ({_reason(error)});"
            " the ones before are kept: free some space, then run the same command to continue"
        )
