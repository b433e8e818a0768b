"""Networks: recurrence and head, by kind of task, built from the config."""

from __future__ import annotations

from typing import Any

from lrd_jax.cells import make_cell
from lrd_jax.errors import UserError
from lrd_jax.models.classifier import Head, SequenceClassifier
from lrd_jax.models.language import LanguageModel
from lrd_jax.models.tagger import SequenceTagger
from lrd_jax.recurrence import SCOPES, STACK_MASKS, Recurrence, bfloat16_dot

__all__ = ["Head", "LanguageModel", "SequenceClassifier", "SequenceTagger", "make_recurrence"]


def make_recurrence(config: Any, length: int) -> Recurrence:
    """Builds the recurrence from `config.model`, `config.detach` and `config.truncate`.

    Args:
      config: the run's config.
      length: time steps of a sequence, for cells whose initialisation depends on it.

    Raises:
      UserError: a value that is unknown or does not fit.
    """
    model, detach = config.model, config.detach
    for key in ("p_block", "c_block"):
        if not 0 <= detach[key] <= 1:
            raise UserError(f"detach.{key}={detach[key]} is a probability; use a value in [0, 1]")
    for key, value, known in (
        ("detach.scope", detach.scope, SCOPES),
        ("detach.stack_mask", detach.stack_mask, STACK_MASKS),
        ("model.compute_dtype", model.compute_dtype, ("float32", "bfloat16")),
    ):
        if value not in known:
            raise UserError(f"{key}={value!r} is unknown; use {' or '.join(known)}")
    if not 0 <= model.dropout < 1:
        raise UserError(f"model.dropout={model.dropout} is a rate; use a value in [0, 1)")
    if not 1 <= model.num_layers <= 1000:
        raise UserError(f"model.num_layers={model.num_layers} must be from 1 to 1000")
    if not 0 <= config.truncate.steps <= length:
        raise UserError(
            f"truncate.steps={config.truncate.steps} does not fit a sequence of {length} steps;"
            f" use 0 (all the way) to {length}"
        )
    cell = make_cell(model, length)
    if model.compute_dtype == "bfloat16":
        cell = cell.clone(dot=bfloat16_dot)
    recurrence = Recurrence(
        cell=cell,
        num_layers=model.num_layers,
        bidirectional=model.bidirectional,
        dropout=model.dropout,
        learn_initial=model.learn_initial,
        p_block=detach.p_block,
        c_block=detach.c_block,
        mask_scope=detach.scope,
        stack_mask=detach.stack_mask,
        truncate_steps=config.truncate.steps,
        backend=model.backend,
        recompute=model.recompute,
    )
    recurrence.check()
    return recurrence
