"""Scores on a split, and pictures where a decoder was trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lrd_jax.evaluation import pictures
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.metrics import declarations
from lrd_jax.reporting import summary
from lrd_jax.reporting.results import strict
from lrd_jax.reporting.workdir import json_text, keep

NOWHERE = "nowhere: the work directory cannot be written"


def run(loaded: Loaded) -> dict[str, Any]:
    """Evaluates the best parameters on a split; writes `eval/<name>.json`.

    The name is the split, with the changes of the data after it: `test-data.permutation=none.json`.
    A run with an auxiliary loss also gets a picture of what its decoder made of some examples.

    Returns:
      What was written: `split`, `overrides`, and `seeds` with step and metrics of each; with an
      auxiliary loss the `baselines` of the split, and `evaluated` where that is not all of it.
    """
    assert loaded.dataset is not None
    split, result = loaded.split, measure(loaded)
    if auxiliary := loaded.config.aux.kind != "none":
        result["baselines"] = dict(loaded.objective.baselines(loaded.dataset, split))
    result = strict(result)
    target = write_evaluation(loaded.workdir, split, result)
    print(summary.evaluation(result, target or NOWHERE))
    if auxiliary and target:
        pictures.draw(loaded, result, target)
    return result


def measure(loaded: Loaded) -> dict[str, Any]:
    """Evaluates every member on the split that is asked for: what `run` writes."""
    (seeds, cut), names = loaded.scores(), loaded.spec.class_names
    return {
        "split": loaded.split,
        "overrides": dict(loaded.overrides),
        "seeds": seeds,
        "metrics": declarations(loaded.objective.metrics, loaded.objective.select),
        **({"classes": list(names)} if "tables" in seeds[0] and names else {}),
        **cut,
    }


def write_evaluation(workdir: Path, name: str, result: dict[str, Any]) -> Path | None:
    """Writes `eval/<name>.json`, the changes of the data added to the name.

    Args:
      workdir: of the run.
      name: e.g. the split.
      result: what to write; its `overrides` are the changes.

    Returns:
      Its path; None, after a warning, where the work directory cannot be written.
    """
    changes = [
        f"{key}={value}"
        for key, value in sorted(result["overrides"].items())
        if not key.startswith("eval.") and key not in ("data.data_dir", "data.batch_size")
    ]
    name = re.sub(r"[^\w.=+-]+", "_", "-".join([name, *changes]))
    target = workdir / "eval" / f"{name}.json"
    return keep(target, json_text(result))
