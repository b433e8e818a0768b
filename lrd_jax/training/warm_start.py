"""A run that starts from the parameters of another one, `train.init_from`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lrd_jax.config import record
from lrd_jax.config.members import members
from lrd_jax.config.paths import expand_user
from lrd_jax.errors import UserError
from lrd_jax.evaluation.best import Best
from lrd_jax.reporting.workdir import read_vocabulary, write_json
from lrd_jax.runtime import processes
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.training.program import Program
from lrd_jax.training.state import TrainState

_FILE = "init_from.json"


class Parameters(NamedTuple):
    """What a run starts from.

    Attributes:
      params: on the host, leaves `(seeds, ...)` of this run.
      record: where they come from: `workdir`, best `step` of each seed there, `sha256` of all.
    """

    params: Any
    record: dict[str, Any]


def read(program: Program) -> Parameters | None:
    """Reads the best parameters of the run that `train.init_from` names, None if it names none.

    The other run may have any config under which the parameters have the same names and shapes; it
    may be in use, and is left as it is. One seed there starts all here; several start as many, one
    by one in their order.

    Raises:
      UserError: there is no such run, it was never validated, or its parameters do not fit.
    """
    given = program.config.train.init_from
    if not given:
        return None
    source = expand_user(given, "--config.train.init_from=DIR")
    what = f"train.init_from={given}"
    try:
        theirs = record.load_workdir(source)
        _check_symbols(source, program)
        count, own = len(members(theirs)), len(program.members)
        if count not in (1, own):
            raise UserError(
                f"it holds {count} runs side by side (seeds, times swept values), and this one is"
                f" to train {own}: one starts all, and several start as many"
            )
        best = _restore(source, program, count)
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    params = jax.tree.map(np.asarray, best.params)
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}\n".encode())
        digest.update(leaf.tobytes())
    return Parameters(
        jax.tree.map(lambda leaf: np.broadcast_to(leaf, (own, *leaf.shape[1:])), params),
        {
            "workdir": str(source.absolute()),
            "step": np.asarray(best.step).tolist(),
            "sha256": digest.hexdigest(),
        },
    )


def begin(program: Program, workdir: Path, warm: Parameters | None) -> TrainState:
    """Returns the state before the first step.

    Args:
      program: of this run.
      workdir: of this run; `init_from.json` says where its parameters come from.
      warm: what `read` returned, if it was called.

    Raises:
      UserError: as `read`; or the run starts again, and what it started from has changed since.
    """
    state = program.init()
    warm = warm or read(program)
    if warm is None:
        return state
    processes.from_first(lambda: _keep(workdir / _FILE, warm.record))

    def put(value: np.ndarray, like: jax.Array) -> jax.Array:
        return jax.make_array_from_callback(value.shape, like.sharding, lambda index: value[index])

    # Two sets: a step donates its own, the best ones stay.
    params, best = (
        jax.tree.map(put, warm.params, like) for like in (state.params, state.best.params)
    )
    processes.say(
        f"starts from the best parameters of {warm.record['workdir']}"
        f" (step {', '.join(map(str, warm.record['step']))})"
    )
    best = state.best.replace(params=best)  # pyright: ignore[reportAttributeAccessIssue]
    return state.replace(params=params, best=best)  # pyright: ignore[reportAttributeAccessIssue]


def recorded(workdir: Path) -> dict[str, Any]:
    """Returns what `result.json` says of it, empty for a run that started from draws."""
    path = workdir / _FILE
    return {"init_from": _recorded(path)} if path.exists() else {}


def _recorded(path: Path) -> dict[str, Any]:
    return record.read_json(path, "choose another --workdir to start again from the other run")


def _keep(path: Path, found: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, found)
    elif _recorded(path).get("sha256") != found["sha256"]:
        raise UserError(
            f"the run in {found['workdir']} has other best parameters than when this one started"
            " from it; choose another --workdir to start from those of now"
        )


def _check_symbols(source: Path, program: Program) -> None:
    """Refuses a language model whose numbers stand for other words or characters."""
    own, theirs = program.dataset.spec.vocabulary, read_vocabulary(source)
    if own is not None and theirs is not None and own.symbols != theirs.symbols:
        raise UserError(
            f"its vocabulary ({len(theirs.symbols)} symbols) is not that of this run's text"
            f" ({len(own.symbols)}): its parameters mean other symbols"
        )


def _restore(source: Path, program: Program, count: int) -> Best:
    """Reads the item `best` of `count` members, whatever metrics it was chosen by."""
    folder = source / "checkpoints"
    if not folder.is_dir():
        raise UserError("it holds no checkpoint yet; train it first")
    place = NamedSharding(program.mesh, P())

    def shape(*sizes: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((count, *sizes), dtype, sharding=place)

    checkpoints = Checkpoints(folder, read_only=True)
    try:
        names = [re.fullmatch(r"\.best\.valid\['(.+)'\]", path) for path in checkpoints.layout()]
        wanted = Best(
            step=shape(dtype=np.int32),
            valid={name[1]: shape(dtype=np.float32) for name in names if name},
            params=jax.tree.map(
                lambda s: shape(*s.shape[1:], dtype=s.dtype), program.template().params
            ),
        )
        restored = checkpoints.restore_latest({"best": wanted})
    finally:
        checkpoints.close()
    if restored is None or not np.asarray(restored[0]["best"].step).all():
        raise UserError("it was not validated yet (all of its seeds must be); train it further")
    return restored[0]["best"]
