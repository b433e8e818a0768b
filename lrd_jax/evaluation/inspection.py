"""What the gates of a network keep: values per step and unit, and the time scales they imply.

The effective gate of a unit is the derivative of its new memory with respect to the old one along
the direct path, d c_t / d c_{t-1} with all that enters matrix products held: the forget gate of an
LSTM, g of a refined gate, the share of h that a GRU keeps, 0 where there is no such path; a cell of
a user's own has one too. A constant gate g forgets as exp(-t / tau) does, with a time scale tau of
about 1 / (1 - g) steps (Tallec and Ollivier 2018, arXiv:1804.11188, section 2).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.cells import GatedGRUCell, GatedLSTMCell, LSTMCell
from lrd_jax.cells.gates import MAIN_GATES, widen
from lrd_jax.data.spec import Dataset
from lrd_jax.errors import UserError
from lrd_jax.objectives.base import Objective
from lrd_jax.recurrence import Recurrence
from lrd_jax.recurrence.stack import RecurrenceOutput
from lrd_jax.reporting.writers import MetricsFile

SNAPSHOTS = "gates.jsonl"  # in the work directory
_EXAMPLES = 16  # of the validation split, in a snapshot

Gates = dict[str, dict[str, Array]]  # layer -> kind of gate -> (time, batch, units)


class Seen(NamedTuple):
    """The first call of a recurrence within a call of a network.

    Attributes:
      path: names of the modules down to it.
      module: the recurrence, no longer bound.
      x: what it read, `(batch, time, n)`.
      initial: states before the first step, one per layer and direction.
      context: what its cells see at every step, None without.
      out: what it returned.
    """

    path: tuple[str, ...]
    module: Recurrence
    x: Array
    initial: Any
    context: Any
    out: RecurrenceOutput

    @property
    def names(self) -> list[str]:
        """Of the layers, in the order of `out.layers`."""
        directions = ("", "_reverse") if self.module.bidirectional else ("",)
        return [
            f"layer_{layer}{direction}"
            for layer in range(self.module.num_layers)
            for direction in directions
        ]


def main_recurrence(run: Callable[[], Any]) -> Seen:
    """Watches a call for the main recurrence in it, wherever it stands.

    Args:
      run: calls the network, e.g. `Objective.loss`.

    Raises:
      UserError: it has no `Recurrence`.
    """
    seen: list[Seen] = []

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out, module = call(*args, **kwargs), context.module
        if isinstance(module, Recurrence) and context.method_name == "__call__" and not seen:
            initial = kwargs.get("initial")
            initial = module.initial_carry(args[0].shape[0]) if initial is None else initial
            free = module.clone(parent=None)
            seen.append(Seen(module.path, free, args[0], initial, kwargs.get("context"), out))
        return out

    with nn.intercept_methods(watch):
        run()
    if not seen:
        raise UserError("this model has no Recurrence, so there is no state to look at")
    return seen[0]


def gate_values(objective: Objective, params: Any, batch: Any) -> Gates:
    """The gates of every forward layer as a network reads a batch, without drawing.

    Args:
      objective: calls the network.
      params: of one seed.
      batch: as for `Objective.loss`.

    Returns:
      Of each layer `effective`; of the gated family and the LSTM also `forget`, the main gate
      before it is bent (of a gated GRU what it keeps, 1 minus its update gate), and where there is
      one `refine`, each `(time, batch, units)`.

    Raises:
      UserError: the model has no `Recurrence`.
    """
    carry = objective.initial_carry(len(batch["mask"]))
    seen = main_recurrence(lambda: objective.loss({"params": params}, carry, batch, None))
    own = functools.reduce(lambda tree, name: tree[name], seen.path, params)
    x, found = jnp.swapaxes(seen.x, 0, 1), {}
    outputs: list[Array] = []
    directions = 2 if seen.module.bidirectional else 1
    layers = zip(seen.names, seen.out.layers, seen.initial, strict=True)
    for place, (name, states, start) in enumerate(layers):
        layer = place // directions
        if name.endswith("_reverse"):
            outputs.append(states.h[::-1])
        else:
            read: Any = seen.module.apply({"params": own}, layer, x, method="_branch")
            found[name] = _of_layer(seen, own[name], read, states, start)
            outputs = [states.h]
        if len(outputs) == directions:
            y = jnp.concatenate(outputs, axis=-1)
            x = x + y if layer and seen.module.block != "none" else y
    return found


def _of_layer(seen: Seen, params: Any, x: Array, states: Any, start: Any) -> dict[str, Array]:
    """The gates of one layer; `x` and the leaves of `states` are `(time, batch, ...)`."""
    cell, (time, batch) = seen.module.cell.clone(parent=None), x.shape[:2]
    own = {"params": params}

    def flat(leaf: Array) -> Array:
        return leaf.reshape(time * batch, *leaf.shape[2:])

    def entering(first: Array, after: Array) -> Array:
        return flat(jnp.concatenate([first[None].astype(after.dtype), after[:-1]]))

    before = jax.tree.map(entering, start, states)
    zx = cell.apply(own, flat(x), method="project")
    h = cell.recurrent_input(before)
    every = {
        "time": jnp.repeat(jnp.arange(time), batch),
        "context": jax.tree.map(lambda c: jnp.concatenate([c] * time), seen.context),
    }
    asked = {name: every[name] for name in cell.asks()}
    memory = next(name for name in ("c", "s", "h") if name in before._fields)

    def step(old: Array) -> Array:
        new = cell.apply(own, before._replace(**{memory: old}), zx, h, method="step", **asked)
        return getattr(new, memory)

    old = getattr(before, memory)
    _, effective = jax.jvp(step, (old,), (jnp.ones_like(old),))
    found = {"effective": jnp.abs(effective)}
    if isinstance(cell, GatedLSTMCell | GatedGRUCell | LSTMCell):
        z: Any = zx + cell.apply(own, h, method="recur")
        names = list(cell.blocks())
        edges = np.cumsum([*cell.blocks().values()])[:-1]
        parts = dict(zip(names, jnp.split(z, edges, axis=-1), strict=True))
        code = getattr(cell, "gates", "--")
        main = MAIN_GATES[code[0]].activation(parts[names[0]])
        main, _ = widen(main, effective)
        found["forget"] = 1 - main if isinstance(cell, GatedGRUCell) else main
        if code[1] == "R":
            found["refine"] = nn.sigmoid(parts["r"])
    return {kind: gate.reshape(time, batch, -1) for kind, gate in found.items()}


def time_scale(gate: Any) -> Any:
    """The steps 1 / (1 - g) that a gate implies, at most 10^6."""
    return 1 / np.maximum(1 - np.asarray(gate, np.float64), 1e-6)


def summary(gates: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a snapshot keeps: the mean over time and examples of each unit, five digits.

    Args:
      gates: from `gate_values`, on the host.
    """
    return {
        layer: {
            kind: [float(f"{v:.5g}") for v in np.asarray(values, np.float64).mean((0, 1))]
            for kind, values in kinds.items()
        }
        for layer, kinds in gates.items()
    }


