"""Networks from the config."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from lrd_jax.cells import RecurrentCell, bfloat16_dot, make_cell
from lrd_jax.cells.attention import AttendingCell
from lrd_jax.errors import UserError, check_choice
from lrd_jax.models.captioner import CAPTIONERS, Captioner
from lrd_jax.models.decoder import Decoder
from lrd_jax.models.embedding import Table
from lrd_jax.models.language import LanguageModel
from lrd_jax.models.sequence import POOLS, Head, SequenceClassifier
from lrd_jax.recurrence import Recurrence
from lrd_jax.recurrence.checks import check_values

EMBEDDINGS = ("linear", "table")
# Attribute of `Recurrence` -> its key, for messages.
_KEYS = {
    "num_layers": "model.num_layers",
    "block": "model.block",
    "dropout": "model.dropout",
    "zoneout_h": "model.zoneout_h",
    "zoneout_c": "model.zoneout_c",
    "recurrent_dropconnect": "model.recurrent_dropconnect",
    "p_block": "detach.p_block",
    "c_block": "detach.c_block",
    "mask_scope": "detach.scope",
    "stack_mask": "detach.stack_mask",
}


def supervised_reach(config: Any, length: int) -> int | None:
    """Resolves `truncate.supervised`: how many steps back the gradient of the labels reaches.

    Args:
      config: the run's config.
      length: time steps of a sequence.

    Returns:
      Steps, 0 = all the way; None: it does not enter the recurrence (`stop`).

    Raises:
      UserError: neither `same`, `stop` nor a number that fits the sequence.
    """
    value = config.truncate.supervised
    if value == "same":
        return config.truncate.steps
    if value == "stop":
        return None
    if not re.fullmatch("[0-9]+", value, re.ASCII) or int(value) > length:
        raise UserError(
            f"truncate.supervised={value!r}: use same (as truncate.steps), stop, or a number of"
            f" steps from 0 (all the way) to {length}"
        )
    return int(value)


def network_options(network: str) -> frozenset[str]:
    """Returns the keys of `config.model` that the network around the cell knows, by its fields.

    Args:
      network: `language`, of a `LanguageModel`; `caption`, of a `Captioner`; else of a
        `SequenceModel`, whose embedding and head are modules with keys of their own.
    """

    def fields(module: type[nn.Module], prefix: str = "") -> set[str]:
        return {prefix + f.name for f in dataclasses.fields(module) if f.init}

    if network == "language":
        return frozenset(fields(Recurrence) | fields(LanguageModel))
    if network == "caption":
        return frozenset(fields(Recurrence) | fields(Captioner) | {"caption", "attention_size"})
    own = fields(Recurrence) | fields(SequenceClassifier) | fields(Head, "head_")
    return frozenset(own | {"embedding_size", "input_noise"})


def make_head(config: Any, outputs: int) -> Head:
    """Builds the head from `config.model`.

    Raises:
      UserError: a rate of DropConnect out of range, or without a matrix to work on.
    """
    hidden, rate = tuple(config.model.head_hidden), config.model.head_dropconnect
    if not 0 <= rate < 1:
        raise UserError(f"model.head_dropconnect={rate} is a rate; use a value in [0, 1)")
    if rate and not hidden:
        raise UserError(
            f"model.head_dropconnect={rate} acts on the head's second matrix, and this head has"
            " one: give model.head_hidden a width, or set it to 0"
        )
    return Head(hidden, outputs, rate)


def make_pool(config: Any, labels: int = 1) -> str:
    """Resolves `model.pool`, what the head reads of a sequence.

    Args:
      config: the run's config.
      labels: of a sequence.

    Raises:
      UserError: it is unknown, a sequence has several labels, or the gradient of the labels is cut
        to a window, which would be pooled alone.
    """
    pool = config.model.pool
    check_choice("model.pool", pool, POOLS)
    if pool != "last" and labels > 1:
        raise UserError(
            f"model.pool={pool} makes one state of a sequence, and these data have a label at each"
            f" of {labels} steps: set model.pool=last"
        )
    if pool != "last" and config.aux.kind != "none" and supervised_reach(config, 2**31):
        raise UserError(
            f"model.pool={pool} with auxiliary losses needs labels that reach all the way: set"
            " truncate.supervised=0, or model.pool=last"
        )
    return pool


def make_embedding(config: Any, values: int) -> nn.Module | None:
    """Builds what maps a step's values to the first cell's input, None for nothing.

    Args:
      config: the run's config.
      values: the stored numbers are whole and below this; 0: they are not whole.

    Raises:
      UserError: an embedding that is unknown or has no width, or numbers that are no ids.
    """
    embedding, width = config.model.embedding, config.model.embedding_size
    check_choice("model.embedding", embedding, EMBEDDINGS)
    if width < 0:
        raise UserError(f"model.embedding_size={width} must be 0 (none) or more")
    if embedding == "table":
        return make_table(config, values, "model.embedding=table")
    return nn.Dense(width) if width else None


def make_table(config: Any, values: int, wanted_by: str) -> Table:
    """Builds a table of `model.embedding_size` for whole numbers; arguments as above.

    Args:
      config: the run's config.
      values: see `make_embedding`.
      wanted_by: the key and value that ask for it, for the message.

    Raises:
      UserError: it has no width, or the numbers are no ids.
    """
    width = config.model.embedding_size
    if width < 1:
        raise UserError(f"{wanted_by} needs a width: set model.embedding_size (the paper has 128)")
    if not values:
        raise UserError(
            f"{wanted_by} needs whole numbers as inputs, and those of {config.data.name} are not:"
            " leave it out"
        )
    return Table(values, width)


def make_decoder(config: Any, steps: int, outputs: int, embedding: nn.Module | None) -> Decoder:
    """Builds the decoder of an auxiliary loss: cells like those of the main network.

    Args:
      config: the run's config.
      steps: of a decoded segment.
      outputs: width of a prediction.
      embedding: its own, None where it has none.

    Raises:
      UserError: a width that does not fit the cell.
    """
    aux, model = config.aux, config.model
    width = aux.decoder_width or model.hidden_size
    recurrence = Recurrence(
        cell=_make_cell({**model, "hidden_size": width}, steps),
        num_layers=aux.decoder_layers,
        truncate_steps=config.truncate.steps,
        truncate_from="start",
        backend=model.backend,
        recompute=model.recompute,
    )
    head = Head(tuple(aux.head_hidden), outputs, model.head_dropconnect)
    return Decoder(recurrence, head, model.hidden_size, embedding)


def _make_cell(model: Mapping[str, Any], length: int) -> RecurrentCell:
    """The cell of `config.model`, with the precision that it asks for."""
    cell = make_cell(model, length)
    if model["compute_dtype"] != "bfloat16":
        return cell
    if not cell.recurrent_inputs:
        raise UserError(
            "model.compute_dtype=bfloat16 rounds the product of the state, and"
            f" {type(cell).__name__} has none; set it to float32"
        )
    return cell.clone(dot=bfloat16_dot)


def make_captioner(
    config: Any, *, vocabulary_size: int, length: int, fc_features: int, att_features: int
) -> Captioner:
    """Builds the network of `model.caption`.

    Args:
      config: the run's config.
      vocabulary_size: different words, the end among them.
      length: words of a caption and its end.
      fc_features: width of `fc`.
      att_features: width of `att`; 0 where there is none.

    Raises:
      UserError: a value that is unknown or does not fit.
    """
    model = config.model
    check_choice("model.caption", model.caption, CAPTIONERS)
    attends = model.caption == "show_attend_tell"
    refused = {
        "model.bidirectional": model.bidirectional and "would read the words that are to be said",
        "model.learn_initial": model.learn_initial
        and attends
        and "has no effect: the picture makes the initial state",
        "truncate.steps": config.truncate.steps and "is for long sequences, a caption is short",
        "truncate.supervised": config.truncate.supervised != "same"
        and "is for long sequences, a caption is short",
    }
    for key, reason in refused.items():
        if reason:
            group, _, name = key.partition(".")
            raise UserError(f"{key}={config[group][name]!r} {reason}; leave it out")
    if model.embedding_size < 0:
        raise UserError(f"model.embedding_size={model.embedding_size} must be 0 or more")
    recurrence = make_recurrence(config, length)
    if attends:
        cell = recurrence.cell
        attending = AttendingCell(
            cell.hidden_size,
            param_dtype=cell.param_dtype,
            inner=cell,
            attention_size=model.attention_size,
            stop_query=config.detach.attention_query,
        )
        recurrence = recurrence.clone(cell=attending)
        recurrence.check()
    return Captioner(
        recurrence,
        vocabulary_size=vocabulary_size,
        embedding_size=model.embedding_size or model.hidden_size,
        fc_features=fc_features,
        att_features=att_features if attends else 0,
        output_dropout=model.output_dropout,
    )


def make_recurrence(config: Any, length: int) -> Recurrence:
    """Builds the recurrence from `config.model`, `config.detach` and `config.truncate`.

    Args:
      config: the run's config.
      length: time steps of a sequence, for cells whose initialisation depends on it.

    Raises:
      UserError: a value that is unknown or does not fit.
    """
    model, detach = config.model, config.detach
    check_choice("model.compute_dtype", model.compute_dtype, ("float32", "bfloat16"))
    if not 0 <= config.truncate.steps <= length:
        raise UserError(
            f"truncate.steps={config.truncate.steps} does not fit a sequence of {length} steps;"
            f" use 0 (all the way) to {length}"
        )
    options = {
        "num_layers": model.num_layers,
        "bidirectional": model.bidirectional,
        "block": model.block,
        "dropout": model.dropout,
        "zoneout_h": model.zoneout_h,
        "zoneout_c": model.zoneout_c,
        "recurrent_dropconnect": model.recurrent_dropconnect,
        "learn_initial": model.learn_initial,
        "p_block": detach.p_block,
        "c_block": detach.c_block,
        "mask_scope": detach.scope,
        "stack_mask": detach.stack_mask,
        "truncate_steps": supervised_reach(config, length) or 0,
        "backend": model.backend,
        "recompute": model.recompute,
    }
    check_values(options, _KEYS)
    recurrence = Recurrence(cell=_make_cell(model, length), **options)
    recurrence.check()
    return recurrence
