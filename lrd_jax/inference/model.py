"""A trained run as an object: `lrd_jax.load`."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.config import checks, record
from lrd_jax.config.members import Member
from lrd_jax.config.paths import expand_user
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation import loaded as runs
from lrd_jax.evaluation.best import best_member
from lrd_jax.inference import arrays
from lrd_jax.inference.forward import Network, State

BEST, ALL = "best", "all"


class Prediction(NamedTuple):
    """What a model says, of `batch` sequences or of the step that it was fed last.

    Where every step has something said of it, arrays have an axis of time after `batch`, and mean
    nothing beyond the length of a sequence.

    Attributes:
      labels: names of the likeliest classes, `(batch,)`; None of numbers.
      probabilities: of the classes, in the order of `Model.names`, `(batch, classes)`; None of
        numbers.
      numbers: `(batch, numbers)`; None of classes.
    """

    labels: np.ndarray | None
    probabilities: np.ndarray | None
    numbers: np.ndarray | None


class Model:
    """The best parameters of a run, of one seed or of several that speak as one.

    Attributes:
      config: the run's config, locked.
      spec: what the data look like that it was trained with.
      module: the Flax module; `module.apply({"params": params}, ...)` is the network itself.
      params: its parameters, on the host; of an ensemble the leaves are `(seeds, ...)`.
      members: whose parameters they are.
      names: of the classes, or of the numbers.
      network: the same as pure functions of the parameters.
    """

    def __init__(self, loaded: runs.Loaded, seeds: str | int = BEST) -> None:
        """Takes the parameters that are asked for; see `load`."""
        best = jax.device_get(loaded.best)
        places = _places(loaded, best, seeds)
        together = seeds == ALL and len(places) > 1
        self.config, self.spec = loaded.config, loaded.spec
        self.members: list[Member] = [loaded.members[place] for place in places]
        self.network = Network(loaded.objective, len(places) if together else 0)
        chosen = np.array(places) if together else places[0]
        own = {k: v for k, v in best.params.items() if not k.startswith("decoder_")}  # auxiliary
        self.params: Any = jax.tree.map(lambda leaf: leaf[chosen], own)
        self.module = self.network.task.model
        self.names = names(self.spec)
        self._whole = jax.jit(self.network.whole)
        self._step = jax.jit(self.network.step)
        self._start = jax.jit(self.network.start, static_argnums=1)

    def predict(
        self, inputs: Any, lengths: Sequence[int] | np.ndarray | None = None
    ) -> Prediction:
        """Says what the model makes of sequences.

        Args:
          inputs: `(batch, time, channels)`, as the data set stores them (of images uint8), or a
            list of arrays `(time, channels)` of any lengths; of a language model `(batch, time)`
            ids of tokens.
          lengths: valid steps of each, at least one, where `inputs` is one padded array; None: all.

        Returns:
          A row for each sequence, in their order.

        Raises:
          UserError: inputs of another shape or kind, or lengths that do not fit them.
        """
        found = arrays.Batches(self.spec, inputs, lengths)
        parts = [self._said(part, rows, found.steps) for part, rows in self._run(found)]
        return Prediction(*(_joined(each) for each in zip(*parts, strict=True)))

    def _run(self, batches: arrays.Batches) -> Any:
        for inputs, lengths, rows in batches.padded(self.batch_size):
            yield jax.device_get(self._whole(self.params, inputs, lengths)), rows

    @property
    def batch_size(self) -> int:
        """Sequences that are read at a time."""
        return self.config.eval.batch_size or self.config.data.batch_size

    def start(self, batch: int = 1) -> State:
        """The state before the first step of `batch` sequences, for `step`."""
        return self._start(self.params, batch)

    def step(self, state: State, x: Any) -> tuple[State, Prediction]:
        """Reads one more step of every sequence; the state stays in the caller's hands.

        Args:
          state: from `start`, or the step before; may be copied, kept and gone back to.
          x: `(batch, channels)`; of a language model `(batch,)` ids.

        Returns:
          The state after it, and what `predict` says of all that was read so far (where every step
          has something said of it, of this one).

        Raises:
          UserError: a step of another shape or kind.
        """
        x = arrays.check_step(self.spec, x, len(state.steps.T))
        state, said = self._step(self.params, state, x)
        return state, self._said(said, len(x))

    def _said(self, said: Array, rows: int, steps: int = 0) -> Prediction:
        values = np.asarray(said)[:rows]
        if values.ndim == 3:  # batches of other lengths
            values = values[:, :steps]
            values = np.pad(values, [(0, 0), (0, steps - values.shape[1]), (0, 0)])
        if self.spec.kind == "regress":
            return Prediction(None, None, values)
        return Prediction(np.array(self.names)[values.argmax(-1)], values, None)


def names(spec: DataSpec) -> tuple[str, ...]:
    """What the outputs are called: as the data say, tokens of a vocabulary, or their numbers."""
    known = spec.class_names or (spec.vocabulary.symbols if spec.vocabulary else ())
    return tuple(known) or tuple(map(str, range(spec.classes)))


def load(workdir: str | os.PathLike[str], seeds: str | int = BEST) -> Model:
    """Loads a trained run for use; its data need not be there.

    Args:
      workdir: of a run that was validated at least once; may be in use by one that trains.
      seeds: of a run of several seeds: `best`, the one that validated best; `all`, the mean of
        what they say; or the number of one.

    Raises:
      UserError: no such run, or seed; a run whose network does not read sequences of values.
    """
    folder = expand_user(workdir)
    config: Any = record.load_workdir(folder)
    checks.validate(config)
    return Model(runs.load(folder, config, {}, with_data=False), seeds)


def _places(loaded: runs.Loaded, best: Any, seeds: str | int) -> list[int]:
    """Which of the members speak."""
    known = [place for place in range(len(loaded.members)) if best.step[place] > 0]
    if seeds == ALL:
        return known
    if seeds != BEST:
        numbers = sorted({loaded.members[place].seed for place in known})
        known = [p for p in known if str(loaded.members[p].seed) == str(seeds)]
        if not known:
            raise UserError(
                f"seeds={seeds}: use best, all, or the number of a seed that was validated,"
                f" {', '.join(map(str, numbers))}"
            )
    return [_best_of(loaded, best, known)]


def _best_of(loaded: runs.Loaded, best: Any, places: list[int]) -> int:
    few = jax.tree.map(functools.partial(np.take, indices=places, axis=0), best.replace(params={}))
    return places[best_member(few, loaded.objective.select)]


def _joined(parts: Any) -> np.ndarray | None:
    return None if parts[0] is None else np.concatenate(parts)
