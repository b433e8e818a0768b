"""The per-device training step. No I/O, no wrapper: `devices` compiles it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lrd_jax.arrays import Array
from lrd_jax.objectives.base import Objective, Sums
from lrd_jax.runtime.devices import AXIS, over_members
from lrd_jax.streams import StepContext
from lrd_jax.training.state import TrainState


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    split: str = "batch",
    one_by_one: bool = False,
    ema_decay: float = 0.0,
    accumulate: int = 1,
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
      ema_decay: of the moving average of the parameters; 0: there is none.
      accumulate: parts that the batch is taken in, each a share of every device; no result depends
        on it but for rounding, since losses are sums, and draws belong to a place in the batch.

    Returns:
      The new state; metrics are added to `state.sums`. A seed whose loss or gradient is not finite
      keeps its state of before, now and in all later steps; so does one that `stopped`.
    """
    together = split == "batch"
    local = batch["mask"].shape[1]
    first = lax.axis_index(AXIS) * local if together else 0

    def gradients(
        params: Any, rng: Array, carry: Any, batch: dict[str, Array], swept: dict[str, Array]
    ) -> tuple[Any, Sums, Any]:
        key = jax.random.fold_in(jax.random.wrap_key_data(rng), state.step)

        def of_part(carry: Any, batch: dict[str, Array], first: Any) -> tuple[Any, Sums, Any]:
            step = StepContext(key, state.step, first, swept)

            def total_loss(params: Any) -> tuple[Array, tuple[Sums, Any]]:
                return objective.loss({"params": params}, carry, batch, step)

            grads, (sums, carry) = jax.grad(total_loss, has_aux=True)(params)
            return grads, sums, carry

        if accumulate == 1:
            return of_part(carry, batch, first)
        return _summed_over_parts(of_part, accumulate, carry, batch, first)

    grads, sums, carry = over_members(gradients, one_by_one)(
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
    average: Any = ()
    if ema_decay:
        # optax.ema(debias=True), kept in its unbiased form: the first is the parameters themselves,
        # and at every step it can be evaluated as it is.
        decayed = -jnp.expm1((state.step + 1) * math.log(ema_decay))  # 1 - decay^(step + 1)
        average = optax.incremental_update(params, state.average, (1 - ema_decay) / decayed)
    sums["grad_norm"] = (norm, jnp.ones_like(norm))

    finite = jnp.isfinite(sums["loss"][0]) & jnp.isfinite(norm)
    running = state.first_nonfinite_step < 0
    if jax.tree.leaves(state.stopped):
        running &= state.stopped < 0
    alive = running & finite

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
            running & ~finite, state.step + 1, state.first_nonfinite_step
        ),
        best=state.best,
        average=if_alive(average, state.average),
        stopped=state.stopped,
    )


def _summed_over_parts(
    of_part: Callable[[Any, dict[str, Array], Any], tuple[Any, Sums, Any]],
    count: int,
    carry: Any,
    batch: dict[str, Array],
    first: Any,
) -> tuple[Any, Sums, Any]:
    """Gradients and sums of a batch in parts, one after the other; the carry as of the whole.

    Args:
      of_part: of a part's carry, its batch and the index of its first example.
      count: of parts.
      carry: leaves `(local batch, ...)`.
      batch: the same.
      first: index of the first example.
    """
    size = len(batch["mask"]) // count
    parts = jax.tree.map(lambda x: x.reshape(count, size, *x.shape[1:]), (carry, batch))
    firsts = first + size * jnp.arange(count)

    def add(total: Any, part: Any) -> tuple[Any, Any]:
        (carry, batch), first = part
        grads, sums, carry = of_part(carry, batch, first)
        return jax.tree.map(jnp.add, total, (grads, sums)), carry

    one = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(of_part, one[0], one[1], firsts[0])[:2]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (grads, sums), carries = lax.scan(add, zeros, (parts, firsts))
    return grads, sums, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), carries)


def train_steps(
    state: TrainState,
    resident: Any,
    stretch: Any,
    first: Array,
    count: Array,
    *,
    one: Callable[[TrainState, dict[str, Array]], TrainState],
    take: Callable[[Any, Any], dict[str, Array]],
) -> TrainState:
    """Several updates in one call: `one`, in a loop.

    How often it runs is known only when it is called, so one compiled program serves calls of any
    number of steps, and a run that was cut into other calls is the same to the last bit.

    Args:
      state: as for `train_step`.
      resident: what stays on the devices, whole on each.
      stretch: what each update's batch is taken from it with, leaves `(steps, ...)`.
      first: number in `stretch` of the first update, `()`.
      count: how many, `()`.
      one: `train_step` with its options.
      take: makes a batch of `resident` and one element of `stretch`.
    """

    def body(index: Array, state: TrainState) -> TrainState:
        element = jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), stretch
        )
        return one(state, take(resident, element))

    return lax.fori_loop(first, first + count, body, state)
