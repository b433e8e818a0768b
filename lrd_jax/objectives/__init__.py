"""Losses with their metrics, by kind of task."""

from __future__ import annotations

from typing import Any

from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError, unknown
from lrd_jax.objectives.auxiliary import Auxiliary
from lrd_jax.objectives.auxiliary_options import KINDS, check_options
from lrd_jax.objectives.base import Objective, Sums
from lrd_jax.objectives.captioning import Captioning
from lrd_jax.objectives.language import Language
from lrd_jax.objectives.segments import Segments
from lrd_jax.objectives.sequence import (
    Classification,
    Forecast,
    Regression,
    StepRegression,
    Tagging,
)

__all__ = ["Objective", "Sums", "make_evaluated", "make_objective"]

OBJECTIVES = {
    "caption": Captioning,
    "classify": Classification,
    "forecast": Forecast,
    "language": Language,
    "regress": Regression,
    "regress_steps": StepRegression,
    "tag": Tagging,
}


def make_objective(config: Any, spec: DataSpec, horizon: Horizon) -> Objective:
    """Builds the objective for a data set's kind of task, with the auxiliary losses asked for.

    Args:
      config: the run's config.
      spec: describes the data; its `kind` chooses the objective.
      horizon: length of the run, for schedules.

    Raises:
      UserError: a config value that does not fit.
    """
    check_options(config.aux)
    if spec.kind == "language" and (KINDS[config.aux.kind] or config.truncate.supervised != "same"):
        raise UserError(
            "auxiliary losses and truncate.supervised are for sequences with an end, and"
            f" {config.data.name} is running text: set aux.kind=none and truncate.supervised=same"
        )
    if spec.kind == "caption" and KINDS[config.aux.kind]:
        raise UserError(
            f"auxiliary losses are for long sequences, and {config.data.name} has"
            " captions: set aux.kind=none"
        )
    if spec.kind not in OBJECTIVES:
        raise unknown("DataSpec.kind=", spec.kind, OBJECTIVES)
    task = OBJECTIVES[spec.kind](config, spec, horizon)
    return Auxiliary(config, task) if KINDS[config.aux.kind] else task


def make_evaluated(config: Any, spec: DataSpec) -> Objective:
    """Builds the same objective to be evaluated alone, perhaps on shorter sequences.

    Nothing is differentiated and no step is counted: what limits gradients is left out, and a
    segment of an auxiliary loss is as long as fits.

    Args:
      config: the run's config; stays as it is.
      spec: describes the data.

    Raises:
      UserError: a config value that does not fit.
    """
    config = config.copy_and_resolve_references()
    config.truncate.steps, config.truncate.supervised = 0, "same"
    config.detach.off_last_epochs = 0
    if config.aux.kind != "none":
        longest = Segments.longest(spec.length, config.aux.gap)
        config.aux.segment_length = min(config.aux.segment_length, longest)
    objective = make_objective(config, spec, Horizon(1, 1))
    if isinstance(objective, Captioning):
        objective.decode_as(config.eval)
    return objective
