"""Time scales: what gates keep, at initialisation, along training and after it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from lrd_jax.evaluation.inspection import SNAPSHOTS, gate_values, summary, time_scale
from lrd_jax.probe.output import panel_figure
from lrd_jax.probe.subjects import Subject
from lrd_jax.reporting.figures import GREY, look, plain, style
from lrd_jax.reporting.writers import read_metrics

NOTE = "dashed: at initialisation; solid: trained"
_LEVELS = np.linspace(0, 100, 101)  # percentiles that are kept of a distribution
_DOTS = 400  # of the panel of the refine gate's band


def measure(subject: Subject, *, split: str = "valid", examples: int = 32) -> dict[str, Any]:
    """The gates of a subject on the first examples of a split.

    Returns:
      What `Subject.about` says and, layer by layer, `initial` (the same seeds before training) and,
      where the subject is trained, `trained`: percentiles of the values over steps, examples,
      units and seeds by kind of gate, the time scale of each unit's mean effective gate, and some
      pairs of main and effective gate where there is a refine gate. `along`: the snapshots of
      `train.inspect_every_steps`, as quartiles of the units' time scales.

    Raises:
      UserError: the model has no `Recurrence`.
    """
    objective, batch = subject.objective(), subject.batch(split, examples)
    values = jax.jit(functools.partial(gate_values, objective))

    def of(params: Sequence[Any]) -> dict[str, Any]:
        each = [jax.device_get(values(one, batch)) for one in params]
        return {layer: _layer([gates[layer] for gates in each], layer) for layer in each[0]}

    init = jax.jit(objective.init)
    initial = [jax.device_get(init(jax.random.key(seed))) for seed in subject.seeds]
    before, after = of(initial), of(subject.params) if subject.trained else {}
    along = _along(subject)
    layers = {
        layer: {
            "initial": before[layer],
            **({"trained": after[layer]} if after else {}),
            **({"along": along[layer]} if layer in along else {}),
        }
        for layer in before
    }
    return subject.about() | {"examples": len(batch["mask"]), "layers": layers}


def _layer(seeds: Sequence[Mapping[str, np.ndarray]], layer: str) -> dict[str, Any]:
    """Percentiles of a layer's gates, its sorted time scales in steps, and dots of its band."""
    values = {kind: np.stack([gates[kind] for gates in seeds]) for kind in seeds[0]}
    units = [summary({layer: gates})[layer]["effective"] for gates in seeds]
    found: dict[str, Any] = {
        "values": {kind: np.percentile(each, _LEVELS).tolist() for kind, each in values.items()},
        "time_scales": sorted(time_scale(np.concatenate(units)).tolist()),
    }
    if "refine" in values:
        pairs = values["forget"].ravel(), values["effective"].ravel()
        chosen = np.random.default_rng(0).integers(0, pairs[0].size, _DOTS)
        found["band"] = [pair[chosen].tolist() for pair in pairs]
    return found


def _along(subject: Subject) -> dict[str, Any]:
    """The snapshots of a run, layer by layer, over units and seeds."""
    try:
        lines = read_metrics(Path(subject.workdir, SNAPSHOTS)) if subject.workdir else []
    except OSError:
        return {}
    lines = [line for line in lines if line.get("seed", subject.seeds[0]) in subject.seeds]
    steps = sorted({line["step"] for line in lines})
    found: dict[str, Any] = {}
    for layer in lines[0]["layers"] if lines else ():
        scales = [
            time_scale(
                np.concatenate(
                    [li["layers"][layer]["effective"] for li in lines if li["step"] == step]
                )
            )
            for step in steps
        ]
        low, median, high = np.array([np.percentile(s, (10, 50, 90)) for s in scales]).T
        found[layer] = {
            "steps": steps,
            "median": median.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "longest": [float(s.max()) for s in scales],
        }
    return found


def line(entry: Mapping[str, Any]) -> str:
    """The time scales of the top layer in a line, for the terminal."""
    top = _top(entry)
    parts = []
    for when in ("initial", "trained"):
        if when in top:
            low, median, high = np.percentile(top[when]["time_scales"], (10, 50, 90))
            parts.append(f"{when} {median:.1f} (10 to 90 %: {low:.1f} to {high:.1f})")
    return f"{entry['label']}: median time scale of the units in steps, {'; '.join(parts)}"


