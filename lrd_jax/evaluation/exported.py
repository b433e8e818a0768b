"""The best parameters of a run as `lrd_jax.export` writes them: a folder that is used like a run.

`model.safetensors` holds the parameters and `members.json` whose they are: `members`, places among
all that trained, with `step` and `valid`, metrics by name, of each, and whether they are `stacked`,
`(seeds, ...)`, as several that speak as one are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.errors import UserError
from lrd_jax.evaluation.best import Best
from lrd_jax.interchange.weights import Arrays, named

WEIGHTS, MEMBERS = "model.safetensors", "members.json"


def is_exported(folder: Path) -> bool:
    """Whether a folder holds an exported model, and no run of its own."""
    return (folder / WEIGHTS).is_file() and not (folder / "checkpoints").exists()


def by_name(params: Any) -> Arrays:
    """A tree of parameters by dotted names, "recurrence.layer_0.input.kernel"."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        found[_name(path)] = np.ascontiguousarray(
            array if array.dtype.kind in "fiu" else array.astype("f")
        )
    return found


def whose(best: Best, places: Sequence[int], stacked: bool) -> dict[str, Any]:
    """The content of `members.json`.

    Args:
      best: of all that trained, on the host.
      places: of those that are exported, in its leading axis.
      stacked: whether their parameters have that axis too.
    """
    return {
        "members": [*map(int, places)],
        "step": [int(best.step[place]) for place in places],
        "valid": {
            name: [float(value[place]) for place in places] for name, value in best.valid.items()
        },
        "stacked": stacked,
    }


def read(folder: Path, wanted: Best) -> tuple[Best, list[int]]:
    """Reads what `lrd_jax.export` wrote.

    Args:
      folder: holds `model.safetensors` and `members.json`.
      wanted: shapes of all that trained, see `best.shapes`.

    Returns:
      The best of those that were exported, on the host, and their places among all.

    Raises:
      UserError: files that are missing, damaged, or of another model; the package safetensors is
        missing.
    """
    try:
        said = json.loads((folder / MEMBERS).read_text(encoding="utf-8"))
        places = [int(place) for place in said["members"]]
        step = jnp.array(said["step"], jnp.int32)
        valid = {name: jnp.array(said["valid"][name], jnp.float32) for name in wanted.valid}
        stacked, count = bool(said["stacked"]), len(wanted.step)
        if not places or not all(0 <= place < count for place in places):
            raise ValueError(f"members {places} of {count}")
        if any(array.shape != (len(places),) for array in (step, *valid.values())):
            raise ValueError("not one value for each member")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / MEMBERS}, which says whose parameters {WEIGHTS} holds, cannot be read"
            f" ({type(error).__name__}: {error}): export the run again"
        ) from error
    arrays = named(str(folder / WEIGHTS))

    def take(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = _name(path)
        shape = (len(places), *leaf.shape[1:])
        if name not in arrays:
            raise UserError(
                f"{folder / WEIGHTS} has no {name}"
                + (": an auxiliary decoder is not exported, so such a model cannot be loaded again")
                * name.startswith("decoder_")
            )
        array = np.asarray(arrays[name])
        array = array if stacked else array[None]
        if array.shape != shape:
            raise UserError(f"{folder / WEIGHTS}: {name} is {array.shape}, and {shape} is expected")
        return array.astype(leaf.dtype)

    return Best(step, valid, jax.tree_util.tree_map_with_path(take, wanted.params)), places


def _name(path: Any) -> str:
    return ".".join(str(getattr(key, "key", key)) for key in path)
