"""Training from a script or a notebook: `lrd_jax.train`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ml_collections

from lrd_jax.config import checks, command_line, defaults
from lrd_jax.config.paths import expand_user
from lrd_jax.config.values import conform, flatten, plain, put, typed
from lrd_jax.errors import UserError, did_you_mean
from lrd_jax.runtime import devices
from lrd_jax.training import effects, loop

_NONE: Mapping[str, Any] = MappingProxyType({})


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any] | str,
    workdir: str | os.PathLike[str],
    overrides: Mapping[str, Any] = _NONE,
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
      overrides: keys with other values than the config's, as `--config.KEY=VALUE` gives them.

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
        found, given = _changed(defaults.get_config(), config), config
    else:
        raise UserError(
            f"config is of type {type(config).__name__}: give a config, the name of a config file,"
            " or a dict of keys with their values"
        )
    if not isinstance(overrides, Mapping):
        raise UserError(
            f"overrides are of type {type(overrides).__name__}, and must be a mapping from key to"
            " value, such as {'model.cell': 'lstm'}"
        )
    found, given = _changed(found, overrides), {**given, **overrides}
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


def _changed(config: ml_collections.ConfigDict, given: Mapping[str, Any]) -> Any:
    """Returns a config, locked, with some keys changed."""
    known, typical = flatten(config), flatten(defaults.get_config())
    changed = config.copy_and_resolve_references().unlock()
    for key, value in given.items():
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise UserError(
                f"unknown config key {key!r}"
                + (hint or "; keys are written as in 'model.cell', see lrd_jax/config/defaults.py")
            )
        kept = typed(key, value, typical[key]) if key in typical else plain(key, value)
        with changed.ignore_type():
            put(changed, key, kept)
    return changed.lock()
