"""Who trains side by side in one program: seeds, crossed with the swept hyper-parameters.

A hyper-parameter can be swept here if it changes no shape, and the step can take it as a number on
the device; `scripts/sweep.py` varies all others, a process a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lrd_jax.errors import UserError

# Key of the group `sweep` -> the key whose place its values take. The optimizer and the draws of
# `detach.*` read theirs by these names; an objective finds all of them in `StepContext.values`.
SWEPT = {
    "learning_rate": "optim.learning_rate",
    "clip_norm": "optim.clip_norm",
    "weight_decay": "optim.weight_decay",
    "p_block": "detach.p_block",
    "c_block": "detach.c_block",
}


class Member(NamedTuple):
    """One of the runs that train side by side.

    Attributes:
      seed: its run seed.
      swept: key of `SWEPT` -> its value; empty where nothing is swept.
    """

    seed: int
    swept: dict[str, float]

    def __str__(self) -> str:
        """For messages, e.g. "learning_rate 0.001, seed 3"."""
        return named({**self.swept, "seed": self.seed})


def named(values: Mapping[str, float]) -> str:
    """Swept values, and perhaps a seed, for people: "learning_rate 0.001, seed 3"."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def members(config: Any) -> list[Member]:
    """Every combination of the swept values with every seed, the seeds running fastest.

    Args:
      config: reads `seed`, `num_seeds` and `sweep.*`, where `()` is not swept.
    """
    names = [name for name in SWEPT if config.sweep[name]]
    combinations = itertools.product(*(map(float, config.sweep[name]) for name in names))
    seeds = range(config.seed, config.seed + config.num_seeds)
    return [
        Member(seed, dict(zip(names, values, strict=True)))
        for values in combinations
        for seed in seeds
    ]


def labels(everyone: Sequence[Member]) -> list[dict[str, Any]]:
    """What tells each member from the others: swept values and seed; {} where it is alone."""
    if len(everyone) == 1 and not everyone[0].swept:
        return [{}]
    return [{"seed": member.seed, **member.swept} for member in everyone]


def check_values(config: Any, check: Callable[[Any], None]) -> None:
    """Checks every swept value as a single run with that value would be.

    Args:
      config: a run's config.
      check: called with the config of each such run; raises UserError.

    Raises:
      UserError: What `check` raised, with the sweep's key before it.
    """
    for name, key in SWEPT.items():
        for value in config.sweep[name]:
            single = config.copy_and_resolve_references()
            single.update_from_flattened_dict(
                {f"sweep.{other}": () for other in SWEPT} | {key: float(value)}
            )
            try:
                check(single)
            except UserError as error:
                raise UserError(f"config.sweep.{name}={config.sweep[name]}: {error}") from error
