"""The compiled functions of a run, with the data and the devices that they need."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lrd_jax.config.horizon import Horizon, make_horizon
from lrd_jax.config.members import check_values, members
from lrd_jax.data import make_dataset
from lrd_jax.data.spec import Dataset
from lrd_jax.errors import UserError
from lrd_jax.metrics import collected, finish, finish_collected
from lrd_jax.models import make_recurrence
from lrd_jax.objectives import Objective, make_objective
from lrd_jax.runtime.devices import (
    AXIS,
    check_split,
    data_parallel,
    gather,
    local_rows,
    make_mesh,
    place,
    prefers_loops,
)
from lrd_jax.training.optimizer import make_optimizer
from lrd_jax.training.state import TrainState, init_state, state_spec, update_best
from lrd_jax.training.step import collect_step, eval_step, train_step

_ANY_LENGTH = 2**20  # a sequence length that no option of a cell is too long for
_BATCHES_AHEAD = 2  # evaluation batches that wait for the devices
Metrics = dict[str, np.ndarray]  # name -> one value per member


class Trainer:
    """The compiled functions of one run, with the data and the mesh that they need.

    Attributes:
      config: the run's config.
      dataset: source of batches.
      horizon: length of the run.
      objective: the loss.
      mesh: the devices.
      members: the runs that train side by side, in the order of the state's leading axis.
    """

    def __init__(self, config: Any, dataset: Dataset | None = None) -> None:
        """Builds everything that can be wrong before anything is written.

        Args:
          config: the run's config.
          dataset: in the place of the one that the config describes.

        Raises:
          UserError: a config value or a data set that does not fit.
        """
        self.config = config
        # What needs no data is checked before a download may start.
        _check_parts(config)
        check_values(config, _check_parts)
        self.dataset: Dataset = dataset or make_dataset(config)
        batch_size = config.data.batch_size
        if batch_size > self.dataset.num_train:
            raise UserError(
                f"data.batch_size={batch_size} is more than the {self.dataset.num_train} training"
                " examples; choose a smaller one"
            )
        self.horizon: Horizon = make_horizon(
            config.train,
            self.dataset.num_train,
            batch_size,
            pretrain_epochs=config.aux.pretrain_epochs if config.aux.kind != "none" else 0.0,
        )
        self.objective: Objective = make_objective(config, self.dataset.spec, self.horizon)
        tx = make_optimizer(config.optim, self.horizon)
        self.mesh = make_mesh()
        self.members = members(config)
        self._split: str = config.devices.split
        check_split(self._split, batch_size, len(self.members), self.mesh)
        self._rows = self._local_rows(batch_size)
        self._init = functools.partial(
            init_state, objective=self.objective, tx=tx, batch_size=batch_size
        )
        _check_memory(self._shapes())
        spec: Any = state_spec(self._split)
        self._sharding: Any = jax.tree.map(
            functools.partial(NamedSharding, self.mesh), spec, is_leaf=lambda x: isinstance(x, P)
        )
        # Places of what has leading axes (seeds, batch) and of a batch that all seeds share.
        own, shared = (P(AXIS), P()) if self._split == "seeds" else (P(None, AXIS), P(AXIS))
        self._batch_spec, self._eval_batch_spec = own, shared
        one_by_one = len(self.members) > 1 and prefers_loops(self.mesh)
        how: Any = {"split": self._split, "one_by_one": one_by_one}
        self.train_step = data_parallel(
            functools.partial(train_step, objective=self.objective, tx=tx, **how),
            self.mesh,
            in_specs=(spec, own),
            out_specs=spec,
            donate=(0,),
        )
        self.eval_step = data_parallel(
            functools.partial(eval_step, objective=self.objective, **how),
            self.mesh,
            in_specs=(spec.params, own, shared),
            out_specs=(spec.sums, own),
            donate=(1,),
        )
        self.collect_step = data_parallel(
            functools.partial(collect_step, objective=self.objective, one_by_one=one_by_one),
            self.mesh,
            in_specs=(spec.params, shared),
            out_specs=own,
            donate=(),
        )
        self.update_best = jax.jit(
            functools.partial(
                update_best,
                select=self.objective.select,
                provisional_steps=self.horizon.pretrain_steps,
            ),
            donate_argnums=0,
            out_shardings=self._expand(self._sharding),
        )

    def init(self) -> TrainState:
        """The state before the first step."""
        init = jax.jit(self._init, out_shardings=self._expand(self._sharding))
        return init(*self._identities())

    def template(self) -> TrainState:
        """Shapes, dtypes and places of the state, for restoring."""
        return jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            self._shapes(),
            self._expand(self._sharding),
        )

    def _shapes(self) -> TrainState:
        """Shapes and dtypes of the state; nothing is computed."""
        return jax.eval_shape(self._init, *self._identities())

    def _identities(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Seeds and swept values of all members, each `(seeds,)`."""
        real = jnp.result_type(float)
        swept = {
            name: np.array([member.swept[name] for member in self.members], real)
            for name in self.members[0].swept
        }
        return np.array([member.seed for member in self.members], np.int32), swept

    def _expand(self, shardings: TrainState) -> TrainState:
        """One sharding for every leaf, from one for every part of the state."""
        return jax.tree.map(
            lambda sharding, part: jax.tree.map(lambda _: sharding, part),
            shardings,
            self._shapes(),
        )

    def batch(self, step: int) -> dict[str, jax.Array]:
        """The batches of all seeds for update number `step`, on the devices.

        Of several processes each reads the rows of its own devices.
        """
        seeds = [member.seed for member in self.members]
        each = {seed: self.dataset.train_batch(seed, step, self._rows) for seed in set(seeds)}
        stacked = jax.tree.map(lambda *xs: np.stack(xs), *(each[seed] for seed in seeds))
        return place(stacked, self.mesh, self._batch_spec)

    def _local_rows(self, batch_size: int) -> slice:
        """Rows of a batch that this process holds: all of them where the seeds are split."""
        return slice(None) if self._split == "seeds" else local_rows(batch_size, self.mesh)

    def evaluate(
        self, params: Any, split: str, before_batch: Callable[[], None] = lambda: None
    ) -> Metrics:
        """Metrics over a whole split, every example counted once.

        Args:
          params: leaves `(seeds, ...)`.
          split: `train`, `valid` or `test`.
          before_batch: what it raises ends the evaluation.

        Returns:
          Every metric of the objective, one value per seed.
        """
        devices = 1 if self._split == "seeds" else self.mesh.size
        wanted = self.config.eval.batch_size or self.config.data.batch_size
        wanted = min(wanted, self.dataset.eval_size(split))  # the rest would be padding
        size = math.ceil(wanted / devices) * devices
        rows = self._local_rows(size)
        seeds = len(self.members)
        carry = jax.tree.map(
            lambda c: np.broadcast_to(c[rows], (seeds, *c[rows].shape)),
            self.objective.initial_carry(size),
        )
        carry = place(carry, self.mesh, self._batch_spec)
        batches, outputs = [], []
        for batch in self.dataset.eval_batches(split, size, rows):
            before_batch()
            placed = place(batch, self.mesh, self._eval_batch_spec)
            sums, carry = self.eval_step(params, carry, placed)
            batches.append(sums)
            if collected(self.objective.metrics):
                outputs.append(gather(self.collect_step(params, placed)))
            # Not far ahead of the devices, or the caller could not end this soon.
            jax.block_until_ready(batches[-_BATCHES_AHEAD:][0])
        # Summed on the host in float64: a float32 sum over a large split would lose digits.
        parts = jax.device_get(batches)
        totals = jax.tree.map(lambda *xs: np.sum(np.stack(xs), axis=0, dtype=np.float64), *parts)
        values = finish(self.objective.metrics, totals)
        return values | finish_collected(self.objective.metrics, outputs)


def _check_parts(config: Any) -> None:
    """Raises UserError where optimizer or recurrence would refuse the config, whatever the data."""
    make_optimizer(config.optim, Horizon(1, 1))
    make_recurrence(config, length=_ANY_LENGTH)


def _check_memory(shapes: TrainState) -> None:
    """Raises UserError where the state alone is larger than the memory of this machine."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    needed = sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise UserError(
            f"parameters and optimizer state need {needed / 2**30:.0f} GiB, and this machine has"
            f" {memory / 2**30:.0f}; lower model.hidden_size, model.head_hidden or num_seeds"
        )
