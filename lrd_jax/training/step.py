"""The per-device training and evaluation steps. No I/O, no wrapper: `devices` compiles them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lrd_jax.draws import Draws
from lrd_jax.objectives.base import Objective, Sums
from lrd_jax.training.devices import AXIS
from lrd_jax.training.state import TrainState

Array = jax.Array


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    objective: Objective,
    tx: optax.GradientTransformation,
) -> TrainState:
    """One update of every seed from this device's slice of their batches.

    Gradients and metrics of all seeds are averaged over the axis `data` in one all-reduce;
    nothing inside the differentiated function communicates. The wrapper donates `state`.

    Args:
      state: this device's view: replicated but for `carry`, `(seeds, local batch, ...)`.
      batch: leaves `(seeds, local batch, ...)`.
      objective: the loss.
      tx: the optimizer; clipping happens in it, after the mean.

    Returns:
      The new state; metrics are added to `state.sums`. A seed whose loss or gradient is not finite
      keeps its state of before, now and in all later steps.
    """
    local = batch["mask"].shape[1]
    first = lax.axis_index(AXIS) * local
    examples = batch["mask"].reshape(len(batch["mask"]), -1).sum(axis=1)
    weight = lax.pmean(examples, AXIS)  # (seeds,) examples per device, on average

    def gradients(
        params: Any, rng: Array, carry: Any, batch: dict[str, Array], weight: Array
    ) -> tuple[Any, Sums, Any]:
        key = jax.random.fold_in(jax.random.wrap_key_data(rng), state.step)
        draws = Draws(key, first)

        def mean_loss(params: Any) -> tuple[Array, tuple[Sums, Any]]:
            total, aux = objective.loss(params, carry, batch, draws, state.step)
            return total / weight, aux

        grads, (sums, carry) = jax.grad(mean_loss, has_aux=True)(params)
        return grads, sums, carry

    grads, sums, carry = jax.vmap(gradients)(state.params, state.rng, state.carry, batch, weight)
    grads, sums = lax.pmean((grads, sums), AXIS)
    sums = jax.tree.map(lambda s: s * lax.axis_size(AXIS), sums)

    def apply(grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any, Array]:
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, optax.tree.norm(grads)

    params, opt_state, norm = jax.vmap(apply)(grads, state.opt_state, state.params)
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
        first_nonfinite_step=jnp.where(
            (state.first_nonfinite_step < 0) & ~finite, state.step + 1, state.first_nonfinite_step
        ),
        best=state.best,
    )


def eval_step(
    params: Any, carry: Any, batch: dict[str, Array], *, objective: Objective
) -> tuple[Sums, Any]:
    """Metrics of every seed on this device's slice of one batch that all seeds share.

    Args:
      params: leaves `(seeds, ...)`.
      carry: leaves `(seeds, local batch, ...)`.
      batch: leaves `(local batch, ...)`.
      objective: the loss; it draws nothing here.

    Returns:
      Sums over the whole batch, each `(seeds,)`, and the carry for the next batch.
    """

    def one(params: Any, carry: Any) -> tuple[Sums, Any]:
        return objective.loss(params, carry, batch, None, 0)[1]

    sums, carry = jax.vmap(one)(params, carry)
    return lax.psum(sums, AXIS), carry
