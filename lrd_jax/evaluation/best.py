"""The best validation result of a run: what training keeps, and all that an evaluation needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.config.members import Member
from lrd_jax.errors import UserError
from lrd_jax.metrics import Metric, stored
from lrd_jax.objectives.base import Objective
from lrd_jax.reporting.results import rank


@flax.struct.dataclass
class Best:
    """The best validation result so far, per seed.

    Every checkpoint holds it, and seeds trained together can have their best steps at different
    times.

    Attributes:
      step: step of the evaluation, 0 before the first, `(seeds,)`.
      valid: its validation metrics, name -> `(seeds,)`.
      params: its parameters, leaves `(seeds, ...)`.
    """

    step: Array
    valid: dict[str, Array]
    params: Any


def before_any(objective: Objective, params: Any) -> Best:
    """What stands there until the first validation.

    Args:
      objective: names the metrics.
      params: the initial ones, leaves `(seeds, ...)`; copied.
    """
    count = len(jax.tree.leaves(params)[0])
    zeros = jnp.zeros(count)
    return Best(
        step=jnp.zeros(count, jnp.int32),
        valid={metric.name: zeros for metric in stored(objective.metrics)},
        params=jax.tree.map(jnp.copy, params),
    )


def shapes(objective: Objective, count: int) -> Best:
    """Shapes and dtypes of `count` members' `Best`; nothing is computed."""

    def make(seeds: Array) -> Best:
        return before_any(objective, jax.vmap(lambda s: objective.init(jax.random.key(s)))(seeds))

    return jax.eval_shape(make, np.zeros(count, np.int32))


BEST, ALL = "best", "all"  # of the seeds of a run: who speaks


def chosen(
    best: Best, members: Sequence[Member], select: Sequence[Metric], seeds: str | int
) -> list[int]:
    """Places of the members whose parameters are used, among those that were validated.

    Args:
      best: on the host.
      members: as in the leading axis of `best`.
      select: see `best_member`.
      seeds: `best`: the one that validated best; `all`: all of them; or the number of a seed (where
        hyper-parameters were swept, the best of that seed).

    Raises:
      UserError: no such seed.
    """
    known = [place for place in range(len(members)) if best.step[place] > 0]
    if seeds == ALL:
        return known
    if seeds != BEST:
        numbers = sorted({members[place].seed for place in known})
        known = [place for place in known if str(members[place].seed) == str(seeds)]
        if not known:
            raise UserError(
                f"seeds={seeds}: use {BEST}, {ALL}, or a seed of this run that was validated:"
                f" {', '.join(map(str, numbers))}"
            )
    step, valid = best.step[known], {name: value[known] for name, value in best.valid.items()}
    return [known[best_member(Best(step, valid, None), select)]]


def best_member(best: Best, select: Sequence[Metric]) -> int:
    """Place of the member whose validation came out best, of those that had one.

    Args:
      best: on the host.
      select: as for the best checkpoint, see `Objective`.
    """

    def worth(index: int) -> tuple[float, ...]:
        values = {name: float(value[index]) for name, value in best.valid.items()}
        known = {name: v if math.isfinite(v) else None for name, v in values.items()}
        return (float(best.step[index] > 0), *rank(known, select))

    return max(range(len(best.step)), key=worth)
