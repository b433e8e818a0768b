"""Memory: what a network still knows, and of which of its inputs.

Of labels at many steps (copying): accuracy by position and by delay. Of one label at the end: the
score when only the last steps are shown, and the saliency of each step. Of text: the surprise of
each token.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from lrd_jax.data import make_dataset
from lrd_jax.data.images import to_images
from lrd_jax.data.registry import find_builder, prepared_names, varied_key
from lrd_jax.errors import UserError
from lrd_jax.metrics import ACCURACY, Metric, finish
from lrd_jax.probe.output import panel_figure
from lrd_jax.probe.subjects import Subject
from lrd_jax.reporting.figures import REFERENCE, plain, style
from lrd_jax.reporting.plots import CHANCE
from lrd_jax.reporting.seeds import draw_line, seeds_note

_POINTS = 9  # numbers of last steps that are tried
_FACTORS = (0.25, 0.5, 1, 2, 4)  # of the delay of training


def measure(
    subject: Subject, *, split: str = "test", examples: int = 250, delays: Sequence[int] = ()
) -> dict[str, Any]:
    """Measures a subject by the kind of its task.

    Args:
      subject: what is measured.
      split: whose first examples are shown.
      examples: how many; of text, tokens.
      delays: of copying; () = from a quarter of the delay of training to four times.

    Returns:
      What `Subject.about` says, `task`, and by task: `positions` and `delays`, or `last_steps` and
      `saliency`, or `surprise`.

    Raises:
      UserError: a task of another kind, or delays where there are none.
    """
    spec, name = subject.spec, subject.config.data.name
    if delays and not (spec.kind == "tag" and varied_key(name) == "delay"):
        raise UserError(f"--delays is for tasks with a delay: leave it out for {name}")
    if spec.kind == "tag":
        found = _recall(subject, split, examples, delays)
    elif spec.kind in ("classify", "regress") and not spec.inputs:
        found = _last_steps(subject, split, examples)
    elif spec.kind == "language":
        found = _surprise(subject, split, examples)
    else:
        raise UserError(f"memory is measured of labels and of text, and {name} is of another kind")
    return subject.about() | {"task": spec.kind, "examples": examples} | found


# ---- Labels at many steps -----------------------------------------------------------------------


def _recall(subject: Subject, split: str, examples: int, delays: Sequence[int]) -> dict[str, Any]:
    """Accuracy at each of the last steps, `(seeds, positions)`, and at each delay, over seeds."""
    key = varied_key(subject.config.data.name)
    spec, found = subject.spec, {}
    found["positions"] = _by_position(subject, subject.dataset, subject.config, split, examples)
    if spec.baselines.get("accuracy") is not None:
        found["chance"] = spec.baselines["accuracy"]
    if key != "delay":
        return found
    trained = subject.config.data[key]
    chosen = delays or sorted({max(1, round(trained * factor)) for factor in _FACTORS})
    rows = []
    for delay in chosen:
        changed: Any = subject.config.copy_and_resolve_references()
        changed.data[key] = int(delay)
        there = make_dataset(changed)
        each = _by_position(subject, there, changed, split, examples)
        rows.append({"delay": int(delay), "accuracy": np.mean(each, axis=1).tolist()})
    return found | {"delays": rows, "trained_delay": int(trained)}


def _by_position(
    subject: Subject, dataset: Any, config: Any, split: str, examples: int
) -> list[list[float]]:
    """Accuracy at each of the last steps of the first examples, `(seeds, positions)`."""
    objective: Any = subject.objective_for(config, dataset.spec)
    size = min(examples, dataset.eval_size(split))
    batch = next(iter(dataset.eval_batches(split, size)))
    last = dataset.spec.recalled or dataset.spec.scored
    targets = np.asarray(batch["targets"])[:, -last:]

    @jax.jit
    def guesses(params: Any) -> Any:
        return objective.outputs({"params": params}, batch, None).argmax(-1)[:, -last:]

    accuracies = []
    for params in subject.params:
        right = np.asarray(guesses(params)) == targets
        counted = targets >= 0
        accuracies.append((right & counted).sum(0) / np.maximum(counted.sum(0), 1))
    return np.array(accuracies).tolist()


# ---- One label at the end -----------------------------------------------------------------------


def _last_steps(subject: Subject, split: str, examples: int) -> dict[str, Any]:
    """The score with the last steps alone, `(numbers of steps, seeds)`, and the saliency."""
    objective: Any = subject.objective()
    batch, length = subject.batch(split, examples), subject.spec.length
    metric = objective.select[0]
    steps = sorted({max(1, round(length ** (i / (_POINTS - 1)))) for i in range(_POINTS)})

    @functools.partial(jax.jit, static_argnums=1)
    def sums(params: Any, shown: int) -> Any:
        seen = dict(batch, inputs=jnp.asarray(batch["inputs"])[:, -shown:])
        return objective.loss({"params": params}, (), seen, None)[1][0]

    scores = []
    for shown in steps:
        parts = [jax.device_get(sums(params, shown)) for params in subject.params]
        stacked = jax.tree.map(lambda *each: np.stack(each), *parts)
        scores.append(finish(objective.metrics, stacked)[metric.name].tolist())
    label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
    found: dict[str, Any] = {
        "last_steps": {"steps": steps, "scores": scores, "label": label, "factor": metric.factor}
    }
    if np.issubdtype(jnp.asarray(objective.values(batch["inputs"][:1])).dtype, np.floating):
        found["saliency"] = _saliency(subject, objective, batch)
    return found


def _saliency(subject: Subject, objective: Any, batch: Any) -> dict[str, Any]:
    """The gradient of the label's logit with respect to each input, its mean size, `(time, n)`.

    Simonyan et al. (2013), "Deep Inside Convolutional Networks", arXiv:1312.6034, section 3.
    """
    x = objective.values(jnp.asarray(batch["inputs"]))
    targets = jnp.asarray(batch["targets"])

    @jax.jit
    def of(params: Any) -> Any:
        def chosen(x: Any) -> Any:
            apply = functools.partial(objective.model.apply, {"params": params})
            outputs = apply(objective.model.features(apply(x, method="run")), method="read")
            if not jnp.issubdtype(targets.dtype, jnp.integer):
                return outputs.sum()
            return jnp.take_along_axis(outputs, targets[:, None], axis=1).sum()

        return jnp.abs(jax.grad(chosen)(x)).mean(0)

    mean = np.mean([np.asarray(of(params)) for params in subject.params], axis=0)
    return {"steps": mean.tolist(), "image": _as_image(subject, mean)}


def _as_image(subject: Subject, steps: np.ndarray) -> list[Any]:
    """Two pictures, `(height, width)`: as it is read, and as it stands in the image; or []."""
    data = subject.config.data
    builder = find_builder(data.name) if data.name in prepared_names() else None
    shape = getattr(builder, "IMAGE_SHAPE", None)
    if shape is None:
        return []
    flat = steps.reshape(1, -1, 1)
    pictures = [
        to_images(flat.reshape(1, -1, shape[2]), shape, permutation).sum(-1)[0]
        for permutation in ("none", data.permutation)
    ]
    return [picture.tolist() for picture in pictures]


# ---- Text ---------------------------------------------------------------------------------------


def _surprise(subject: Subject, split: str, tokens: int) -> dict[str, Any]:
    """-log p of each of the first tokens, in nats, of the first seed."""
    objective: Any = subject.objective()
    vocabulary = subject.spec.vocabulary
    assert vocabulary is not None
    params, carry = subject.params[0], objective.initial_carry(1)

    read = jax.jit(objective.surprise)
    numbers: list[int] = []
    nats: list[float] = []
    for batch in subject.dataset.eval_batches(split, 1):
        each, carry = read(params, carry, batch)
        real = np.asarray(batch["mask"][0]) > 0
        numbers += np.asarray(batch["targets"][0])[real].tolist()
        nats += np.asarray(each[0], np.float64)[real].tolist()
        if len(nats) >= tokens:
            break
    words = [vocabulary.symbols[number] for number in numbers[:tokens]]
    return {"surprise": {"unit": vocabulary.unit, "tokens": words, "nats": nats[:tokens]}}


# ---- The figure ---------------------------------------------------------------------------------


def draw(entries: Sequence[Mapping[str, Any]], *, narrow: bool = False) -> Figure | None:
    """Draws what `measure` found of subjects with tasks of one kind; None of text.

    Raises:
      UserError: tasks of different kinds.
    """
    if len({entry["task"] for entry in entries}) > 1:
        raise UserError("these networks have tasks of different kinds: name those of one kind")
    if entries[0]["task"] == "language":
        return None
    return (_draw_recall if "positions" in entries[0] else _draw_last)(entries, narrow)


def _draw_recall(entries: Sequence[Mapping[str, Any]], narrow: bool) -> Figure:
    """Draws the accuracy over the position of the symbol and, of copying, over the delay."""
    by_delay = "delays" in entries[0]
    figure, panels = panel_figure(1 + by_delay, narrow=narrow)
    for index, entry in enumerate(entries):
        positions = np.array(entry["positions"])
        x = np.arange(1, positions.shape[1] + 1)
        _seeds(panels[0], index, x, positions, entry["label"], ACCURACY)
        if by_delay:
            delays = [row["delay"] for row in entry["delays"]]
            values = np.array([row["accuracy"] for row in entry["delays"]]).T
            _seeds(panels[1], index, delays, values, entry["label"], ACCURACY)
    panels[0].set(title="by position", xlabel="position of the symbol", ylabel="accuracy (%)")
    if by_delay:
        trained = entries[0]["trained_delay"]
        panels[1].axvline(trained, label="delay of training", **REFERENCE | {"ls": (0, (6, 2))})
        panels[1].set_xscale("log")
        panels[1].set_xticks(delays, [str(delay) for delay in delays])
        panels[1].minorticks_off()
        panels[1].set(title="by delay", xlabel="delay (steps)", ylabel="accuracy (%)")
    for panel in panels:
        if "chance" in entries[0]:
            panel.axhline(100 * entries[0]["chance"], label=CHANCE, **REFERENCE)
        panel.set_ylim(-2, 102)
        style(panel)
    return figure


def _draw_last(entries: Sequence[Mapping[str, Any]], narrow: bool) -> Figure:
    """Draws the score over the number of steps shown, and what the saliency of an image is."""
    pictured = [entry for entry in entries if entry.get("saliency", {}).get("image")]
    figure, panels = panel_figure(1 + 2 * len(pictured), narrow=narrow)
    last = entries[0]["last_steps"]
    shares = last["factor"] == ACCURACY.factor
    metric = ACCURACY if shares else Metric("score")
    for index, entry in enumerate(entries):
        scores = np.array(entry["last_steps"]["scores"]).T
        _seeds(panels[0], index, entry["last_steps"]["steps"], scores, entry["label"], metric)
    panels[0].set_xscale("log")
    panels[0].set(
        title="shown the last steps alone", xlabel="steps shown", ylabel=f"{last['label']}"
    )
    style(panels[0])
    for index, entry in enumerate(pictured):
        both = zip(
            entry["saliency"]["image"],
            ("as it is read", "in the image"),
            panels[1 + 2 * index : 3 + 2 * index],
            strict=True,
        )
        for picture, order, panel in both:
            shown = panel.imshow(picture, cmap="cividis", interpolation="nearest", vmin=0)
            panel.set(xticks=[], yticks=[])
            label = textwrap.shorten(plain(entry["label"]), 22, placeholder="…")
            panel.set_title(f"{label}, {order}", fontsize=8)
            bar = figure.colorbar(shown, ax=panel, shrink=0.85)
            bar.set_label("mean |d logit / d pixel|", fontsize=7)
            bar.ax.tick_params(labelsize=7)
    return figure


def note(entries: Sequence[Mapping[str, Any]]) -> str:
    """What the legend of `draw` says of all lines."""
    return seeds_note([len(entry["seeds"]) for entry in entries])


def _seeds(panel: Any, index: int, x: Any, values: np.ndarray, label: str, metric: Metric) -> None:
    """The mean over seeds and its interval; `values` are `(seeds, points)`."""
    draw_line(panel, index, x, values.T, label, metric, markers=True)
