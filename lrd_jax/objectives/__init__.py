"""Losses with their metrics, by kind of task."""

from __future__ import annotations

from typing import Any

from lrd_jax.config.horizon import Horizon
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.objectives.auxiliary import KINDS, Auxiliary, check_options
from lrd_jax.objectives.base import Objective, Sums
from lrd_jax.objectives.language import Language
from lrd_jax.objectives.sequence import Classification, Regression, Tagging

__all__ = ["Objective", "Sums", "make_objective"]

OBJECTIVES = {
    "classify": Classification,
    "language": Language,
    "regress": Regression,
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
    task = OBJECTIVES[spec.kind](config, spec, horizon)
    return Auxiliary(config, task) if KINDS[config.aux.kind] else task
