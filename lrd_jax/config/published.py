"""The number that a paper printed for an experiment, where its config file knows one.

A config file says so by a table `PUBLISHED`: row -> {metric: value, "source": who printed it}, the
row "" for a file without rows.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lrd_jax
from lrd_jax.config.command_line import load_module


def published(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the published values for the row that a work directory was made from.

    Args:
      workdir: its `config.json` names file and row.

    Returns:
      Metric -> value, and `source`; {} where the config, or whether there is a file, is not known.
    """
    try:
        content = json.loads(Path(workdir, "config.json").read_text(encoding="utf-8"))
        made_from = content.get("made_from") or {}
        file, argument = str(made_from["file"]), str(made_from["argument"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    words = argument.split(",") if argument else [""]
    if "quick" in words:  # shrunk: no number of a paper is about it
        return {}
    for folder in (Path.cwd(), Path(lrd_jax.__file__).parents[1]):
        if (folder / file).is_file():
            try:
                module = load_module(folder / file)
            except Exception:  # a file that changed since; without its number all else goes on
                return {}
            rows, names = getattr(module, "PUBLISHED", {}), getattr(module, "ALIASES", {})
            return next((rows[n] for w in words if (n := names.get(w, w)) in rows), {})
    return {}
