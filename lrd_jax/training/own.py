"""Training from a script or a notebook: `lrd_jax.train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import ml_collections

from lrd_jax.config import checks, command_line, defaults
from lrd_jax.config.paths import expand_user
from lrd_jax.config.values import conform, flatten, typed
from lrd_jax.errors import UserError, did_you_mean
from lrd_jax.runtime import devices
from lrd_jax.training import effects, loop


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any] | str, workdir: str | os.PathLike[str]
) -> dict[str, Any]:
    """Trains as `python -m lrd_jax.main` does; resumes where the work directory stopped.

    The process stays the caller's: it is never replaced, and signals are handled while it trains in
    the main thread alone (where an interrupt saves first). JAX's devices are set up as on the
    command line if it has none yet; else they are used as they are, and `devices.*` says nothing.

    Args:
      config: a config file as `--config` takes it, `"FILE.py"` or `"FILE.py:ROW"`; a config; or
        keys with their values, `{"data.name": "digits", "model.cell": "lstm"}`, the others being
        at their defaults.
      workdir: made if missing.

    Returns:
      The content of `result.json`: `best` and `test` of the seed that validated best, and `seeds`,
      the same of each.

    Raises:
      UserError: bad input; nothing was changed.
      RunError: NaN loss in every seed, or the disk failed.
      Interrupted: a signal came; the state was saved first.
    """
    flag, given = "", {}
    if isinstance(config, str):
        flag, found = config, command_line.load_config(config)
    elif isinstance(config, ml_collections.ConfigDict):
        found = conform(config)
    elif isinstance(config, Mapping):
        found, given = _of_keys(config), config
    else:
        raise UserError(
            f"config is of type {type(config).__name__}: give a config, the name of a config file,"
            " or a dict of keys with their values"
        )
    checks.validate(found)
    folder = expand_user(workdir)
    found, notes = effects.judge(found, given)
    if devices.in_use():
        here = devices.find_devices()
        notes.append(
            f"JAX has its devices already, {len(here)} x {here[0].platform}: they are used as they"
            " are"
        )
    else:
        devices.configure(found)
    return loop.run(found, folder, flag, notes)


def _of_keys(given: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The defaults with some keys changed."""
    config = defaults.get_config()
    known = flatten(config)
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise UserError(
                f"unknown config key {key!r}"
                + (hint or "; keys are written as in 'model.cell', see lrd_jax/config/defaults.py")
            )
        config.update_from_flattened_dict({key: typed(key, value, known[key])})
    return config
