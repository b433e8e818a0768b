"""The per-device training and evaluation steps. No I/O, no wrapper: `devices` compiles them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.objectives.base import Objective, Sums
from lrd_jax.runtime.devices import AXIS
from lrd_jax.streams import Draws
from lrd_jax.training.state import TrainState


def _over_seeds(function: Callable[..., Any], one_by_one: bool) -> Callable[..., Any]:
    """Maps over the leading axis of all arguments and results.

    Side by side, the seeds fill up a GPU that a single one leaves idle. A CPU is busy with one, and
    XLA's products with a batch axis are slower there than one after the other. A single seed loses
    its axis: even one of size 1 makes slower code on a CPU.
    """

    def mapped(*args: Any) -> Any:
        if len(jax.tree.leaves(args)[0]) == 1:
            result = function(*jax.tree.map(lambda a: a[0], args))
            return jax.tree.map(lambda a: a[None], result)
        if one_by_one:
            return lax.map(lambda each: function(*each), args)
        return jax.vmap(function)(*args)

    return mapped


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    split: str = "batch",
    one_by_one: bool = False,
) -> TrainState:
    """One update of every seed from this device's slice of their batches.

    Gradients and metrics of all seeds are summed over the axis `data` in one all-reduce, and the
    gradients divided by the count of the metric `loss` afterwards; nothing inside the
    differentiated function communicates. Where the seeds are split instead, nothing communicates
    at all. The wrapper donates `state`.

    Args:
      state: this device's view, see `state_spec`; `carry` is `(seeds, local batch, ...)`.
      batch: leaves `(seeds, local batch, ...)`.
      objective: the loss.
      tx: the optimizer; clipping happens in it, after the mean. Gets the swept values by keyword.
      split: what the devices share, `batch` or `seeds`.
      one_by_one: whether the seeds of a device take turns, in a loop, or are vmapped.

    Returns:
      The new state; metrics are added to `state.sums`. A seed whose loss or gradient is not finite
      keeps its state of before, now and in all later steps.
    """
    together = split == "batch"
    local = batch["mask"].shape[1]
    first = lax.axis_index(AXIS) * local if together else 0

    def gradients(
        params: Any, rng: Array, carry: Any, batch: dict[str, Array], swept: dict[str, Array]
    ) -> tuple[Any, Sums, Any]:
        key = jax.random.fold_in(jax.random.wrap_key_data(rng), state.step)
        draws = Draws(key, first, swept)

        def total_loss(params: Any) -> tuple[Array, tuple[Sums, Any]]:
            return objective.loss(params, carry, batch, draws, state.step)

        grads, (sums, carry) = jax.grad(total_loss, has_aux=True)(params)
        return grads, sums, carry

    grads, sums, carry = _over_seeds(gradients, one_by_one)(
        state.params, state.rng, state.carry, batch, state.swept
    )
    if together:
        grads, sums = lax.psum((grads, sums), AXIS)
    weight = sums["loss"][1]  # (seeds,)
    weight = jnp.where(weight > 0, weight, 1)  # a batch without any scored label changes nothing

    def apply(
        grads: Any, weight: Array, opt_state: Any, params: Any, swept: dict[str, Array]
    ) -> tuple[Any, Any, Array]:
        grads = jax.tree.map(lambda g: g / weight, grads)
        updates, opt_state = tx.update(grads, opt_state, params, **swept)
        return optax.apply_updates(params, updates), opt_state, optax.tree.norm(grads)

    params, opt_state, norm = jax.vmap(apply)(
        grads, weight, state.opt_state, state.params, state.swept
    )
    sums["grad_norm"] = (norm, jnp.ones_like(norm))

    finite = jnp.isfinite(sums["loss"][0]) & jnp.isfinite(norm)
    alive = (state.first_nonfinite_step < 0) & finite

    def if_alive(new: Any, old: Any) -> Any:
        def choose(n: Array, o: Array) -> Array:
            return jnp.where(alive.reshape(alive.shape + (1,) * (n.ndim - 1)), n, o)

        return jax.tree.map(choose, new, old)

    return TrainState(
        step=state.step + 1,
        params=if_alive(params, state.params),
        opt_state=if_alive(opt_state, state.opt_state),
        rng=state.rng,
        carry=if_alive(carry, state.carry),
        sums=if_alive(jax.tree.map(jnp.add, state.sums, sums), state.sums),
        swept=state.swept,
        first_nonfinite_step=jnp.where(
            (state.first_nonfinite_step < 0) & ~finite, state.step + 1, state.first_nonfinite_step
        ),
        best=state.best,
    )


def eval_step(
    params: Any,
    carry: Any,
    batch: dict[str, Array],
    *,
    objective: Objective,
    split: str = "batch",
    one_by_one: bool = False,
) -> tuple[Sums, Any]:
    """Metrics of every seed on this device's slice of one batch that all seeds share.

    Args:
      params: leaves `(seeds, ...)`.
      carry: leaves `(seeds, local batch, ...)`.
      batch: leaves `(local batch, ...)`.
      objective: the loss; it draws nothing here.
      split: as in `train_step`; where the seeds are split, the batch is whole on every device.
      one_by_one: as in `train_step`.

    Returns:
      Sums over the whole batch, each `(seeds,)`, and the carry for the next batch.
    """

    def one(params: Any, carry: Any) -> tuple[Sums, Any]:
        return objective.loss(params, carry, batch, None, 0)[1]

    sums, carry = _over_seeds(one, one_by_one)(params, carry)
    return lax.psum(sums, AXIS) if split == "batch" else sums, carry


def collect_step(
    params: Any, batch: dict[str, Array], *, objective: Objective, one_by_one: bool = False
) -> tuple[dict[str, Array], Array]:
    """What a `CollectedMetric` is made of, of every seed, from this device's slice of a batch.

    Args:
      params: leaves `(seeds, ...)`.
      batch: leaves `(local batch, ...)`.
      objective: has a method `collect`.
      one_by_one: as in `train_step`.

    Returns:
      What the objective collects, leaves `(seeds, local batch, ...)`, and the mask,
      `(seeds, local batch)`.
    """

    def one(params: Any) -> tuple[dict[str, Array], Array]:
        return objective.collect(params, batch), batch["mask"]

    return _over_seeds(one, one_by_one)(params)
