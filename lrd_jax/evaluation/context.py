"""A language model that sees a bounded context, as a Transformer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_jax.data import reads_text
from lrd_jax.data.text import TextDataset
from lrd_jax.errors import UserError
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.evaluation.scores import NOWHERE, measure, write_evaluation
from lrd_jax.reporting import summary
from lrd_jax.reporting.results import strict


def check(workdir: Path, config: Any) -> None:
    """Raises UserError for another task."""
    del workdir
    if not reads_text(config.data.name):
        raise UserError(
            f"eval.context={config.eval.context} is for language models: leave it out for"
            f" {config.data.name}"
        )


def run(loaded: Loaded) -> dict[str, Any]:
    """Scores a split in windows of `eval.context` tokens, the state starting anew with each.

    So every token is predicted from the tokens before it in its window, half of `eval.context` on
    average, the first one from the one before it. This is how nanoGPT scores a text, with random
    windows in place of all. Writes `eval/<split>-context=N.json`.

    Args:
      loaded: a language model.

    Returns:
      What `scores.run` returns.
    """
    config: Any = loaded.config.copy_and_resolve_references()
    config.data.length = config.eval.context
    there = loaded.changed(config)
    assert isinstance(there.dataset, TextDataset)
    there.dataset.restart = True
    result = strict(measure(there))
    name = f"{loaded.split}-context={config.eval.context}"
    target = write_evaluation(loaded.workdir, name, result)
    print(summary.evaluation(result, target or NOWHERE))
    return result
