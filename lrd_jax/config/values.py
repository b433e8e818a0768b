"""Values of a config: by dotted key, and of the type that their defaults have."""

from typing import Any

import ml_collections
import numpy as np

from lrd_jax.config import defaults
from lrd_jax.errors import UserError, one_line


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns every value by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def put(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
    """Sets a value by its dotted key in an unlocked config, making its groups where needed."""
    *groups, name = key.split(".")
    group: Any = config
    for part in groups:
        if part not in group:
            group[part] = ml_collections.ConfigDict()
        group = group[part]
    group[name] = value


def conform(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a locked copy in which every value has the type of its default.

    A key that is not among the defaults may belong to a component of the user's own, which is not
    known here: its value must be one that `config.json` can hold.

    Raises:
      UserError: A key is missing, or a value is of another type; names key, value and type.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"the config is of type {type(config).__name__}, and must be a ConfigDict: start from"
            " lrd_jax.config.defaults, or load a file with lrd_jax.config.command_line.load_config"
        )
    known, given = flatten(defaults.get_config()), flatten(config)
    if missing := sorted(known.keys() - given.keys(), key=lambda key: (key.count("."), key)):
        raise UserError(f"the config has no key {missing[0]!r}: start from lrd_jax.config.defaults")
    conforming = ml_collections.ConfigDict()
    for key, value in given.items():
        put(conforming, key, typed(key, value, known[key]) if key in known else plain(key, value))
    return conforming.lock()


def typed(key: str, value: Any, default: Any) -> Any:
    """Returns a value as the type of its default: whole numbers for real ones, lists for tuples.

    A name for a tuple of names, which it is then the only one of.

    Raises:
      UserError: It is of another type.
    """
    kind = type(default)
    value = plain(key, value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and type(value) is str and _holds_names(key, default):
        value = (value,)
    if type(value) is not kind:
        raise UserError(f"config.{key}={value!r}: expected {_KINDS[kind]}")
    if isinstance(value, tuple):
        check_elements(key, value, default)
    return value


_PAIRS = frozenset({"data.curriculum"})


# Tuples of names, whose default is none of them.
_NAMES = ("data.channels",)


def _holds_names(key: str, default: tuple[Any, ...]) -> bool:
    return key in _NAMES or (bool(default) and all(isinstance(name, str) for name in default))


def check_elements(key: str, value: tuple[Any, ...], default: tuple[Any, ...]) -> None:
    """Refuses a tuple's elements that are of another type than those of its default."""
    if key in _PAIRS:
        if not all(isinstance(e, tuple) and [*map(type, e)] == [int, int] for e in value):
            raise UserError(
                f"config.{key}={value!r}: must be a tuple of pairs of whole numbers, such as"
                " ((500, 8), (500, 16)) (in quotes on a command line)"
            )
        return
    kinds = {type(element) for element in default} or ({str} if key in _NAMES else {int, float})
    if float in kinds:
        kinds.add(int)
    if all(type(element) in kinds for element in value):
        return
    if not default:
        what = "names, such as ('a', 'b')" if key in _NAMES else "numbers"
        raise UserError(f"config.{key}={value!r}: must be a tuple of {what}")
    names = " or ".join(sorted(kind.__name__ for kind in kinds))
    raise UserError(
        f"config.{key}: {value!r} is not a tuple of {names}; write it like {default} (in quotes on"
        " a command line)"
    )


_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a tuple such as (256,)",
}


def plain(key: str, value: Any) -> Any:
    """Returns numbers of NumPy as Python's and lists as tuples; refuses what JSON has not."""
    if isinstance(value, list | tuple):
        return tuple(plain(key, element) for element in value)
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, float, str):  # an enum or a subclass becomes the plain value
        if isinstance(value, kind):
            return kind(value)
    raise UserError(
        f"config.{key}={one_line(repr(value))[:80]}: expected a number, a string, true or false, or"
        " a tuple of these"
    )
