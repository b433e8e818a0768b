"""Pictures of what the decoders of auxiliary losses learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.data.images import to_images
from lrd_jax.data.registry import find_builder, prepared_names
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation.loaded import Loaded
from lrd_jax.objectives.auxiliary import Auxiliary
from lrd_jax.objectives.base import encode
from lrd_jax.objectives.outputs import Decoded
from lrd_jax.reporting.plots import plot_pictures

_EXAMPLES = 6
_COLOURS = (
    "light blue: outside of the segment;  error: white is none, black the whole range of values"
)


def draw(loaded: Loaded, result: dict[str, Any], target: Path) -> None:
    """Draws true and decoded segments of some examples, a picture a kind of loss.

    Each is written beside `target` as `<name>-<kind>.png`: the example, the true segment in it, the
    decoded one and its error, and what the decoder says when it reads its own outputs, so that all
    it knows comes from the state at the anchor. Images are put back in their own order. Of several
    seeds that trained together the decoder of the one that validated best is drawn.

    Args:
      loaded: a run with an auxiliary loss.
      result: the content of `target`; scores and baselines are shown.
      target: what was written about the evaluation.
    """
    objective: Any = loaded.objective
    dataset, split, data, spec = loaded.dataset, loaded.split, loaded.config.data, loaded.spec
    assert isinstance(objective, Auxiliary) and dataset is not None
    batch = next(dataset.eval_batches(split, min(_EXAMPLES, dataset.eval_size(split))))
    index, one, chosen = loaded.choose()
    scores = result["seeds"][index][split]
    whole = np.asarray(encode(jnp.asarray(batch["inputs"]), spec))
    decoded = jax.device_get(jax.jit(objective.decoded)(one, batch))
    for kind, part in decoded.items():
        columns = {
            heading: pictures(data, spec, seen)
            for heading, seen in {"example": whole, **_in_place(part, whole)}.items()
        }
        true = columns["true segment"]
        with_errors = {}
        for heading, drawn in columns.items():
            with_errors[heading] = drawn
            if heading in ("decoded", "own outputs"):
                mean = np.nanmean((drawn - true) ** 2)
                with_errors[f"{heading}: error\nmean square {mean:.3f}"] = 1 - np.abs(drawn - true)
        path = target.with_name(f"{target.stem}-{kind}.png")
        title = _title(kind, split, scores, result["baselines"])
        try:
            plot_pictures(with_errors, path, title=title, note=_COLOURS)
        except UserError as error:
            print(f"no plot: {error}")
            return
        print(f"{kind}ed segments{f' of {chosen}' if chosen else ''} in {path}")


def _in_place(part: Decoded, whole: np.ndarray) -> dict[str, np.ndarray]:
    """Decoded steps where they belong in the sequences, NaN elsewhere, by heading."""

    def placed(steps: Any) -> np.ndarray:
        sequences = np.full(whole.shape, np.nan, whole.dtype)
        start = int(part.start) + 1
        sequences[:, start : start + steps.shape[1]] = steps
        return sequences

    columns = {"true segment": placed(part.true), "decoded": placed(part.decoded)}
    return columns if part.alone is None else columns | {"own outputs": placed(part.alone)}


def pictures(data: Any, spec: DataSpec, seen: np.ndarray) -> np.ndarray:
    """Makes pictures of sequences: images in their own order, anything else as strips.

    Args:
      data: `config.data`.
      spec: of the data set.
      seen: sequences as the network sees them, `(examples, time, features)`; may hold NaN.

    Returns:
      `(examples, height, width, channels)`, in 0 .. 1 where the data are.
    """
    if spec.one_hot:
        numbers = np.where(np.isnan(seen[..., :1]), np.nan, seen.argmax(-1)[..., None])
    else:
        numbers = seen / np.array(spec.scale) + np.array(spec.offset)
    shown = numbers / (spec.values - 1) if spec.values else numbers
    builder = find_builder(data.name) if data.name in prepared_names() else None
    shape = getattr(builder, "IMAGE_SHAPE", None)
    if shape is None:
        return np.swapaxes(shown, 1, 2)[..., None]
    return to_images(shown, shape, data.permutation)


def _title(kind: str, split: str, scores: Mapping[str, float | None], baselines: Any) -> str:
    """The scores over the whole split, in a line."""
    name = f"{kind}_loss" if f"{kind}_loss" in scores else "aux_loss"
    trivial = {"mean": "mean", "position_mean": "mean of each position", "previous": "previous"}
    parts = [f"{text} {baselines[f'aux_loss_{key}']:.4f}" for key, text in trivial.items()]
    score = math.nan if scores[name] is None else scores[name]
    return f"{name} {score:.4f} on {split}; trivial: {', '.join(parts)}"
