"""The compiled functions of a run, with the data and the devices that they need."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lrd_jax.cells import CELLS, ParameterGroup
from lrd_jax.config.horizon import Horizon, run_horizon
from lrd_jax.config.members import check_values, members
from lrd_jax.data import make_dataset
from lrd_jax.data.spec import Dataset
from lrd_jax.errors import UserError
from lrd_jax.evaluation.scorer import Scorer, eval_batch_size
from lrd_jax.models import make_recurrence
from lrd_jax.objectives import Objective, make_objective
from lrd_jax.runtime.devices import (
    AXIS,
    check_split,
    data_parallel,
    local_rows,
    make_mesh,
    memory_of,
    place,
    prefers_loops,
)
from lrd_jax.training.optimizer import make_optimizer
from lrd_jax.training.state import TrainState, init_state, state_spec, update_best
from lrd_jax.training.step import train_step

_ANY_LENGTH = 2**20  # a sequence length that no option of a cell is too long for


def make_program(config: Any, dataset: Dataset | None = None, mesh: Mesh | None = None) -> Program:
    """Builds the program of a config, and before it everything that can be wrong.

    Args:
      config: the run's config.
      dataset: in the place of the one that the config describes.
      mesh: in the place of all devices of this machine; those that only describe a machine will do,
        for compiling.

    Raises:
      UserError: a config value or a data set that does not fit.
    """
    # What needs no data is checked before a download may start.
    _check_parts(config)
    check_values(config, _check_parts)
    dataset = dataset or make_dataset(config)
    objective = make_objective(config, dataset.spec, run_horizon(config, dataset.num_train))
    return Program(config, dataset, mesh or make_mesh(), objective)


class Program:
    """The compiled functions of one run, with the data and the mesh that they need.

    Attributes:
      config: the run's config.
      dataset: source of batches.
      horizon: length of the run.
      objective: the loss.
      mesh: the devices.
      members: the runs that train side by side, in the order of the state's leading axis.
      evaluate: metrics over a whole split, see `Scorer.__call__`.
    """

    def __init__(self, config: Any, dataset: Dataset, mesh: Mesh, objective: Objective) -> None:
        """Puts the parts together; nothing is compiled before its first call.

        Args:
          config: the run's config.
          dataset: source of batches.
          mesh: the devices.
          objective: the loss.

        Raises:
          UserError: parts that do not fit one another, or this machine.
        """
        self.config, self.dataset, self.mesh, self.objective = config, dataset, mesh, objective
        batch_size = config.data.batch_size
        self.horizon: Horizon = run_horizon(config, dataset.num_train)
        tx = make_optimizer(config.optim, self.horizon, _groups(config))
        self.members = members(config)
        self._split: str = config.devices.split
        check_split(self._split, batch_size, len(self.members), mesh)
        self._rows = slice(None) if self._split == "seeds" else local_rows(batch_size, mesh)
        self._init = functools.partial(
            init_state, objective=objective, tx=tx, batch_size=batch_size
        )
        _check_memory(self._shapes(), self._split, self.mesh)
        spec: Any = state_spec(self._split)
        self._sharding: Any = jax.tree.map(
            functools.partial(NamedSharding, mesh), spec, is_leaf=lambda x: isinstance(x, P)
        )
        # Where things with leading axes (seeds, batch) live.
        self._batch_spec = P(AXIS) if self._split == "seeds" else P(None, AXIS)
        one_by_one = len(self.members) > 1 and prefers_loops(mesh)
        self.train_step = data_parallel(
            functools.partial(
                train_step, objective=objective, tx=tx, split=self._split, one_by_one=one_by_one
            ),
            mesh,
            in_specs=(spec, self._batch_spec),
            out_specs=spec,
            donate=(0,),
        )
        self.evaluate = Scorer(
            objective,
            dataset,
            mesh,
            num_members=len(self.members),
            batch_size=eval_batch_size(config, objective, mesh, len(self.members)),
            split=self._split,
            max_examples=config.eval.max_examples,
        )
        self.update_best = jax.jit(
            functools.partial(
                update_best,
                select=objective.select,
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
        return place(self._host_batch(step), self.mesh, self._batch_spec)

    def _host_batch(self, step: int) -> dict[str, np.ndarray]:
        seeds = [member.seed for member in self.members]
        each = {seed: self.dataset.train_batch(seed, step, self._rows) for seed in set(seeds)}
        return jax.tree.map(lambda *xs: np.stack(xs), *(each[seed] for seed in seeds))

    def lower_train_step(self) -> jax.stages.Lowered:
        """The training step, ready to be compiled; no device is touched."""
        sharding = NamedSharding(self.mesh, self._batch_spec)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self._host_batch(0)
        )
        return self.train_step.lower(self.template(), batch)


def _check_parts(config: Any) -> None:
    """Raises UserError where optimizer or recurrence would refuse the config, whatever the data."""
    make_optimizer(config.optim, Horizon(1, 1), _groups(config))
    make_recurrence(config, length=_ANY_LENGTH)


def _check_memory(shapes: TrainState, split: str, mesh: Mesh) -> None:
    """Raises UserError where the state alone is larger than the memory it has to be in.

    The devices of a CPU share the machine's memory; a GPU has its own, of which JAX reserves a part
    (XLA_PYTHON_CLIENT_MEM_FRACTION).
    """
    needed = sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes))
    device = mesh.devices.flat[0]
    if split == "seeds" and device.platform != "cpu":
        needed //= mesh.size
    available, where = memory_of(device)
    if 0 < available < needed:
        raise UserError(
            f"parameters and optimizer state need {needed / 2**30:.0f} GiB, and {where} has"
            f" {available / 2**30:.0f}; lower model.hidden_size, model.head_hidden or num_seeds"
        )


def _groups(config: Any) -> tuple[ParameterGroup, ...]:
    """What the cell says of parameters of its own, unless `optim.groups` switches it off."""
    cell = CELLS.get(config.model.cell)
    return cell.groups if cell is not None and config.optim.groups else ()
