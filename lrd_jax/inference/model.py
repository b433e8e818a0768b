"""A trained run as an object: `lrd_jax.load`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lrd_jax.arrays import Array
from lrd_jax.config import checks, record
from lrd_jax.config.members import Member
from lrd_jax.config.paths import expand_user
from lrd_jax.data.sequence_fit import Fit, read_fit
from lrd_jax.data.spec import DataSpec
from lrd_jax.evaluation import exported
from lrd_jax.evaluation import loaded as runs
from lrd_jax.evaluation.best import ALL, BEST, chosen
from lrd_jax.inference import arrays
from lrd_jax.inference.forward import NUMBERS, Network, State


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
      everyone: all that trained beside them.
      whose: the same as `lrd_jax.export` writes it, see `evaluation.exported`.
      names: of the classes, or of the numbers.
      network: the same as pure functions of the parameters.
      fit: what was fitted on sequences of one's own; None of other data.
    """

    def __init__(self, loaded: runs.Loaded, seeds: str | int = BEST) -> None:
        """Takes the parameters that are asked for; see `load`."""
        best = jax.device_get(loaded.best)
        places = chosen(best, loaded.members, loaded.objective.select, seeds)
        together = seeds == ALL and len(places) > 1
        self.config, self.spec = loaded.config, loaded.spec
        self.everyone: list[Member] = list(loaded.members)
        self.members: list[Member] = [loaded.members[place] for place in places]
        self.whose = exported.whose(best, places, together)
        self.network = Network(loaded.objective, len(places) if together else 0)
        taken: Any = np.array(places) if together else places[0]
        own = {k: v for k, v in best.params.items() if not k.startswith("decoder_")}  # auxiliary
        self.params: Any = jax.tree.map(lambda leaf: leaf[taken], own)
        self.module = self.network.task.model
        self.names = names(self.spec)
        self.fit: Fit | None = read_fit(loaded.workdir)
        self._whole = jax.jit(self.network.whole)
        self._step = jax.jit(self.network.step)
        self._start = jax.jit(self.network.start, static_argnums=1)

    def predict(self, inputs: Any, lengths: Sequence[int] | np.ndarray | None = None) -> Prediction:
        """Says what the model makes of sequences.

        Args:
          inputs: `(batch, time, channels)`, as the data set stores them (of images uint8; of
            sequences of one's own as in the files, NaN where a value is missing), or a list of
            arrays `(time, channels)` of any lengths; of a language model `(batch, time)` ids.
          lengths: valid steps of each, at least one, where `inputs` is one padded array; None: all.

        Returns:
          A row for each sequence, in their order.

        Raises:
          UserError: inputs of another shape or kind, or lengths that do not fit them.
        """
        found = arrays.Batches(self.spec, inputs, lengths, self.fit)
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
          x: `(batch, channels)`, where `data.missing=hold` without missing values; of a language
            model `(batch,)` ids.

        Returns:
          The state after it, and what `predict` says of all that was read so far (where every step
          has something said of it, of this one).

        Raises:
          UserError: a step of another shape or kind.
        """
        x = arrays.check_step(self.spec, x, len(state.steps.T), self.fit)
        state, said = self._step(self.params, state, x)
        return state, self._said(said, len(x))

    def _said(self, said: Array, rows: int, steps: int = 0) -> Prediction:
        values = np.asarray(said)[:rows]
        if values.ndim == 3:  # batches of other lengths
            values = values[:, :steps]
            values = np.pad(values, [(0, 0), (0, steps - values.shape[1]), (0, 0)])
        if self.spec.kind in NUMBERS:
            return Prediction(None, None, values)
        return Prediction(np.array(self.names)[values.argmax(-1)], values, None)


def names(spec: DataSpec) -> tuple[str, ...]:
    """What the outputs are called: as the data say, tokens of a vocabulary, or their numbers."""
    known = spec.class_names or (spec.vocabulary.symbols if spec.vocabulary else ())
    return tuple(known) or tuple(map(str, range(spec.classes)))


def who(model: Model) -> str:
    """Whose words these are, for people."""
    if model.network.seeds:
        return f"{model.network.seeds} runs together"
    return str(model.members[0])


def load(workdir: str | os.PathLike[str], seeds: str | int = BEST) -> Model:
    """Loads a trained run for use; its data need not be there.

    Args:
      workdir: of a run that was validated at least once; may be in use by one that trains. Or a
        folder that `lrd_jax.export` wrote.
      seeds: of a run of several seeds: `best`, the one that validated best; `all`, the mean of
        what they say; or the number of one.

    Raises:
      UserError: no such run, or seed; a run whose network does not read sequences of values.
    """
    folder = expand_user(workdir)
    config: Any = record.load_workdir(folder)
    checks.validate(config)
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # Orbax warns of what it is told; what goes wrong it raises
    try:
        return Model(runs.load(folder, config, {}, with_data=False), seeds)
    finally:
        logger.setLevel(level)


def _joined(parts: Any) -> np.ndarray | None:
    return None if parts[0] is None else np.concatenate(parts)
