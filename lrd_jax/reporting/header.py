"""What is trained, in one line."""

from __future__ import annotations

import dataclasses
from typing import Any

from lrd_jax.cells import CELLS

_AUXILIARY = {
    "reconstruct": "reconstruct (r-LSTM)",
    "predict": "predict (p-LSTM)",
    "both": "reconstruct and predict (r-LSTM and p-LSTM)",
}


def model_line(config: Any, num_params: int) -> str:
    """Returns cell, gates, size, parameters, h-detach, truncation and auxiliary loss, in one line.

    What is off is said too: it is what a comparison turns on.

    Args:
      config: the run's config.
      num_params: of one model.
    """
    model = config.model
    layers = f"{model.num_layers} {'bidirectional ' if model.bidirectional else ''}layer"
    layers += "s" if model.num_layers > 1 else ""
    return ", ".join(
        [
            model.cell + _gates(config),
            f"{layers} of {model.hidden_size} units",
            f"{num_params:,} parameters".replace(",", " "),
            _detach(config, "p_block", "h-detach"),
            *([_detach(config, "c_block", "c-detach")] if _blocks(config, "c_block") else []),
            _truncation(config.truncate),
            _auxiliary(config.aux),
        ]
    )


def _gates(config: Any) -> str:
    """The gates of a cell that has a choice of them, or was named after one."""
    fields = {field.name: field for field in dataclasses.fields(CELLS[config.model.cell])}
    if "reset_gate" in fields:
        return f" (gates {config.model.gates}, reset gate {config.model.reset_gate})"
    if "gates" not in fields:
        return ""
    gates = config.model.gates if fields["gates"].init else fields["gates"].default
    return f" (gates {gates})"


def _blocks(config: Any, key: str) -> tuple[float, ...]:
    """Probabilities of blocking that are in force: one, or those of a sweep; () if it is off."""
    return tuple(config.sweep[key]) or ((config.detach[key],) if config.detach[key] else ())


def _detach(config: Any, key: str, name: str) -> str:
    values = _blocks(config, key)
    return f"{name} {' | '.join(f'{value:g}' for value in values)}" if values else f"no {name}"


def _truncation(truncate: Any) -> str:
    if not truncate.steps:
        return "no truncation"
    of_labels = {"same": "", "stop": " (labels train the head alone)"}
    more = of_labels.get(truncate.supervised, f" (of labels to {truncate.supervised})")
    return f"truncated to {truncate.steps} steps{more}"


def _auxiliary(aux: Any) -> str:
    if aux.kind == "none":
        return "no auxiliary loss"
    return f"auxiliary loss {_AUXILIARY[aux.kind]} of {aux.segment_length} steps"
