"""Keys of cells and data sets of the user's own: no default in `config/defaults.py` has their type.

The field behind a key says it: its annotation, else its default.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import ml_collections

from lrd_jax.cells import CELLS, cell_options
from lrd_jax.config import defaults
from lrd_jax.config.values import flatten, put, typed
from lrd_jax.data import dataset_names, key_options, registered
from lrd_jax.errors import UserError, did_you_mean

_KINDS = {"bool": False, "int": 0, "float": 0.0, "str": ""}


def with_own_keys(config: Any) -> Any:
    """Returns the config with keys that are not among the defaults in the types of their fields.

    Raises:
      UserError: no component has such a field, or the value is of another type.
    """
    known = flatten(defaults.get_config())
    own = {key: value for key, value in flatten(config).items() if key not in known}
    if not own:
        return config
    fields = _fields()
    options = {
        f"{group}.{name}" for group, of in fields.items() for each in of.values() for name in each
    }
    typed_config = ml_collections.ConfigDict()
    for key, value in flatten(config).items():
        if key in own and key not in options:
            raise UserError(
                f"unknown config key {key!r}"
                + (did_you_mean(key, known.keys() | options) or ": no component has such a field")
            )
        like = _like(*own_field(config, key)) if key in own else None
        put(typed_config, key, value if like is None else typed(key, value, like))
    return typed_config.lock()


def own_default(config: Any, key: str) -> Any:
    """The default of the field behind a key, None where there is none."""
    default = own_field(config, key)[1]
    none = default is dataclasses.MISSING or default is inspect.Parameter.empty
    return None if none else default


def own_field(config: Any, key: str) -> tuple[Any, Any]:
    """Annotation and default of the field behind a key.

    That of the chosen component, where it has one; else what all others agree on that have one.
    """
    group, _, name = key.rpartition(".")
    of = _fields().get(group, {})
    chosen = config.model.cell if group == "model" else group and registered(config.data.name)
    if name in of.get(chosen, {}):
        return of[chosen][name]
    found = [each[name] for each in of.values() if name in each]
    same = found and all(_like(*each) == _like(*found[0]) for each in found)
    return found[0] if same else (None, None)


def _fields() -> dict[str, dict[str, dict[str, tuple[Any, Any]]]]:
    """Group -> component -> name -> annotation and default."""
    cells = {
        cell: {name: (field.type, field.default) for name, field in cell_options(cell).items()}
        for cell in CELLS
    }
    data = {
        name: {key: (p.annotation, p.default) for key, p in key_options(name).items()}
        for name in dataset_names()
    }
    return {"model": cells, "data": data}


def _like(annotation: Any, default: Any) -> Any:
    """A value of the type that a field has; None where that is not known."""
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return _KINDS.get(
        name, default if isinstance(default, bool | int | float | str | tuple) else None
    )
