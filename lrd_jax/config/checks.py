"""Checks of config values that no single component owns."""

import math
import traceback
from typing import Any

import ml_collections

from lrd_jax.config.members import SWEPT, check_values
from lrd_jax.config.paths import expand_user
from lrd_jax.config.record import flatten
from lrd_jax.errors import UserError, one_line

_INT_LIMIT = 2**31  # sizes, steps and seeds are int32 on the device


_AT_LEAST = {
    "num_seeds": 1,
    "data.batch_size": 1,
    "model.head_hidden": 1,
    "optim.clip_norm": 0,
    "optim.weight_decay": 0,
    "optim.warmup_steps": 0,
    "detach.off_last_epochs": 0,
    "aux.pretrain_epochs": 0,
    "train.num_steps": 0,
    "train.stop_step": 0,
    "train.eval_every_steps": 0,
    "train.checkpoint_every_steps": 0,
    "train.log_every_steps": 1,
    "eval.batch_size": 0,
    "eval.sample_tokens": 0,
    "eval.temperature": 0,
    "eval.sample_seed": 0,
    "devices.cpu_devices": 0,
}


_NON_EMPTY = ("data.name", "data.data_dir")


_SPLITS = ("train", "valid", "test")


_DEVICE_SPLITS = ("batch", "seeds")


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks the values that no single component owns.

    Cells, data sets, objectives and the optimizer check their own keys when they are built.

    Raises:
      UserError: A value is out of range; names key, value and what is legal.
    """
    values = flatten(config)
    for key, value in values.items():
        for element in value if isinstance(value, tuple) else (value,):
            if isinstance(element, float) and not math.isfinite(element):
                _refuse(key, value, "a finite number")
            if isinstance(element, int) and abs(element) >= _INT_LIMIT:
                _refuse(key, value, f"below {_INT_LIMIT} in magnitude")
    needed = (
        *_AT_LEAST,
        *_NON_EMPTY,
        "eval.split",
        "optim.learning_rate",
        "train.num_epochs",
        "seed",
        "devices.split",
        *(f"sweep.{name}" for name in SWEPT),
    )
    if missing := [key for key in needed if key not in values]:
        raise UserError(f"the config has no key {missing[0]!r}: start from lrd_jax.config.defaults")
    for key, least in _AT_LEAST.items():
        value = values[key]
        if any(element < least for element in (value if isinstance(value, tuple) else (value,))):
            _refuse(key, value, f"{least} or more")
    for key in _NON_EMPTY:
        if not values[key].strip():
            _refuse(key, values[key], "a non-empty string")
    expand_user(values["data.data_dir"])
    if values["eval.split"] not in _SPLITS:
        _refuse("eval.split", values["eval.split"], f"one of {', '.join(_SPLITS)}")
    if values["optim.learning_rate"] <= 0:
        _refuse("optim.learning_rate", values["optim.learning_rate"], "above 0")
    if values["train.num_steps"] == 0 and values["train.num_epochs"] <= 0:
        _refuse("train.num_epochs", values["train.num_epochs"], "above 0 (or set train.num_steps)")
    last = _INT_LIMIT - values["num_seeds"]
    if not 0 <= values["seed"] <= last:
        _refuse("seed", values["seed"], f"from 0 to {last}")
    if values["devices.split"] not in _DEVICE_SPLITS:
        _refuse("devices.split", values["devices.split"], " or ".join(_DEVICE_SPLITS))
    for name in SWEPT:
        swept = values[f"sweep.{name}"]
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in swept):
            _refuse(f"sweep.{name}", swept, "a tuple of numbers")
        if len(set(map(float, swept))) < len(swept):
            _refuse(f"sweep.{name}", swept, "a tuple of different values")
    check_values(config, validate)


def missing_key(error: AttributeError | KeyError) -> str:
    """Says which key a config lacks, where that is what an exception is about; else "".

    Only the code that reads a key knows that it is needed, and it reads it without a check.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if frame.f_globals["__name__"] != ml_collections.ConfigDict.__module__:
        return ""
    return (
        f"the config has no key {one_line(str(error.args[0]))}: start from lrd_jax.config.defaults"
    )


def _refuse(key: str, value: Any, legal: str) -> None:
    raise UserError(f"config.{key}={value!r}: must be {legal}")
