"""The optimizer: clipping, update rule and learning-rate schedule, all from optax."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrd_jax.arrays import Array
from lrd_jax.cells import ParameterGroup
from lrd_jax.config.horizon import Horizon
from lrd_jax.errors import UserError, check_choice


def make_schedule(
    optim: Any, horizon: Horizon, learning_rate: float | Array | None = None
) -> optax.Schedule:
    """Learning rate over steps: `constant`, `cosine` (to 0 at the end) or `step`, after a warm-up.

    Pre-training has a schedule of its own, after the same warm-up: the rate falls smoothly, by the
    factor `pretrain_decay` in all. The joint phase then begins its schedule anew, from the peak.

    Args:
      optim: `config.optim`.
      horizon: length of the run.
      learning_rate: the peak, where it is not the config's.

    Raises:
      UserError: unknown schedule, or a `step` schedule without its interval or a positive factor.
    """
    peak = optim.learning_rate if learning_rate is None else learning_rate
    warmup = optim.warmup_steps
    for key in ("pretrain_decay", "decay_rate"):  # optax takes a rate of 0 for "constant"
        if optim[key] <= 0:
            raise UserError(f"optim.{key}={optim[key]} is a factor; use one above 0")
    if horizon.pretrain_steps:
        steps = horizon.pretrain_steps
        falling = _after_warm_up(
            optax.exponential_decay(peak, steps, optim.pretrain_decay), peak, warmup
        )
        joint = make_schedule(optim, horizon.joint, learning_rate)
        return optax.join_schedules([falling, joint], [steps])
    options = {name: optim[name] for name in schedule_options(optim.schedule)}
    schedule = SCHEDULES[optim.schedule](peak, horizon, warmup, **options)
    return _after_warm_up(schedule, peak, warmup)


def _constant(peak: Any, horizon: Horizon, warmup: int) -> optax.Schedule:
    del horizon, warmup
    return optax.constant_schedule(peak)


def _cosine(peak: Any, horizon: Horizon, warmup: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, max(1, horizon.num_steps - warmup))


def _step(
    peak: Any, horizon: Horizon, warmup: int, *, decay_every_epochs: int, decay_rate: float
) -> optax.Schedule:
    """The rate falls by a factor every so many epochs; UserError where they are none."""
    del warmup
    if decay_every_epochs <= 0:
        raise UserError(
            f"optim.schedule=step needs optim.decay_every_epochs >= 1 (it is {decay_every_epochs})"
        )
    every = decay_every_epochs * horizon.steps_per_epoch
    return optax.exponential_decay(peak, every, decay_rate, staircase=True)


# From peak, horizon and steps of warm-up; keyword parameters are keys of `config.optim`.
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step": _step,
}


def schedule_options(name: str) -> frozenset[str]:
    """Returns the keys of `config.optim` that a schedule knows: its keyword parameters.

    Raises:
      UserError: there is no such schedule.
    """
    check_choice("optim.schedule", name, SCHEDULES)
    parameters = inspect.signature(SCHEDULES[name]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _after_warm_up(schedule: optax.Schedule, peak: Any, warmup: int) -> optax.Schedule:
    if not warmup:
        return schedule
    ramp = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([ramp, schedule], [warmup])


def _hold_head(
    rule: optax.GradientTransformation, fresh: optax.GradientTransformation, pretrain_steps: int
) -> optax.GradientTransformation:
    """Keeps the task's head, and what the optimizer knows of it, as it was until pre-training ends.

    Args:
      rule: for all other parameters.
      fresh: the same rule as it is at the start of the joint phase, for the head.
      pretrain_steps: updates before that.
    """

    def parts(params: Any) -> Any:
        return {
            name: jax.tree.map(lambda _, part="head" if name == "head" else "rest": part, values)
            for name, values in params.items()
        }

    def joint(step: Any, **_: Any) -> Any:
        return step >= pretrain_steps

    held = optax.conditionally_mask(fresh, joint)
    return optax.partition({"head": held, "rest": rule}, parts)


def _decayed(params: Any, recurrent: bool = True) -> Any:
    """True for the leaves that weight decay applies to: kernels, never (gate) biases.

    Args:
      params: of one seed.
      recurrent: whether it applies to the kernels of a cell whose names begin so.
    """

    def decays(path: Any, leaf: Any) -> bool:
        name = str(getattr(path[-1], "key", path[-1]))
        return leaf.ndim > 1 and (recurrent or not name.startswith("recurrent"))

    return jax.tree_util.tree_map_with_path(decays, params)


def _in_cell(params: Any) -> Any:
    """True for the leaves of the recurrence."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(k, "key", None) == "recurrence" for k in path), params
    )


def _scaled(schedule: optax.Schedule, factor: float, step: Any) -> Any:
    return factor * schedule(step)


