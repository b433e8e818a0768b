"""Recurrent cells: the maths of one time step, each usable in stock `flax.linen.RNN`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrd_jax.cells.base import (
    HiddenCarry,
    LSTMCarry,
    ParameterGroup,
    RecurrentCell,
    bfloat16_dot,
)
from lrd_jax.cells.cornn import CoRNNCell
from lrd_jax.cells.forms import AdditiveCell, LinearCarry, LinearCell, PointwiseCell
from lrd_jax.cells.gated_lstm import GatedLSTMCell, ONLSTMCell, URLSTMCell
from lrd_jax.cells.gru import GatedGRUCell, GRUCell
from lrd_jax.cells.indrnn import IndRNNCell
from lrd_jax.cells.legs import GatedLegSCell, LegSCell
from lrd_jax.cells.lem import LEMCell
from lrd_jax.cells.lru import LRUCell
from lrd_jax.cells.lstm import LSTMCell
from lrd_jax.cells.mingru import MinGRUCell
from lrd_jax.cells.minlstm import MinLSTMCell
from lrd_jax.cells.rnn import RNNCell
from lrd_jax.cells.s5 import S5Cell
from lrd_jax.cells.slstm import SLSTMCell
from lrd_jax.cells.unicornn import UnICORNNCell
from lrd_jax.config.defaults import get_config
from lrd_jax.errors import UserError, check_choice, unknown

__all__ = [
    "CELLS",
    "AdditiveCell",
    "CoRNNCell",
    "GRUCell",
    "GatedGRUCell",
    "GatedLSTMCell",
    "GatedLegSCell",
    "HiddenCarry",
    "IndRNNCell",
    "LEMCell",
    "LRUCell",
    "LSTMCarry",
    "LSTMCell",
    "LegSCell",
    "LinearCarry",
    "LinearCell",
    "MinGRUCell",
    "MinLSTMCell",
    "ONLSTMCell",
    "ParameterGroup",
    "PointwiseCell",
    "RNNCell",
    "RecurrentCell",
    "S5Cell",
    "SLSTMCell",
    "URLSTMCell",
    "UnICORNNCell",
    "bfloat16_dot",
    "cell_options",
    "make_cell",
]

# The names that `config.model.cell` knows.
CELLS: dict[str, type[RecurrentCell]] = {
    "rnn": RNNCell,
    "lstm": LSTMCell,
    "gated_lstm": GatedLSTMCell,
    "urlstm": URLSTMCell,
    "gru": GRUCell,
    "gated_gru": GatedGRUCell,
    "onlstm": ONLSTMCell,
    "mingru": MinGRUCell,
    "minlstm": MinLSTMCell,
    "lru": LRUCell,
    "s5": S5Cell,
    "cornn": CoRNNCell,
    "lem": LEMCell,
    "slstm": SLSTMCell,
    "indrnn": IndRNNCell,
    "unicornn": UnICORNNCell,
    "legs": LegSCell,
    "gated_legs": GatedLegSCell,
}


def make_cell(model_config: Mapping[str, Any], sequence_length: int = 0) -> RecurrentCell:
    """Builds the cell that a configuration describes.

    A cell takes the keys that are named like its attributes; the others do not concern it.

    Args:
      model_config: the keys of `config.model`; keys left out have the cell's own defaults.
      sequence_length: steps of a sequence, what `chrono_t_max = 0` stands for.

    Returns:
      The cell, without parameters.

    Raises:
      UserError: if the cell is not known or one of its keys has a value it cannot work with.
    """
    if not hasattr(model_config, "keys"):  # a ConfigDict is no Mapping
        raise UserError(
            f"the config of a model is of type {type(model_config).__name__}, and must be a mapping"
            " such as config.model or {'cell': 'lstm', 'hidden_size': 64}"
        )
    if "cell" not in model_config:
        raise UserError(f"no cell is named: give 'cell', one of {', '.join(CELLS)}")
    known = cell_options(model_config["cell"])
    defaults: Any = get_config().model
    others = {name for cell in CELLS for name in cell_options(cell)} | set(defaults)
    if strange := [name for name in model_config if name not in others]:
        raise unknown("key of a model", strange[0], sorted(others))
    options = {name: model_config[name] for name in known if name in model_config}
    if missing := [name for name, f in known.items() if _is_needed(f) and name not in options]:
        raise UserError(f"model.cell={model_config['cell']} needs {missing[0]}")
    whole = isinstance(sequence_length, int | np.integer) and not isinstance(sequence_length, bool)
    if not whole or sequence_length < 0:
        raise UserError(
            f"sequence_length={sequence_length!r} must be a whole number: 0 (not known) or more"
        )
    if "chrono_t_max" in known:
        options["chrono_t_max"] = options.get("chrono_t_max") or sequence_length
    return CELLS[model_config["cell"]](**options)


def _is_needed(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


# Fields of a cell that no key sets: Flax's own, and what the network around it decides.
_NOT_OPTIONS = {"name", "parent", "param_dtype", "dot"}


def cell_options(name: str) -> dict[str, dataclasses.Field]:
    """Returns the keys of `config.model` that a cell knows: its fields, by name.

    Raises:
      UserError: if the cell is not known.
    """
    check_choice("cell", name, CELLS)
    fields = dataclasses.fields(CELLS[name])
    return {f.name: f for f in fields if f.init and f.name not in _NOT_OPTIONS}
