"""The options of auxiliary losses, `config.aux`, and what they must be."""

from __future__ import annotations

from typing import Any

from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError, check_choice
from lrd_jax.recurrence.checks import SCOPES

KINDS = {
    "none": (),
    "reconstruct": ("reconstruct",),
    "predict": ("predict",),
    "both": ("reconstruct", "predict"),
}
LOSSES = ("auto", "mse", "ce")
FEEDS = ("teacher", "none", "scheduled")
EMBEDDINGS = ("none", "decoder")


def check_options(aux: Any) -> None:
    """Raises UserError for values of `config.aux` that fit no run, whether they are used or not."""
    check_choice("aux.kind", aux.kind, KINDS)
    for key, known in (
        ("loss", LOSSES),
        ("scope", SCOPES),
        ("decoder_feed", FEEDS),
        ("embedding", EMBEDDINGS),
    ):
        check_choice(f"aux.{key}", aux[key], known)
    for key, least in (("n_anchors", 1), ("decoder_layers", 1), ("decoder_width", 0)):
        if aux[key] < least:
            raise UserError(f"aux.{key}={aux[key]} must be {least} or more")
    if aux.weight < 0:
        raise UserError(f"aux.weight={aux.weight} must be 0 or more")
    if any(width < 1 for width in aux.head_hidden):
        raise UserError(f"aux.head_hidden={aux.head_hidden} holds widths; use 1 or more")


def check_fit(config: Any, spec: DataSpec) -> None:
    """Raises UserError for values that do not fit this run."""
    aux = config.aux
    if spec.inputs:
        raise UserError(
            f"aux.kind={aux.kind} decodes one sequence, and {config.data.name} has several inputs"
            f" ({', '.join(spec.inputs)}): set aux.kind=none"
        )
    if spec.varied:
        raise UserError(
            f"aux.kind={aux.kind} decodes segments of one length, and the sequences of"
            f" {config.data.name} differ in length: set aux.kind=none"
        )
    if aux.reverse and aux.kind == "predict":
        raise UserError("aux.reverse is for reconstruction; leave it out with aux.kind=predict")
    if config.model.bidirectional:
        raise UserError(
            f"aux.kind={aux.kind} decodes the past or the future from a state that has seen the"
            " past alone: set model.bidirectional=false"
        )
    if aux.loss == "ce" and not spec.values:
        raise UserError(
            f"aux.loss=ce needs whole numbers as inputs, and those of {config.data.name} are not:"
            " use mse"
        )
