"""Checks of config values that no single component owns."""

import contextlib
import math
from typing import Any

import ml_collections

from lrd_jax.config.members import SWEPT, check_values
from lrd_jax.config.paths import NoHomeError, expand_user
from lrd_jax.config.values import conform, flatten
from lrd_jax.errors import UserError

_INT_LIMIT = 2**31  # sizes, steps and seeds are int32 on the device
_LEAST, _MOST = 2.0**-126, 2.0**127  # what is less, or more, is 0 or infinite on the device
_COLDEST = 1e-6  # logits divided by less may be too large for float32


_AT_LEAST = {
    "num_seeds": 1,
    "data.batch_size": 1,
    "model.head_hidden": 1,
    "model.input_noise": 0,
    "optim.clip_norm": 0,
    "optim.clip_value": 0,
    "optim.weight_decay": 0,
    "optim.warmup_steps": 0,
    "optim.decay_every_epochs": 0,
    "detach.off_last_epochs": 0,
    "aux.pretrain_epochs": 0,
    "train.num_steps": 0,
    "train.stop_step": 0,
    "train.eval_every_steps": 0,
    "train.patience": 0,
    "train.accumulate": 1,
    "train.checkpoint_every_steps": 0,
    "train.log_every_steps": 1,
    "train.steps_per_call": 0,
    "train.inspect_every_steps": 0,
    "eval.batch_size": 0,
    "eval.max_examples": 0,
    "eval.context": 0,
    "eval.sample_tokens": 0,
    "eval.temperature": 0,
    "eval.sample_seed": 0,
    "eval.beam_size": 1,
    "eval.length_power": 0,
    "eval.sheet_images": 0,
    "devices.cpu_devices": 0,
}


# Checked here, so that they are also where the chosen network has no use for them.
_RATES = (
    "model.head_dropconnect",
    "model.embedding_dropout",
    "model.output_dropout",
    "optim.momentum",
    "optim.ema_decay",
)


_NON_EMPTY = ("data.name", "data.data_dir")


_PATHS = ("data.data_dir", "train.init_from", "devices.compilation_cache")


_SPLITS = ("train", "valid", "test")


_DEVICE_SPLITS = ("batch", "seeds")


_CHOICES = {
    "data.class_weights": ("none", "balanced"),
    "train.forward": ("none", "wandb", "trackio"),
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks the values that no single component owns.

    Cells, data sets, objectives and the optimizer check their own keys when they are built.

    Raises:
      UserError: A key is missing, a value is of another type or out of range; names key, value and
        what is legal.
    """
    values = flatten(conform(config))
    for key, value in values.items():
        for element in value if isinstance(value, tuple) else (value,):
            if isinstance(element, float) and not math.isfinite(element):
                _refuse(key, value, "a finite number")
            if isinstance(element, float) and element and not _LEAST <= abs(element) <= _MOST:
                _refuse(key, value, f"0, or from {_LEAST:.1e} to {_MOST:.1e} (float32)")
            if isinstance(element, int) and abs(element) >= _INT_LIMIT:
                _refuse(key, value, f"below {_INT_LIMIT} in magnitude")
    for key, least in _AT_LEAST.items():
        value = values[key]
        if any(element < least for element in (value if isinstance(value, tuple) else (value,))):
            _refuse(key, value, f"{least} or more")
    for key in _RATES:
        if not 0 <= values[key] < 1:
            raise UserError(f"config.{key}={values[key]} is a rate; use a value in [0, 1)")
    for key in _NON_EMPTY:
        if not values[key].strip():
            _refuse(key, values[key], "a non-empty string")
    with contextlib.suppress(NoHomeError):  # it is told where the folder is used, if it is
        for key in _PATHS:
            if values[key]:
                expand_user(values[key])
    if values["eval.split"] not in _SPLITS:
        _refuse("eval.split", values["eval.split"], f"one of {', '.join(_SPLITS)}")
    for key, legal in _CHOICES.items():
        if values[key] not in legal:
            _refuse(key, values[key], f"one of {', '.join(legal)}")
    if values["optim.learning_rate"] <= 0:
        _refuse("optim.learning_rate", values["optim.learning_rate"], "above 0")
    if values["train.num_steps"] == 0 and values["train.num_epochs"] <= 0:
        _refuse("train.num_epochs", values["train.num_epochs"], "above 0 (or set train.num_steps)")
    parts, batch = values["train.accumulate"], values["data.batch_size"]
    if batch % parts:
        raise UserError(
            f"train.accumulate={parts} cuts data.batch_size={batch} into equal parts, which it does"
            " not divide into; use a divisor"
        )
    if values["data.curriculum"] and values["aux.kind"] != "none":
        raise UserError(
            "data.curriculum trains on sequences of several lengths, and the segments of an"
            " auxiliary loss fit one: set aux.kind=none, or leave data.curriculum out"
        )
    if 0 < values["eval.temperature"] < _COLDEST:
        legal = f"0 (the likeliest, nothing is drawn), or at least {_COLDEST:g}"
        _refuse("eval.temperature", values["eval.temperature"], legal)
    last = _INT_LIMIT - values["num_seeds"]
    if not 0 <= values["seed"] <= last:
        _refuse("seed", values["seed"], f"from 0 to {last}")
    if values["devices.split"] not in _DEVICE_SPLITS:
        _refuse("devices.split", values["devices.split"], " or ".join(_DEVICE_SPLITS))
    profiled = values["train.profile_steps"]
    if profiled and not (
        len(profiled) == 2
        and all(isinstance(step, int) for step in profiled)
        and 0 <= profiled[0] < profiled[1]
    ):
        _refuse("train.profile_steps", profiled, "(start, stop), steps with 0 <= start < stop")
    for name in SWEPT:
        swept = values[f"sweep.{name}"]
        if len(set(map(float, swept))) < len(swept):
            _refuse(f"sweep.{name}", swept, "a tuple of different values")
    check_values(config, validate)


def _refuse(key: str, value: Any, legal: str) -> None:
    raise UserError(f"config.{key}={value!r}: must be {legal}")
