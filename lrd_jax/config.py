"""Configs around a run: checks of values, files, comparison with a work directory."""

import difflib
import json
import math
import os
import pathlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from lrd_jax.errors import UserError
from lrd_jax.members import SWEPT, check_values

# Keys that change where or how fast a run computes, or what is evaluated afterwards, but not the
# trained parameters: a work directory may be continued with other values of these.
_CHANGEABLE = (
    "devices",
    "eval",
    "data.data_dir",
    "data.text_dir",  # the text itself is compared with that of the work directory
    "model.backend",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.stop_step",
)
_EVALUATION = ("data", "eval")  # groups that --mode=eval lets the command line change
_INT_LIMIT = 2**31  # sizes, steps and seeds are int32 on the device


# ---- Values ---------------------------------------------------------------------------------

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
        raise UserError(f"the config has no key {missing[0]!r}: start from configs/base.py")
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
    return f"the config has no key {one_line(str(error.args[0]))}: start from configs/base.py"


def _refuse(key: str, value: Any, legal: str) -> None:
    raise UserError(f"config.{key}={value!r}: must be {legal}")


# ---- Work directory -------------------------------------------------------------------------


def to_json(config: ml_collections.ConfigDict, **provenance: Any) -> str:
    """Returns the text of `config.json`.

    Args:
      config: every value a number, a string, a bool or a tuple of these.
      **provenance: what to write beside it, e.g. `versions` and `commit`.

    Raises:
      ValueError: A value is NaN or infinite.
    """
    return json.dumps({"config": config.to_dict(), **provenance}, indent=2, allow_nan=False) + "\n"


def from_json(text: str | bytes) -> ml_collections.ConfigDict:
    """Returns the locked config of a `config.json`; arrays become the tuples they were.

    Raises:
      UserError: The text is damaged.
    """

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    try:
        return ml_collections.ConfigDict(tuples(dict(json.loads(text)["config"]))).lock()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"config.json of the work directory is damaged ({one_line(str(error))}): choose "
            "another --workdir"
        ) from error


def load_workdir(workdir: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """Returns the locked config that a work directory was made with.

    Raises:
      UserError: There is none, or it is damaged.
    """
    try:
        text = pathlib.Path(workdir, "config.json").read_bytes()
    except OSError as error:
        raise UserError(
            f"no run in {os.fspath(workdir)!r} (config.json: {error.strerror}): train first, or "
            "give the --workdir of a run"
        ) from error
    return from_json(text)


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> list[str]:
    """Returns a line "key: old -> new" for each key whose values differ, in sorted order."""
    return [f"{key}: {before} -> {after}" for key, before, after in _differing(old, new)]


def check_same(
    workdir_config: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> None:
    """Refuses to continue a work directory with a config that would train something else.

    `devices.*`, `eval.*`, `data.data_dir`, `model.backend`, `train.log_every_steps`,
    `train.checkpoint_every_steps` and `train.stop_step` may differ.

    Raises:
      UserError: Other keys differ; names them and their values.
    """
    lines = [
        f"{key}: {before} -> {after}"
        for key, before, after in _differing(workdir_config, config)
        if not _within(key, _CHANGEABLE)
    ]
    if lines:
        raise UserError(
            f"the work directory belongs to another config ({'; '.join(lines)}): choose another "
            "--workdir"
        )


def eval_overrides(
    work_config: ml_collections.ConfigDict, overrides: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns the config for `--mode=eval`: the work directory's, with the command line's changes.

    Args:
      work_config: what the work directory was trained with; stays as it is.
      overrides: changed keys with their values, `FLAGS["config"].override_values`.

    Raises:
      UserError: A key outside `data.*` and `eval.*`, or one that the work directory lacks.
    """
    config = work_config.copy_and_resolve_references()
    known = flatten(config)
    for key, value in overrides.items():
        if not _within(key, _EVALUATION):
            raise UserError(
                f"--mode=eval takes the model from the work directory: config.{key} cannot be "
                "changed, only data.* and eval.* can"
            )
        if key not in known:
            raise UserError(
                f"the config of the work directory has no key {key!r}" + did_you_mean(key, [*known])
            )
        try:
            config.update_from_flattened_dict({key: value})
        except TypeError as error:
            raise UserError(f"--config.{key}={value!r}: {one_line(str(error))}") from error
    return config.lock()


def _within(key: str, names: Sequence[str]) -> bool:
    """Tells whether a key is one of these keys or belongs to one of these groups."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _differing(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> Iterator[tuple[str, str, str]]:
    """Yields (key, old value, new value) as texts, sorted by key."""
    before, after = flatten(old), flatten(new)
    for key in sorted(before.keys() | after.keys()):
        texts = [repr(side[key]) if key in side else "(absent)" for side in (before, after)]
        if texts[0] != texts[1]:
            yield key, texts[0], texts[1]


# ---- Shared with the command line ---------------------------------------------------------


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def did_you_mean(key: str, known: Sequence[str]) -> str:
    """Returns a hint at the key most alike, in whole or in its last part (the group forgotten)."""

    def likeness(name: str) -> tuple[float, float]:
        whole = _ratio(key, name)
        return max(whole, _ratio(key.rpartition(".")[2], name.rpartition(".")[2])), whole

    nearest = max(known, key=likeness, default="")
    alike = nearest and likeness(nearest)[0] >= 0.6
    return f": did you mean {nearest}?" if alike else "; configs/base.py lists all keys"


def expand_user(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path with `~` and `~name` resolved; UserError where there is no such user."""
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{os.fspath(path)!r}: there is no such user on this machine") from error


def one_line(text: str) -> str:
    """Returns the text with every run of white space made one blank."""
    return " ".join(text.split())


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns every value by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[key] = value
    return flat
