"""Everything that changes during training, as one tree: what a checkpoint holds, in two items."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from lrd_jax.arrays import Array
from lrd_jax.evaluation.best import Best, before_any
from lrd_jax.metrics import Metric, summed
from lrd_jax.objectives.base import Objective
from lrd_jax.runtime.devices import AXIS


@flax.struct.dataclass
class TrainState:
    """State of `seeds` runs that train side by side; in a sweep, of every value with every seed.

    Attributes:
      step: updates applied = batches read, `()`.
      params: leaves `(seeds, ...)`.
      opt_state: leaves `(seeds, ...)`.
      rng: raw key of each seed, `(seeds, 2)` uint32; a step's draws come from (rng, step) alone.
      carry: what travels from batch to batch (a language model's hidden state), leaves
        `(seeds, batch, ...)`, split over the devices like the batch; empty for most tasks.
      sums: metrics since the last log line, name -> sums (a total and a count for most), each
        `(seeds, ...)`.
      swept: each member's values of what is swept, key of `members.SWEPT` -> `(seeds,)`; constant,
        and empty where nothing is swept.
      first_nonfinite_step: the step whose loss or gradient was not finite, -1 if none, `(seeds,)`.
        From there on that seed is frozen.
      best: the best validation result so far.
      average: moving average of the parameters, leaves `(seeds, ...)`; empty without one.
      stopped: the step of the evaluation at which patience ended, -1 if it has not, `(seeds,)`;
        empty without `train.patience`. From there on that seed is frozen.
    """

    step: Array
    params: Any
    opt_state: Any
    rng: Array
    carry: Any
    sums: dict[str, tuple[Array, ...]]
    swept: dict[str, Array]
    first_nonfinite_step: Array
    best: Best
    average: Any = ()
    stopped: Any = ()

    @property
    def scored(self) -> Any:
        """The parameters that are validated, chosen and tested: the average where there is one."""
        return self.average if jax.tree.leaves(self.average) else self.params


def split_best(state: TrainState) -> dict[str, Any]:
    """The items of a checkpoint: what training goes on from, and what is evaluated."""
    rest = state.replace(best=())  # pyright: ignore[reportAttributeAccessIssue]
    return {"state": rest, "best": state.best}


def join_best(items: dict[str, Any]) -> TrainState:
    """The state that `split_best` took apart."""
    return items["state"].replace(best=items["best"])


def state_spec(split: str) -> TrainState:
    """Where each part of the state lives, a PartitionSpec for each.

    Args:
      split: `batch`: replicated, but for the carry, which is split like the batch; `seeds`: each
        device holds some members whole.
    """
    names = [field.name for field in dataclasses.fields(TrainState)]  # pyright: ignore[reportArgumentType]
    if split == "seeds":
        parts = {name: P() if name == "step" else P(AXIS) for name in names}
    else:
        parts = {name: P(None, AXIS) if name == "carry" else P() for name in names}
    return TrainState(**parts)  # pyright: ignore[reportArgumentType]


def init_state(
    seeds: Array,
    swept: dict[str, Array],
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
    batch_size: int,
    averages: bool = False,
    patient: bool = False,
) -> TrainState:
    """Draws the initial state of every seed; the same whether seeds run alone or together.

    Args:
      seeds: the run seed of every member, `(seeds,)` integers.
      swept: its swept values, each `(seeds,)`.
      objective: gives parameters and carry.
      tx: the optimizer.
      batch_size: global batch size.
      averages: whether a moving average of the parameters is kept.
      patient: whether seeds stop where nothing gets better any more.
    """

    def init_one(seed: Array) -> tuple[Any, Any, Array]:
        key = jax.random.key(seed)
        params = objective.init(jax.random.fold_in(key, 0))
        # What a step draws must not depend on how many keys initialisation used.
        return params, tx.init(params), jax.random.key_data(jax.random.fold_in(key, 1))

    params, opt_state, rng = jax.vmap(init_one)(seeds)
    carry = objective.initial_carry(batch_size)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=opt_state,
        rng=rng,
        carry=jax.tree.map(lambda c: jnp.broadcast_to(c, (*seeds.shape, *c.shape)), carry),
        sums={
            metric.name: tuple(jnp.zeros((*seeds.shape, *shape)) for shape in metric.shapes)
            for metric in (*summed(objective.metrics), Metric("grad_norm"))
        },
        swept=swept,
        first_nonfinite_step=jnp.full(seeds.shape, -1, jnp.int32),
        best=before_any(objective, params),
        average=jax.tree.map(jnp.copy, params) if averages else (),
        stopped=jnp.full(seeds.shape, -1, jnp.int32) if patient else (),
    )


def update_best(
    state: TrainState,
    valid: dict[str, Array],
    select: tuple[Metric, ...],
    provisional_steps: int = 0,
    patience: int = 0,
    every: int = 1,
) -> TrainState:
    """Keeps the parameters of the seeds whose validation just improved; stops those without hope.

    How many evaluations a seed's best one lies behind follows from its step, so that no counter has
    to travel with the state.

    Args:
      state: the state that was evaluated.
      valid: its validation metrics, those that are `stored`, name -> `(seeds,)`.
      select: what is compared, most important first; each in the direction that it declares.
      provisional_steps: validations up to this step (of a head that pre-training leaves alone) give
        way to whatever comes next.
      patience: a seed stops at so many evaluations in a row that are no better; 0: never.
      every: steps from one evaluation to the next.
    """
    old = state.best
    better, tied = jnp.zeros_like(old.step, bool), jnp.ones_like(old.step, bool)
    for metric in select:
        new_value, old_value = (metric.better(each[metric.name]) for each in (valid, old.valid))
        # Any number beats a NaN, which no comparison would ever replace.
        better |= tied & ((new_value > old_value) | (jnp.isnan(old_value) & ~jnp.isnan(new_value)))
        tied &= new_value == old_value
    better = (better | (old.step <= provisional_steps)) & (state.first_nonfinite_step < 0)
    if patience:
        better &= state.stopped < 0

    def keep(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - 1)), new, old)

    best = Best(
        step=keep(jnp.broadcast_to(state.step, old.step.shape), old.step),
        valid=jax.tree.map(keep, valid, old.valid),
        params=jax.tree.map(keep, state.scored, old.params),
    )
    if not patience:
        return state.replace(best=best)  # pyright: ignore[reportAttributeAccessIssue]
    waited = state.step // every - best.step // every
    ends = (waited >= patience) & (state.stopped < 0) & (state.first_nonfinite_step < 0)
    stopped = jnp.where(ends, state.step, state.stopped)
    return state.replace(best=best, stopped=stopped)  # pyright: ignore[reportAttributeAccessIssue]
