"""A run that is trained further than it was to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrd_jax.config import record
from lrd_jax.config.horizon import Horizon, run_horizon
from lrd_jax.config.members import members
from lrd_jax.errors import UserError
from lrd_jax.reporting.results import read_result
from lrd_jax.reporting.workdir import write_json
from lrd_jax.runtime import processes
from lrd_jax.training.optimizer import make_schedule
from lrd_jax.training.program import Program

_POINTS = 4096  # at most so many of the steps taken are compared


def go_on(workdir: Path, program: Program, start: int) -> None:
    """Lets a run go on to another length than its work directory has, and records that.

    Every step taken so far must be as in a run of the new length; then the parameters at its end
    are those of one that had this length from the start, to the bit. An evaluation at the old end
    counts for the best parameters; it is one more where the new run would have none there.

    `config.json` gets the new length, and the old ones in `lengths`; `result.json` of the old end
    becomes `result-<steps>.json`. A kill in between leaves what the same command goes on from.

    Args:
      workdir: its `config.json` differs from the program's config in nothing but the length.
      program: of the new length.
      start: updates applied so far.

    Raises:
      UserError: what was trained would have been different; says what can be done.
    """
    old, new = record.load_workdir(workdir), program.config
    if record.check_same(old, new):
        return
    before: Any = old
    lines = [line for line in record.differences(old, new) if line.startswith(record.LENGTH)]
    horizon = run_horizon(before, program.dataset.num_train)
    if reason := _different(new, horizon, program.horizon, start):
        raise UserError(
            f"the work directory is of a run of another length ({'; '.join(lines)}), which"
            f" {reason} follows: choose another --workdir, and to start from what was trained here"
            f" --config.train.init_from={workdir}"
        )
    if program.horizon.num_steps < start:
        raise UserError(
            f"the run has reached step {start} already, and {'; '.join(lines)} ends it at step"
            f" {program.horizon.num_steps}; choose another --workdir to train less"
        )
    result = workdir / "result.json"
    if result.exists():
        steps = read_result(result)["steps"]
        result.replace(workdir / f"result-{steps}.json")
    content = record.read_json(workdir / "config.json", "bring it back")
    was = {"until_step": start, **{key: before.train[_name(key)] for key in record.LENGTH}}
    content["config"]["train"] |= {_name(key): new.train[_name(key)] for key in record.LENGTH}
    content["lengths"] = [*content.get("lengths", []), was]
    write_json(workdir / "config.json", content)
    processes.say(f"goes on from step {start} with another length: {'; '.join(lines)}")


def _name(key: str) -> str:
    return key.partition(".")[2]


def _different(config: Any, old: Horizon, new: Horizon, start: int) -> str:
    """Names what would have been different before `start`; "" if nothing."""
    steps = np.unique(np.linspace(0, max(0, start - 1), _POINTS).astype(np.int32))
    if not start:
        return ""
    for name, of in _that_know_the_length(config):
        one, other = (np.asarray(jax.vmap(of(horizon))(steps)) for horizon in (old, new))
        if not np.array_equal(one, other):
            return name
    return ""


def _that_know_the_length(config: Any) -> Iterator[tuple[str, Callable[[Horizon], Any]]]:
    """Yields all that a step takes from the length of the run: key, horizon -> step -> value."""
    yield (
        f"optim.schedule={config.optim.schedule}",
        lambda horizon: make_schedule(config.optim, horizon, 1.0),
    )
    blocked = any(
        m.swept.get(key, config.detach[key])
        for m in members(config)
        for key in ("p_block", "c_block")
    )
    if blocked and (last := config.detach.off_last_epochs):
        yield (
            f"detach.off_last_epochs={last}",
            lambda horizon: lambda step: horizon.detach_active(step, last),
        )
    if config.aux.kind != "none" and config.aux.decoder_feed == "scheduled":
        yield "aux.decoder_feed=scheduled", lambda horizon: horizon.phase_progress