class Snapshots:
    """The gates of a run under way, now and then: lines of `gates.jsonl` in its work directory."""

    def __init__(
        self,
        workdir: Path,
        objective: Objective,
        dataset: Dataset,
        labels: Sequence[Mapping[str, Any]],
        resume_step: int = 0,
    ) -> None:
        """Opens the file; lines after the step that the run goes on from are cut.

        Args:
          workdir: of the run.
          objective: calls the network.
          dataset: its first validation examples are looked at.
          labels: what tells each member from the others, `members.labels`.
          resume_step: of the checkpoint; 0 = a fresh run.
        """
        self._labels = labels
        size = min(_EXAMPLES, dataset.eval_size("valid"))
        self._batch = next(iter(dataset.eval_batches("valid", size)))
        self._values = jax.jit(functools.partial(gate_values, objective))
        self._path = workdir / SNAPSHOTS
        with contextlib.closing(MetricsFile(self._path)) as file:
            file.truncate_after(resume_step if resume_step else -1)

    def write(self, step: int, params: Any) -> None:
        """Adds a line for each member.

        Args:
          step: optimizer steps taken.
          params: leaves `(members, ...)`.
        """
        params = jax.device_get(params)
        with contextlib.closing(MetricsFile(self._path)) as file:
            for place, label in enumerate(self._labels):
                one = jax.tree.map(lambda leaf, i=place: leaf[i], params)
                gates = summary(jax.device_get(self._values(one, self._batch)))
                file.write({"step": step, **label, "layers": gates})
            file.flush()  # on the disk before the checkpoint of this step is
