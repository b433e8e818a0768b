"""A run's config on paper: `config.json`, and what may differ from it."""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from lrd_jax.config import defaults
from lrd_jax.config.values import conform, flatten, put, typed
from lrd_jax.errors import UserError, did_you_mean, one_line

# Keys that change where or how fast a run computes, or what is evaluated afterwards, but not the
# trained parameters: a work directory may be continued with other values of these.
_CHANGEABLE = (
    "devices",
    "eval",
    "data.data_dir",
    "data.text_dir",  # the text itself is compared with that of the work directory
    "data.path",  # so is what is fitted on the sequences
    "model.backend",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.inspect_every_steps",
    "train.profile_steps",
    "train.stop_step",
    "train.steps_per_call",
    "train.tensorboard",
    "train.forward",
)


_FIXED = ("eval.max_examples",)  # but these: it says which step validates best
# How long a run is. It may be made longer, where nothing that was trained so far depends on it.
LENGTH = ("train.num_steps", "train.num_epochs")


_EVALUATION = ("data", "eval")  # groups that --mode=eval lets the command line change


FORMAT = 4  # of config.json; 1 had no number


# Keys that are no longer where an older config.json has them: key -> (the first format without it,
# its old value -> the keys and values of now). What a record lacks altogether has its default.
MOVED: dict[str, tuple[int, Callable[[Any], dict[str, Any]]]] = {
    # `full` was one table for network and decoder: that of the network, which the decoder shares.
    "aux.embedding": (
        2,
        lambda old: {"model.embedding": "table"} if old == "full" else {"aux.embedding": old},
    ),
    # python -m lrd_jax.predict reads a person's own pictures, as all other input.
    "eval.image_dir": (3, lambda _: {}),
    # A ConfigDict has a method `items`, which the command line found in the key's place.
    "data.items": (4, lambda old: {"data.num_items": old}),
}


def read_json(path: pathlib.Path, then: str) -> dict[str, Any]:
    """Reads a small file that a run keeps.

    Args:
      path: of the file, which holds a JSON object.
      then: what to do where it is damaged, for the message.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    try:
        return dict(json.loads(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {then}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({one_line(str(error))[:80]}): {then}") from error


def to_json(config: ml_collections.ConfigDict, **provenance: Any) -> str:
    """Returns the text of `config.json`.

    Args:
      config: every value a number, a string, a bool or a tuple of these.
      **provenance: what to write beside it, e.g. `versions` and `commit`.

    Raises:
      ValueError: A value is NaN or infinite.
    """
    values = len(flatten(config))  # so that a lost key is no key of a later version
    content = {"format": FORMAT, "values": values, "config": config.to_dict(), **provenance}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def from_json(text: str | bytes) -> ml_collections.ConfigDict:
    """Returns the locked config of a `config.json`; arrays become the tuples they were.

    Of an older record, keys that have moved are where they are now.

    Raises:
      UserError: The text is damaged, or of a newer version.
    """
    try:
        content = dict(json.loads(text))
        written = ml_collections.ConfigDict(_tuples(dict(content["config"])))
        version = int(content.get("format", 1))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(error) from error
    if version > FORMAT:
        raise UserError(
            f"config.json of the work directory has format {version}, and this version of lrd_jax"
            f" reads {FORMAT} at most: use the version that made it, or another --workdir"
        )
    found = len(flatten(written))
    if content.get("values", found) != found:
        raise _damaged(ValueError(f"it holds {found} of {content['values']} values"))
    for key, (since, now) in MOVED.items():
        if version < since and key in flatten(written):
            for moved, value in now(_pop(written, key)).items():
                put(written, moved, value)
    return written.lock()


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _pop(config: ml_collections.ConfigDict, key: str) -> Any:
    group, _, name = key.rpartition(".")
    holder: Any = config[group] if group else config
    value = holder[name]
    del holder[name]
    return value


def _damaged(error: Exception) -> UserError:
    return UserError(
        f"config.json of the work directory is damaged ({one_line(str(error))}): choose another"
        " --workdir"
    )


def load_workdir(workdir: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """Returns the locked config that a work directory was made with.

    What an older one lacks has its default, which stands for what was done before.

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
    return complete(from_json(text))


