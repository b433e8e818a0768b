"""The optimizer: clipping, update rule and learning-rate schedule, all from optax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrd_jax.errors import UserError
from lrd_jax.horizon import Horizon

Array = jax.Array


def make_schedule(
    optim: Any, horizon: Horizon, learning_rate: float | Array | None = None
) -> optax.Schedule:
    """Learning rate over steps: `constant`, `cosine` (to 0 at the end) or `step`, after a warm-up.

    Args:
      optim: `config.optim`.
      horizon: length of the run.
      learning_rate: the peak, where it is not the config's.

    Raises:
      UserError: unknown schedule, or a `step` schedule without its interval or a positive factor.
    """
    peak = optim.learning_rate if learning_rate is None else learning_rate
    warmup = optim.warmup_steps
    if optim.schedule == "constant":
        schedule = optax.constant_schedule(peak)
    elif optim.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(peak, max(1, horizon.num_steps - warmup))
    elif optim.schedule == "step":
        if optim.decay_every_epochs <= 0:
            raise UserError(
                "optim.schedule=step needs optim.decay_every_epochs >= 1"
                f" (it is {optim.decay_every_epochs})"
            )
        if optim.decay_rate <= 0:  # optax takes 0 for "constant", and a negative one flips the sign
            raise UserError(f"optim.decay_rate={optim.decay_rate} is a factor; use one above 0")
        every = optim.decay_every_epochs * horizon.steps_per_epoch
        schedule = optax.exponential_decay(peak, every, optim.decay_rate, staircase=True)
    else:
        raise UserError(
            f"optim.schedule={optim.schedule!r} is unknown; use constant, cosine or step"
        )
    if warmup:
        ramp = optax.linear_schedule(0.0, peak, warmup)
        schedule = optax.join_schedules([ramp, schedule], [warmup])
    return schedule


def _is_matrix(params: Any) -> Any:
    """True for the leaves that weight decay applies to: kernels, never (gate) biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _in_cell(params: Any) -> Any:
    """True for the leaves of the recurrence."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(k, "key", None) == "recurrence" for k in path), params
    )


def make_optimizer(optim: Any, horizon: Horizon) -> optax.GradientTransformationExtraArgs:
    """Builds clip -> update rule -> learning rate from `config.optim`.

    Clipping is by global norm over all parameters, or over the recurrence alone
    (`clip_scope=cell`). Weight decay is decoupled and leaves biases alone, since shrinking a gate
    bias shortens the time scale it was initialised to.

    Returns:
      The optimizer. Its `update` takes `learning_rate`, `clip_norm` and `weight_decay` by keyword
      in place of the config's, scalars on the device, and passes over other names: so a sweep
      trains several values side by side.

    Raises:
      UserError: unknown optimizer, scope or schedule.
    """

    def build(
        *,
        learning_rate: Array | None = None,
        clip_norm: Array | None = None,
        weight_decay: float | Array = optim.weight_decay,
        **_: Array,
    ) -> optax.GradientTransformation:
        schedule = make_schedule(optim, horizon, learning_rate)
        rules = {
            "adam": lambda: optax.adam(schedule),
            "adamw": lambda: optax.adamw(schedule, weight_decay=weight_decay, mask=_is_matrix),
            # Smoothing 0.99, epsilon outside the root: the PyTorch defaults that the papers' code
            # used.
            "rmsprop": lambda: optax.rmsprop(schedule, decay=0.99, eps=1e-8, eps_in_sqrt=False),
            "sgd": lambda: optax.sgd(schedule),
        }
        if optim.name not in rules:
            raise UserError(f"optim.name={optim.name!r} is unknown; use one of {', '.join(rules)}")
        if clip_norm is not None:
            clip = optax.clip_by_global_norm(jnp.where(clip_norm == 0, jnp.inf, clip_norm))
        elif optim.clip_norm:
            clip = optax.clip_by_global_norm(optim.clip_norm)
        else:
            clip = optax.identity()
        if optim.clip_scope == "cell":
            clip = optax.masked(clip, _in_cell)
        return optax.chain(clip, rules[optim.name]())

    if optim.weight_decay and optim.name != "adamw":
        raise UserError(
            f"optim.weight_decay={optim.weight_decay} needs optim.name=adamw (it is {optim.name})"
        )
    if optim.clip_scope not in ("all", "cell"):
        raise UserError(f"optim.clip_scope={optim.clip_scope!r} is unknown; use all or cell")

    def update(updates: Any, state: Any, params: Any = None, **swept: Array) -> tuple[Any, Any]:
        return build(**swept).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(build().init, update)
