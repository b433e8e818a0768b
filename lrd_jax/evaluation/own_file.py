"""A run that was made from a file of the user's own: what that file registers, known again."""

from __future__ import annotations

import os
from typing import Any

from lrd_jax.cells import CELLS
from lrd_jax.config import source
from lrd_jax.config.paths import expand_user
from lrd_jax.data import registered
from lrd_jax.errors import UserError
from lrd_jax.objectives import OBJECTIVES
from lrd_jax.reporting.workdir import read_spec


def bring_in(workdir: str | os.PathLike[str], config: Any) -> None:
    """Imports the file that defines cells, tasks or objectives of a run, see `source.import_own`.

    Args:
      workdir: of the run.
      config: the run's config.

    Raises:
      UserError: the file fails; or it is gone, and nothing else knows a name that the run needs.
    """
    folder = expand_user(workdir)
    place = source.import_own(folder)
    if not place:
        return
    unknown = [] if config.model.cell in CELLS else [f"model.cell={config.model.cell}"]
    try:
        registered(config.data.name)
    except UserError:
        unknown.append(f"data.name={config.data.name}")
    spec = read_spec(folder)
    if spec is not None and spec.kind not in OBJECTIVES:
        unknown.append(f"the objective of {spec.kind!r}")
    if unknown:
        raise UserError(
            f"{', '.join(unknown)} is not known here: the run was made from {place}, which is not"
            " there any more; put it back, or run this in the folder that has it, unchanged"
        )
