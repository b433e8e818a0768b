"""Gradient flow: how large dL/dh_t and dL/dc_t are at every step of time.

They are total derivatives of each example's own loss with respect to the new state of a step,
before padding holds it, taken at the perturbation points of the recurrence: there is no second
implementation. The state is the pair (c_t, h_t): a change of c_t leaves the h_t beside it alone, so
that with a loss on the last h the gradient of the last c is 0, and its curve begins a step earlier.

In a cell with a memory c the gradient goes back over two paths. With every h blocked where it
enters a matrix product (`detach.p_block=1`) that through c is left; the difference to the whole is
what came through h. This is the split that Arpit et al. (2019), "h-detach", arXiv:1810.03023,
section 2.2, argue with.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from lrd_jax.errors import UserError
from lrd_jax.evaluation.inspection import main_recurrence
from lrd_jax.objectives.base import Objective
from lrd_jax.probe.output import panel_figure
from lrd_jax.probe.subjects import Subject
from lrd_jax.recurrence.perturbations import COLLECTION
from lrd_jax.reporting.figures import look, plain, style
from lrd_jax.reporting.results import strict
from lrd_jax.streams import StepContext

LOSS = "of each example, not divided by the size of the batch; without dropout"
NOTE = "median and quartiles over examples and seeds; name: steps back until below 1/e, of h / c"
Gradients = dict[str, dict[str, Any]]  # layer -> leaf of the state -> (time, batch, units)


@dataclasses.dataclass(frozen=True)
class Flow:
    """The norms of one subject, layer by layer, the last of them on top.

    Attributes:
      norms: layer -> leaf (`h`, `c`) -> `(seeds, time, examples)`, over the units.
      through_c: the same of dL/dc_t with every h blocked, `c` alone; empty without a memory c.
      rest: of the difference between the two, the same.
      masks: what was drawn for the first layer, seed by seed: `block_h` and `block_c`,
        `(time,)` or `(time, examples)` booleans, True = blocked; without what is not drawn.
    """

    norms: Mapping[str, Mapping[str, np.ndarray]]
    through_c: Mapping[str, Mapping[str, np.ndarray]]
    rest: Mapping[str, Mapping[str, np.ndarray]]
    masks: list[dict[str, np.ndarray]]


def flow(subject: Subject, *, split: str = "valid", examples: int = 32) -> Flow:
    """Measures the gradients of a subject on the first examples of a split.

    Args:
      subject: what is measured.
      split: "train", "valid" or "test".
      examples: how many of it, at most.

    Raises:
      UserError: the model has no `Recurrence`, or the data no labels there.
    """
    objective: Any = subject.objective()
    batch = subject.batch(split, examples)
    real = np.asarray(batch["mask"]).reshape(len(batch["mask"]), -1).max(-1) > 0
    if not real.any():
        raise UserError(f"{subject.label}: the {split} split has no example")
    batch = jax.tree.map(jnp.asarray, batch)
    has_c = "c" in objective.model.recurrence.cell.carry_type._fields

    @jax.jit
    def measure(params: Any, key: Any) -> tuple[Any, Any, Any]:
        step = StepContext(key)
        whole = state_gradients(objective, params, batch, step)
        if not has_c:
            return _norms(whole), {}, {}
        blocked = step.with_values(p_block=jnp.ones(()))
        through_c = {
            layer: {"c": leaves["c"]}
            for layer, leaves in state_gradients(objective, params, batch, blocked).items()
        }
        rest = {
            layer: {"c": whole[layer]["c"] - leaves["c"]} for layer, leaves in through_c.items()
        }
        return _norms(whole), _norms(through_c), _norms(rest)

    found: list[tuple[Any, Any, Any]] = []
    masks = []
    for seed, params in zip(subject.seeds, subject.params, strict=True):
        key = jax.random.fold_in(jax.random.key(seed), 0)
        found.append(jax.device_get(measure(params, key)))
        masks.append(_masks(objective, StepContext(key), batch))
    norms, through_c, rest = jax.tree.map(lambda *each: np.stack(each)[..., real], *found)
    return Flow(norms, through_c, rest, masks)


def state_gradients(
    objective: Objective, params: Any, batch: Any, step: StepContext | None = None
) -> Gradients:
    """dL/dh_t and dL/dc_t of every example's own loss.

    Args:
      objective: the loss, e.g. `Subject.objective()`.
      params: of one seed.
      batch: as for `Objective.loss`.
      step: a training step, which draws what is blocked; None: nothing is.

    Returns:
      Layer -> leaf of the state -> `(time, batch, units)`.

    Raises:
      UserError: the model has no `Recurrence`.
    """

    def loss(perturbations: Any) -> Any:
        variables = {"params": params, COLLECTION: perturbations}
        carry = objective.initial_carry(len(batch["mask"]))
        return objective.loss(variables, carry, batch, step)[0]

    found = jax.grad(loss)(_zeros(objective, params, batch))
    while not any(name.startswith("layer_") for name in found):  # inside of the network
        (found,) = found.values()
    return found


def _norms(gradients: Gradients) -> dict[str, dict[str, Any]]:
    """Over the units, `(time, batch)`."""
    return jax.tree.map(lambda g: jnp.sqrt((jnp.abs(g) ** 2).sum(-1)), gradients)


def _zeros(objective: Objective, params: Any, batch: Any) -> Any:
    """What to perturb the states of the main recurrence with; nothing is computed."""
    found: list[Any] = []

    def run() -> None:
        carry = objective.initial_carry(len(batch["mask"]))
        found.append(
            main_recurrence(lambda: objective.loss({"params": params}, carry, batch, None))
        )

    jax.eval_shape(run)
    (seen,) = found
    tree: Any = {
        name: {leaf: jnp.zeros(s.shape, s.dtype) for leaf, s in state._asdict().items()}
        for name, state in zip(seen.names, seen.out.layers, strict=True)
    }
    return functools.reduce(lambda inner, name: {name: inner}, reversed(seen.path), tree)


def _masks(objective: Any, step: StepContext, batch: Any) -> dict[str, np.ndarray]:
    """What the loss drew for the first layer at this step, drawn once more."""
    length = jax.tree.leaves(batch["inputs"])[0].shape[1]
    drawn = objective.model.recurrence.draw(objective.in_force(step), length, len(batch["mask"]))
    masks = {"block_h": drawn.block_h[0], "block_c": drawn.block_c[0]}
    return {name: np.asarray(mask) for name, mask in masks.items() if mask is not None}


def horizon(median: np.ndarray) -> int | None:
    """The effective horizon of a curve of norms.

    Args:
      median: over examples and seeds, `(time,)`.

    Returns:
      Steps back from the last one that has a gradient until the norm is below 1/e of its value
      there for good; None where it never is, "longer than T"; 0 where no step has a gradient.
    """
    if not (median > 0).any():
        return 0
    last = int(np.flatnonzero(median > 0)[-1])
    large = np.flatnonzero(~(median[: last + 1] < median[last] / np.e))
    return last + 1 - int(large[0]) if large[0] else None


def quartiles(norms: np.ndarray) -> dict[str, np.ndarray]:
    """Median and quartiles over seeds and examples, each `(time,)`.

    Args:
      norms: `(seeds, time, examples)`; NaN is left out.
    """
    flat = np.moveaxis(norms, 1, 0).reshape(norms.shape[1], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step without any value
        low, median, high = np.nanpercentile(flat, (25, 50, 75), axis=1)
    return {"median": median, "low": low, "high": high}


def numbers(subject: Subject, measured: Flow) -> dict[str, Any]:
    """What the file beside the figure says of a subject.

    Returns:
      Of every layer the curves of dL/dh_t (`h`) and dL/dc_t (`c`) with their horizons; with a
      memory c also `through_c`, `rest`, and `share`, the part of the sum of both norms that is the
      path through c. Then the masks that were drawn.
    """
    layers: dict[str, Any] = {}
    for layer, norms in measured.norms.items():
        layers[layer] = {leaf: _curve(each) for leaf, each in norms.items()}
        if measured.through_c:
            own, rest = measured.through_c[layer]["c"], measured.rest[layer]["c"]
            layers[layer] |= {"through_c": _curve(own), "rest": _curve(rest)}
            with np.errstate(invalid="ignore"):
                share = own / (own + rest)
            layers[layer]["share"] = _lists(quartiles(share))
    masks = [
        {name: mask.astype(int).tolist() for name, mask in each.items()} for each in measured.masks
    ]
    examples = next(iter(next(iter(measured.norms.values())).values())).shape[2]
    return subject.about() | {"examples": examples, "layers": layers, "masks": masks}


def _curve(norms: np.ndarray) -> dict[str, Any]:
    found = quartiles(norms)
    return _lists(found) | {"horizon": horizon(found["median"])}


def _lists(curves: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    return {name: strict(values.tolist()) for name, values in curves.items()}


# ---- The figure ---------------------------------------------------------------------------------

_DECADES = 12  # shown below the largest norm; what is smaller leaves the panel at its foot


def draw(entries: Sequence[Mapping[str, Any]], *, narrow: bool = False) -> Figure:
    """Draws the norms over time, of the top layer, a line a setting.

    Panels: dL/dh_t; where a setting has a memory c, dL/dc_t and the share of the path through c.
    The legend has the effective horizon of dL/dh_t, and of dL/dc_t where there is one.

    Args:
      entries: from `numbers`.
      narrow: for one column of a paper, panels one below the other.
    """
    tops = [_top(entry["layers"]) for entry in entries]
    panels = {"h": "gradient of $h_t$: $\\|dL/dh_t\\|$"}
    if any("c" in top for top in tops):
        panels["c"] = "gradient of $c_t$: $\\|dL/dc_t\\|$"
        panels["share"] = "share of the path through $c$"
    length = max(len(next(iter(top.values()))["median"]) for top in tops)
    figure, axes = panel_figure(len(panels), narrow=narrow)
    for panel, (key, heading) in zip(axes, panels.items(), strict=True):
        largest = 0.0
        for index, (entry, top) in enumerate(zip(entries, tops, strict=True)):
            if key not in top:
                continue
            median, low, high = (
                np.array(top[key][name], float) for name in ("median", "low", "high")
            )
            time = np.arange(length - len(median) + 1, length + 1)
            line = look(index)
            if key != "share":
                # What is blocked, or never reached, is 0: no place on a log scale.
                there = median > 0
                time, median, low, high = (v[there] for v in (time, median, low, high))
                low = _held(low)
                largest = max(largest, np.nanmax(high, initial=0.0))
            panel.fill_between(time, low, high, color=line["color"], alpha=0.15, lw=0)
            panel.plot(time, median, **line, label=plain(_name(entry, top)))
        if key == "share":
            panel.set_ylim(-0.02, 1.02)
        elif largest > 0:
            panel.set_yscale("log")
            bottom, _ = panel.get_ylim()
            panel.set_ylim(max(bottom, largest * 10.0**-_DECADES), largest * 3)
        panel.set_xlim(1 - 0.01 * length, length * 1.01)
        panel.set_title(heading)
        panel.set_xlabel("time step $t$" + ("" if length < 10 else f", the last is {length}"))
        panel.set_ylabel("share of both norms" if key == "share" else "norm")
        style(panel)
    return figure


def _held(low: np.ndarray) -> np.ndarray:
    """The lower edge of a band, where it is 0 the one of the next step that has any."""
    place = np.where(low > 0, np.arange(len(low)), len(low) - 1)
    return low[np.minimum.accumulate(place[::-1])[::-1]]


def line(entry: Mapping[str, Any]) -> str:
    """The effective horizons of a setting, for the terminal."""
    top = _top(entry["layers"])
    parts = [f"{leaf}: {_steps(top, leaf)}" for leaf in ("h", "c") if leaf in top]
    return f"{entry['label']}: effective horizon in steps, of {', of '.join(parts)}"


def _top(layers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The forward layer that the head reads."""
    return layers[[name for name in layers if not name.endswith("_reverse")][-1]]


def _name(entry: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    horizons = " / ".join(_steps(top, leaf) for leaf in ("h", "c") if leaf in top)
    return f"{entry['label']}: {horizons}"


def _steps(top: Mapping[str, Any], leaf: str) -> str:
    found = top[leaf]["horizon"]
    return f"longer than {len(top[leaf]['median'])}" if found is None else str(found)