def _top(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return entry["layers"][list(entry["layers"])[-1]]


# ---- The figure ---------------------------------------------------------------------------------


def draw(entries: Sequence[Mapping[str, Any]], *, narrow: bool = False) -> Figure:
    """Draws the distributions of the top layer, a colour a setting.

    Args:
      entries: from `measure`.
      narrow: for one column of a paper, panels one below the other.
    """
    tops = [_top(entry) for entry in entries]
    panels = ["effective", "scales"]
    if any("forget" in top["initial"]["values"] for top in tops):
        panels.insert(0, "forget")
    panels += ["band"] * any("band" in top["initial"] for top in tops)
    panels += ["along"] * any("along" in top for top in tops)
    figure, axes = panel_figure(len(panels), narrow=narrow, per_row=3 if len(panels) != 4 else 2)
    for panel, kind in zip(axes, panels, strict=True):
        if kind == "band":
            f = np.linspace(0, 1, 101)
            panel.fill_between(f, f**2, 1 - (1 - f) ** 2, color="0.9", lw=0)
            panel.plot(f, f, color=GREY, lw=0.8, ls=":")
        for index, (entry, top) in enumerate(zip(entries, tops, strict=True)):
            _PANELS[kind](panel, top, look(index)["color"], plain(entry["label"]))
        panel.set(**_AXES[kind])
        style(panel)
    return figure


def _both(top: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], bool]]:
    """Line style, what is drawn so, and whether it bears the name."""
    found = [("--", top["initial"], "trained" not in top)]
    return [*found, ("-", top["trained"], True)] if "trained" in top else found


def _draw_values(kind: str, panel: Any, top: Mapping[str, Any], colour: str, label: str) -> None:
    for dash, part, named in _both(top):
        if kind in part["values"]:
            shown = label if named else None
            panel.plot(part["values"][kind], _LEVELS, dash, color=colour, lw=1.2, label=shown)


def _draw_scales(panel: Any, top: Mapping[str, Any], colour: str, label: str) -> None:
    for dash, part, named in _both(top):
        scales = part["time_scales"]
        levels = 100 * (np.arange(len(scales)) + 1) / len(scales)
        panel.step(scales, levels, dash, where="post", color=colour, lw=1.2, label=label * named)
    panel.set_xscale("log")


def _draw_band(panel: Any, top: Mapping[str, Any], colour: str, label: str) -> None:
    _, part, _ = _both(top)[-1]
    if "band" in part:
        panel.plot(*part["band"], ".", ms=2, color=colour, mew=0)


def _draw_along(panel: Any, top: Mapping[str, Any], colour: str, label: str) -> None:
    if "along" in top:
        curve = top["along"]
        panel.fill_between(
            curve["steps"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0
        )
        panel.plot(curve["steps"], curve["median"], color=colour, lw=1.2, label=label)
        panel.plot(curve["steps"], curve["longest"], ":", color=colour, lw=1)
    panel.set_yscale("log")


_PANELS = {
    "forget": functools.partial(_draw_values, "forget"),
    "effective": functools.partial(_draw_values, "effective"),
    "scales": _draw_scales,
    "band": _draw_band,
    "along": _draw_along,
}
_AXES = {
    "forget": {
        "title": "main (forget) gate $f$",
        "xlabel": "value",
        "ylabel": "% of values below",
        "xlim": (-0.02, 1.02),
    },
    "effective": {
        "title": "effective gate $g$",
        "xlabel": "value",
        "ylabel": "% of values below",
        "xlim": (-0.02, 1.02),
    },
    "scales": {
        "title": "time scale of a unit",
        "xlabel": "$1/(1-g)$ (steps)",
        "ylabel": "% of units below",
    },
    "band": {
        "title": "refined: $g$ over $f$, band of all $r$",
        "xlabel": "main gate $f$",
        "ylabel": "effective gate $g$",
        "xlim": (-0.02, 1.02),
        "ylim": (-0.02, 1.02),
    },
    "along": {
        "title": "along training (dots: longest)",
        "xlabel": "optimizer steps",
        "ylabel": "time scale (steps)",
    },
}
