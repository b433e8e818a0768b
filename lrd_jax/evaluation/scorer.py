"""Metrics over a whole split: the one loop over evaluation batches, also of training."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lrd_jax.arrays import Array
from lrd_jax.data.spec import Dataset
from lrd_jax.metrics import collected, finish, finish_collected, tables
from lrd_jax.objectives.base import Objective, Sums
from lrd_jax.runtime.devices import (
    AXIS,
    data_parallel,
    gather,
    local_rows,
    over_members,
    place,
    prefers_loops,
)

_BATCHES_AHEAD = 2  # evaluation batches that wait for the devices
_SEQUENCES_ON_GPU = 2000  # that are evaluated at a time, of all members together
Metrics = dict[str, np.ndarray]  # name -> one value per member


def eval_batch_size(config: Any, objective: Objective, mesh: Mesh, num_members: int) -> int:
    """Resolves `eval.batch_size`, of which 0 means to choose.

    A GPU is busy only with many sequences at a time. Where a state goes on from batch to batch the
    size says where it starts anew, and so what the score is: it does not depend on the device
    there.

    Args:
      config: the run's config.
      objective: its objective.
      mesh: the devices.
      num_members: that are evaluated side by side.

    Returns:
      Sequences in a batch, of each member.
    """
    if config.eval.batch_size:
        return config.eval.batch_size
    independent = not jax.tree.leaves(objective.initial_carry(1))
    if prefers_loops(mesh) or not independent:
        return config.data.batch_size
    return max(config.data.batch_size, _SEQUENCES_ON_GPU // num_members)


class Scorer:
    """Evaluates all members on any split of a data set; compiled at the first batch."""

    def __init__(
        self,
        objective: Objective,
        dataset: Dataset,
        mesh: Mesh,
        *,
        num_members: int,
        batch_size: int,
        split: str = "batch",
        max_examples: int = 0,
    ) -> None:
        """Keeps the parts.

        Args:
          objective: the loss.
          dataset: source of batches.
          mesh: the devices; they need not divide anything.
          num_members: runs side by side.
          batch_size: examples of a batch, rounded up to a multiple of the devices.
          split: what the devices share, `batch` or `seeds`; see `train_step`.
          max_examples: of a split that are evaluated, its first ones; of text, windows; 0: all.
        """
        self._max_examples = max_examples
        self._objective, self._dataset, self._mesh = objective, dataset, mesh
        self._num_members, self._batch_size, self._split = num_members, batch_size, split
        # Places of what has leading axes (seeds, batch) and of a batch that all seeds share.
        by_seeds = split == "seeds"
        members = P(AXIS) if by_seeds else P()
        self._carry_spec, self._batch_spec = (
            (P(AXIS), P()) if by_seeds else (P(None, AXIS), P(AXIS))
        )
        one_by_one = num_members > 1 and prefers_loops(mesh)
        self.eval_step = data_parallel(
            functools.partial(eval_step, objective=objective, split=split, one_by_one=one_by_one),
            mesh,
            in_specs=(members, self._carry_spec, self._batch_spec),
            out_specs=(members, self._carry_spec),
            donate=(1,),
        )
        self.collect_step = data_parallel(
            functools.partial(collect_step, objective=objective, one_by_one=one_by_one),
            mesh,
            in_specs=(members, self._batch_spec),
            out_specs=self._carry_spec,
            donate=(),
        )

    def cut(self, split: str) -> dict[str, int]:
        """Says how much of a split is evaluated where it is not all: `examples` and `of`; else {}.

        Of text, an example is a window.
        """
        bound, whole = self._bound(split)
        return {"examples": bound, "of": whole} if bound < whole else {}

    def _bound(self, split: str) -> tuple[int, int]:
        """Examples that are evaluated at most, and that there are, of text windows."""
        spec, whole = self._dataset.spec, self._dataset.eval_size(split)
        if spec.kind == "language":
            whole = math.ceil(whole / spec.length)
        return self._max_examples or whole, whole

    def __call__(
        self,
        params: Any,
        split: str,
        before_batch: Callable[[], None] = lambda: None,
        shown: Callable[[float], None] = lambda _: None,
    ) -> Metrics:
        """The metrics of `score` without its tables; arguments as there."""
        return self.score(params, split, before_batch, shown)[0]

    def score(
        self,
        params: Any,
        split: str,
        before_batch: Callable[[], None] = lambda: None,
        shown: Callable[[float], None] = lambda _: None,
    ) -> tuple[Metrics, dict[str, np.ndarray]]:
        """Metrics over a split, every example counted once.

        Args:
          params: leaves `(seeds, ...)`.
          split: `train`, `valid` or `test`; no more of it than `max_examples`.
          before_batch: what it raises ends the evaluation.
          shown: is told the fraction that is done, after each batch.

        Returns:
          Every metric of the objective, one value per seed, and its tables, `(seeds, ...)`.
        """
        devices = 1 if self._split == "seeds" else self._mesh.size
        bound, whole = self._bound(split)
        cut = bound < whole
        # The rest would be padding. (Of text, a bound is in windows and the size in tokens.)
        wanted = min(self._batch_size, self._dataset.eval_size(split), *([bound] if cut else []))
        size = math.ceil(wanted / devices) * devices
        rows = slice(None) if self._split == "seeds" else local_rows(size, self._mesh)
        carry = jax.tree.map(
            lambda c: np.broadcast_to(c[rows], (self._num_members, *c[rows].shape)),
            self._objective.initial_carry(size),
        )
        carry = place(carry, self._mesh, self._carry_spec)
        batches, outputs = [], []
        every = self._dataset.eval_batches(split, size, rows)
        count = math.ceil(min(bound, whole) / size)
        # Streams of text end in windows that are not full, so there may be more than were counted.
        for number, batch in enumerate(itertools.islice(every, count) if cut else every):
            before_batch()
            if cut and number * size + size > bound:
                mask, within = batch["mask"], np.arange(size)[rows] < bound - number * size
                batch = batch | {"mask": mask * within.reshape(-1, *[1] * (mask.ndim - 1))}
            placed = place(batch, self._mesh, self._batch_spec)
            sums, carry = self.eval_step(params, carry, placed)
            batches.append(sums)
            if collected(self._objective.metrics):
                outputs.append(gather(self.collect_step(params, placed)))
            # Not far ahead of the devices, or the caller could not end this soon.
            jax.block_until_ready(batches[-_BATCHES_AHEAD:][0])
            shown(min(1.0, (number + 1) / count))
        # Summed on the host in float64: a float32 sum over a large split would lose digits.
        parts = jax.device_get(batches)
        totals = jax.tree.map(lambda *xs: np.sum(np.stack(xs), axis=0, dtype=np.float64), *parts)
        metrics = self._objective.metrics
        values = finish(metrics, totals) | finish_collected(metrics, outputs)
        return values, tables(metrics, totals)


def eval_step(
    params: Any,
    carry: Any,
    batch: dict[str, Array],
    *,
    objective: Objective,
    split: str = "batch",
    one_by_one: bool = False,
) -> tuple[Sums, Any]:
    """Metrics of every seed on this device's slice of one batch that all seeds share.

    Args:
      params: leaves `(seeds, ...)`.
      carry: leaves `(seeds, local batch, ...)`.
      batch: leaves `(local batch, ...)`.
      objective: the loss; it draws nothing here.
      split: as in `train_step`; where the seeds are split, the batch is whole on every device.
      one_by_one: as in `train_step`.

    Returns:
      Sums over the whole batch, each `(seeds,)`, and the carry for the next batch.
    """

    def one(params: Any, carry: Any) -> tuple[Sums, Any]:
        return objective.loss({"params": params}, carry, batch, None)[1]

    sums, carry = over_members(one, one_by_one)(params, carry)
    return lax.psum(sums, AXIS) if split == "batch" else sums, carry


def collect_step(
    params: Any, batch: dict[str, Array], *, objective: Objective, one_by_one: bool = False
) -> tuple[dict[str, Array], Array]:
    """What a `CollectedMetric` is made of, of every seed, from this device's slice of a batch.

    Args:
      params: leaves `(seeds, ...)`.
      batch: leaves `(local batch, ...)`.
      objective: has a method `collect`.
      one_by_one: as in `train_step`.

    Returns:
      What the objective collects, leaves `(seeds, local batch, ...)`, and the mask,
      `(seeds, local batch)`.
    """

    def one(params: Any) -> tuple[dict[str, Array], Array]:
        mask = batch["mask"]
        return objective.collect(params, batch), mask.reshape(len(mask), -1).max(axis=-1)

    return over_members(one, one_by_one)(params)
