"""From what a model says to the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrd_jax.inference.model import Model, Prediction


def rows(
    model: Model, ids: Sequence[Any], lengths: Sequence[int], said: Prediction
) -> dict[str, Any]:
    """Columns of what was said of some sequences.

    Args:
      model: whose classes, or numbers, these are.
      ids: of the sequences.
      lengths: their valid steps.
      said: of them.

    Returns:
      `id`, where every step has something said of it `step` (from 0), then `label` and `p_<class>`
      for each class, or a column for each number.
    """
    values = said.numbers if said.probabilities is None else said.probabilities
    assert values is not None
    columns: dict[str, Any] = {}
    if values.ndim == 2:
        columns["id"], flat = list(ids), values
        labels = said.labels
    else:
        spec = model.spec
        last = spec.scored or spec.length
        whole = spec.varied or last >= spec.length  # else only the last steps have a label
        spans = [np.arange(0 if whole else max(0, n - last), n) for n in lengths]
        columns["id"] = [name for name, span in zip(ids, spans, strict=True) for _ in span]
        columns["step"] = np.concatenate(spans)
        flat = np.concatenate([each[span] for each, span in zip(values, spans, strict=True)])
        labels = said.labels
        if labels is not None:
            labels = np.concatenate([e[s] for e, s in zip(labels, spans, strict=True)])
    if labels is not None:
        columns["label"] = labels.tolist()
        return columns | {f"p_{name}": flat[:, i] for i, name in enumerate(model.names)}
    named = model.names if model.spec.class_names else _numbered(flat.shape[1])
    if model.spec.kind == "forecast":  # of the step after the one that the row names
        named = [f"next_{name}" for name in named]
    return columns | {name: flat[:, i] for i, name in enumerate(named)}


def _numbered(count: int) -> list[str]:
    return ["prediction"] if count == 1 else [f"prediction_{number}" for number in range(count)]