def _in_groups(groups: Sequence[ParameterGroup]) -> Callable[[Any], Any]:
    """Returns what labels each parameter with the index of its group, -1 where it has none."""

    def label(path: Any, _: Any) -> int:
        keys = [str(getattr(key, "key", key)) for key in path]
        cells = [i for i, key in enumerate(keys) if key.startswith("layer_")]
        own = keys[cells[-1] + 1] if cells and cells[-1] + 1 < len(keys) else None
        return next((i for i, group in enumerate(groups) if own in group.names), -1)

    return lambda params: jax.tree_util.tree_map_with_path(label, params)


def make_optimizer(
    optim: Any, horizon: Horizon, groups: Sequence[ParameterGroup] = ()
) -> optax.GradientTransformationExtraArgs:
    """Builds clip -> update rule -> learning rate from `config.optim`.

    Clipping is by element (`clip_value`), then by global norm, over all parameters or over the
    recurrence alone (`clip_scope=cell`). Weight decay is decoupled and leaves biases alone, since
    shrinking a gate bias shortens the time scale it was initialised to; recurrent kernels too where
    `decay_recurrent` is off. Pre-training leaves the head alone. The momentum of RMSProp and SGD
    sums updates that were scaled by the learning rate of their own step, as optax has it; PyTorch
    scales the sum, which differs while the rate changes.

    Args:
      optim: `config.optim`.
      horizon: length of the run.
      groups: parameters of the cells with a rate and decay of their own.

    Returns:
      The optimizer. Its `update` takes `learning_rate`, `clip_norm` and `weight_decay` by keyword
      in place of the config's, scalars on the device, and passes over other names: so a sweep
      trains several values side by side.

    Raises:
      UserError: unknown optimizer, scope or schedule.
    """
    mask = functools.partial(_decayed, recurrent=optim.decay_recurrent)
    momentum = optim.momentum or None

    def build(
        *,
        learning_rate: Array | None = None,
        clip_norm: Array | None = None,
        weight_decay: float | Array = optim.weight_decay,
        **_: Array,
    ) -> optax.GradientTransformation:
        rules: dict[str, Callable[..., optax.GradientTransformation]] = {
            "adam": optax.adam,
            "adamw": lambda rate, decay=weight_decay, mask=mask: optax.adamw(
                rate, weight_decay=decay, mask=mask
            ),
            # Smoothing 0.99, epsilon outside the root: the PyTorch defaults that the papers' code
            # used.
            "rmsprop": lambda rate: optax.rmsprop(
                rate, decay=0.99, eps=1e-8, eps_in_sqrt=False, momentum=momentum
            ),
            "sgd": lambda rate: optax.sgd(rate, momentum),
        }
        if clip_norm is not None:
            clip = optax.clip_by_global_norm(jnp.where(clip_norm == 0, jnp.inf, clip_norm))
        elif optim.clip_norm:
            clip = optax.clip_by_global_norm(optim.clip_norm)
        else:
            clip = optax.identity()
        if optim.clip_value:
            clip = optax.chain(optax.clip(optim.clip_value), clip)
        if optim.clip_scope == "cell":
            clip = optax.masked(clip, _in_cell)
        schedule = make_schedule(optim, horizon, learning_rate)
        rule = rules[optim.name](schedule)
        if groups:
            own: dict[Any, optax.GradientTransformation] = {-1: rule}
            for index, group in enumerate(groups):
                decay = () if group.weight_decay is None else (group.weight_decay, None)
                rate = functools.partial(_scaled, schedule, group.rate)
                own[index] = rules[optim.name](rate, *(decay if optim.name == "adamw" else ()))
            rule = optax.partition(own, _in_groups(groups))
        if horizon.pretrain_steps:
            fresh = rules[optim.name](make_schedule(optim, horizon.joint, learning_rate))
            rule = _hold_head(rule, fresh, horizon.pretrain_steps)
        return optax.chain(clip, rule)

    check_choice("optim.name", optim.name, ("adam", "adamw", "rmsprop", "sgd"))
    if optim.weight_decay and optim.name != "adamw":
        raise UserError(
            f"optim.weight_decay={optim.weight_decay} needs optim.name=adamw (it is {optim.name})"
        )
    if momentum and optim.name not in ("rmsprop", "sgd"):
        raise UserError(
            f"optim.momentum={optim.momentum} needs optim.name=rmsprop or sgd (it is {optim.name})"
        )
    if optim.name != "adamw" and any(group.weight_decay for group in groups):
        raise UserError(
            "the cell names parameters with a weight decay of their own, which needs"
            f" optim.name=adamw (it is {optim.name}); or set optim.groups=False"
        )
    check_choice("optim.clip_scope", optim.clip_scope, ("all", "cell"))

    def update(updates: Any, state: Any, params: Any = None, **swept: Array) -> tuple[Any, Any]:
        return build(**swept).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(build().init, update)