def complete(written: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a config of `from_json` with the defaults of what it lacks.

    Raises:
      UserError: A value is not of its key's kind.
    """
    values, config = flatten(written), ml_collections.ConfigDict()
    try:
        for key, value in (flatten(defaults.get_config()) | values).items():
            put(config, key, value)
        return conform(config)
    except (UserError, TypeError, AttributeError) as error:
        raise _damaged(error) from error


def differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> list[str]:
    """Returns a line "key: old -> new" for each key whose values differ, in sorted order."""
    return [f"{key}: {before} -> {after}" for key, before, after in _differing(old, new)]


def conflicts(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns by key those lines of `differences` whose keys change what is trained."""
    return {
        key: f"{key}: {before} -> {after}"
        for key, before, after in _differing(old, new)
        if key in _FIXED or not _within(key, _CHANGEABLE)
    }


def check_same(
    workdir_config: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> bool:
    """Refuses to continue a work directory with a config that would train something else.

    `devices.*`, `eval.*` (but `eval.max_examples`), `data.data_dir`, `data.text_dir`, `data.path`,
    `model.backend`, `train.log_every_steps`, `train.checkpoint_every_steps`,
    `train.inspect_every_steps`, `train.profile_steps`, `train.stop_step`, `train.steps_per_call`,
    `train.tensorboard` and `train.forward` may differ. Whether the length may (`LENGTH`) depends on
    what follows it: `training.longer` knows.

    Returns:
      Whether the length is the same.

    Raises:
      UserError: Other keys differ; names them and their values.
    """
    lines = conflicts(workdir_config, config)
    if not lines.keys() <= set(LENGTH):
        raise UserError(
            f"the work directory belongs to another config ({'; '.join(lines.values())}): choose"
            " another --workdir"
        )
    return not lines


def eval_overrides(
    work_config: ml_collections.ConfigDict, overrides: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns the config for `--mode=eval`: the work directory's, with the command line's changes.

    Args:
      work_config: what the work directory was trained with; stays as it is.
      overrides: changed keys with their values, `FLAGS["config"].override_values`.

    Raises:
      UserError: Another value of a key outside `data.*` and `eval.*`, or a key that the work
        directory lacks.
    """
    config = work_config.copy_and_resolve_references()
    known = flatten(config)
    for key, value in changes(work_config, overrides).items():
        if not isinstance(key, str) or not _within(key, _EVALUATION):
            raise UserError(
                f"--mode=eval takes the model from the work directory: config.{key} cannot be "
                "changed, only data.* and eval.* can"
            )
        if key not in known:
            raise UserError(
                f"the config of the work directory has no key {key!r}" + did_you_mean(key, known)
            )
        try:
            config.update_from_flattened_dict({key: value})
        except TypeError as error:
            raise UserError(f"--config.{key}={value!r}: {one_line(str(error))}") from error
    return config.lock()


def changes(
    work_config: ml_collections.ConfigDict,
    overrides: Mapping[str, Any],
    asked: Sequence[str] = _EVALUATION,
) -> dict[str, Any]:
    """Returns the overrides without those that say what the work directory was trained with.

    Args:
      work_config: what it was trained with.
      overrides: changed keys with their values.
      asked: keys, or groups, that stay all the same: what is to be done, whatever it was.

    Raises:
      UserError: They are no mapping.
    """
    if not isinstance(overrides, Mapping):
        raise UserError(
            f"overrides are of type {type(overrides).__name__}, and must be a mapping from key to"
            " value, such as {'eval.split': 'valid'}"
        )
    known = flatten(work_config)
    return {
        key: value
        for key, value in overrides.items()
        if not (key in known and not _within(key, asked) and _says(key, value, known[key]))
    }


def _says(key: str, value: Any, stored: Any) -> bool:
    """Whether a value that is given is the stored one, perhaps written another way."""
    try:
        return bool(typed(key, value, stored) == stored)
    except UserError:
        return False


def _within(key: str, names: Sequence[str]) -> bool:
    """Tells whether a key is one of these keys or belongs to one of these groups."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _differing(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> Iterator[tuple[str, str, str]]:
    """Yields (key, old value, new value) as texts, sorted by key."""
    before, after = flatten(old), flatten(new)
    for key in sorted(before.keys() | after.keys()):
        # JSON knows no tuples: a list is the same.
        texts = [
            repr(_tuples(side[key])) if key in side else "(absent)" for side in (before, after)
        ]
        if texts[0] != texts[1]:
            yield key, texts[0], texts[1]
