"""The compiled functions of a run, with the data and the devices that they need."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lrd_jax.cells import CELLS, ParameterGroup
from lrd_jax.config.horizon import Horizon, run_horizon, steps_between_evaluations
from lrd_jax.config.members import check_values, members
from lrd_jax.data import class_weights, make_dataset
from lrd_jax.data.pipeline import borders, resident, stack
from lrd_jax.data.registry import make_task
from lrd_jax.data.spec import Dataset
from lrd_jax.errors import UserError
from lrd_jax.evaluation import estimate
from lrd_jax.evaluation.scorer import Metrics, Scorer, eval_batch_size
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
from lrd_jax.training.step import train_step, train_steps

_log = logging.getLogger(__name__)

_ANY_LENGTH = 2**20  # a sequence length that no option of a cell is too long for
_STEPS_ON_GPU = 100  # in a call, at most; what a call costs is nothing beside so many
_STRETCH_BYTES = 2**28  # of the batches of a call
_RESERVED = 0.2  # of a device's memory, beside the step and its data: evaluations need some


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
    estimate.check_compiling(config)
    estimate.check_members(len(members(config)))
    _check_parts(config)
    check_values(config, _check_parts)
    mesh = mesh or make_mesh()
    task = make_task(config.data) if dataset is None else None
    if task is not None:  # its sizes are known before its examples are drawn
        estimate.check_training(config, task.spec, mesh, len(members(config)))
    dataset = dataset or make_dataset(config)
    spec = dataset.spec
    if config.data.class_weights == "balanced":
        spec = class_weights.balanced(dataset, config.data.name)
    objective = make_objective(config, spec, run_horizon(config, dataset.num_train))
    return Program(config, dataset, mesh, objective)


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
        parts = config.train.accumulate
        check_split(self._split, batch_size, len(self.members), mesh, parts)
        self._rows = slice(None) if self._split == "seeds" else local_rows(batch_size, mesh)
        self._init = functools.partial(
            init_state,
            objective=objective,
            tx=tx,
            batch_size=batch_size,
            averages=config.optim.ema_decay > 0,
            patient=config.train.patience > 0,
        )
        _check_memory(self._shapes(), self._split, self.mesh)
        estimate.check_training(config, dataset.spec, mesh, len(self.members))
        spec: Any = state_spec(self._split)
        self._sharding: Any = jax.tree.map(
            functools.partial(NamedSharding, mesh), spec, is_leaf=lambda x: isinstance(x, P)
        )
        # Where things with leading axes (seeds, batch) live.
        self._batch_spec = P(AXIS) if self._split == "seeds" else P(None, AXIS)
        one_by_one = len(self.members) > 1 and prefers_loops(mesh)
        self._step = functools.partial(
            train_step,
            objective=objective,
            tx=tx,
            split=self._split,
            one_by_one=one_by_one,
            ema_decay=config.optim.ema_decay,
            accumulate=parts,
        )
        self.train_step = data_parallel(
            self._step,
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
                patience=config.train.patience,
                every=steps_between_evaluations(config.train, self.horizon),
            ),
            donate_argnums=0,
            out_shardings=self._expand(self._sharding),
        )

    def init(self) -> TrainState:
        """The state before the first step."""
        init = jax.jit(self._init, out_shardings=self._expand(self._sharding))
        return init(*self._identities())

    def validate(
        self, state: TrainState, before_batch: Callable[[], None], shown: Callable[[float], None]
    ) -> tuple[Metrics, Metrics]:
        """Scores a state on the validation split.

        Args:
          state: is kept.
          before_batch: as for `Scorer.__call__`.
          shown: the same.

        Returns:
          Metrics of the parameters that count, and, where these are averages, of the others; else
          none.
        """
        scored = self.evaluate(state.scored, "valid", before_batch, shown)
        if state.scored is state.params:
            return scored, {}
        return scored, self.evaluate(state.params, "valid", before_batch, shown)

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
        return self._of_members(lambda seed: self.dataset.train_batch(seed, step, self._rows))

    def _of_members(self, make: Callable[[int], Any]) -> Any:
        seeds = [member.seed for member in self.members]
        each = {seed: make(seed) for seed in set(seeds)}
        return jax.tree.map(lambda *xs: stack(xs), *(each[seed] for seed in seeds))

    # ---- Several steps in a call --------------------------------------------------------------

    @functools.cached_property
    def steps_per_call(self) -> int:
        """The most steps of a call, `train.steps_per_call` with its 0 resolved."""
        if asked := self.config.train.steps_per_call:
            return min(asked, self.horizon.num_steps)  # what is beyond would be padding
        if prefers_loops(self.mesh):
            return 1
        largest = self._host_batch(max(borders(self.dataset), default=0))
        size = sum(x.nbytes for x in jax.tree.leaves(largest))
        most = min(_STEPS_ON_GPU, _STRETCH_BYTES // max(size, 1))
        return max(1, min(most, self.config.train.log_every_steps))

    def stretch(self, steps: range) -> Any:
        """What `advance` needs for these updates, at most `steps_per_call`, on the devices."""
        if self.steps_per_call == 1:
            return self.batch(steps[0])
        each = [self._several.element(step) for step in steps]
        # What is missing is never read: with it there is one shape, and one program.
        each += each[-1:] * (self.steps_per_call - len(each))
        stacked = jax.tree.map(lambda *xs: np.stack(xs), *each)
        return place(stacked, self.mesh, self._stretch_spec)

    def advance(self, state: TrainState, stretch: Any, first: int, count: int) -> TrainState:
        """The state after `count` updates.

        Args:
          state: donated, hence gone afterwards.
          stretch: the batches of several steps, from `Program.stretch`; of one step its batch.
          first: number of the first update's batch in it.
          count: of updates.
        """
        if self.steps_per_call == 1:
            return self.train_step(state, stretch)
        several = self._several
        return several.call(state, several.resident, stretch, np.int32(first), np.int32(count))

    @property
    def _stretch_spec(self) -> P:
        return P(None, *self._batch_spec)

    @functools.cached_property
    def _several(self) -> _Several:
        """The compiled function; training examples are on the devices where there is room."""
        if (data := resident(self.dataset)) is not None:

            def element(step: int) -> np.ndarray:
                return self._of_members(lambda seed: data.index(seed, step, self._rows))

            call = self._call_of(data.take)
            needed = self._memory_of(call, data.arrays, element(0))
            available, where = memory_of(self.mesh.devices.flat[0])
            if needed <= (1 - _RESERVED) * available or not available:
                return _Several(call, place(data.arrays, self.mesh, P()), element)
            _log.warning(
                "the training examples do not fit into the memory of %s beside the step"
                " (%.1f GiB of %.1f): every batch travels there",
                *(where, needed / 2**30, available / 2**30),
            )
        return _Several(self._call_of(lambda _, batch: batch), (), self._host_batch)

    def _call_of(self, take: Callable[[Any, Any], Any]) -> Any:
        spec: Any = state_spec(self._split)
        return data_parallel(
            functools.partial(train_steps, one=self._step, take=take),
            self.mesh,
            in_specs=(spec, P(), self._stretch_spec, P(), P()),
            out_specs=spec,
            donate=(0,),
        )

    def _memory_of(self, call: Any, arrays: Any, element: np.ndarray) -> int:
        """Bytes that a call needs of the memory that `memory_of` tells of."""
        whole = NamedSharding(self.mesh, P())
        shaped = functools.partial(jax.ShapeDtypeStruct, sharding=whole)
        arrays = jax.tree.map(lambda x: shaped(x.shape, x.dtype), arrays)
        rows = self.config.data.batch_size
        stretch = jax.ShapeDtypeStruct(
            (self.steps_per_call, len(element), rows),
            element.dtype,
            sharding=NamedSharding(self.mesh, self._stretch_spec),
        )
        number = shaped((), np.int32)
        lowered = call.lower(self.template(), arrays, stretch, number, number)
        found = lowered.compile().memory_analysis()
        if found is None:
            return 0
        sizes = found.argument_size_in_bytes + found.output_size_in_bytes
        sizes += found.temp_size_in_bytes - found.alias_size_in_bytes
        sharing = jax.local_device_count() if prefers_loops(self.mesh) else 1
        return sizes * sharing

    def lower_train_step(self) -> jax.stages.Lowered:
        """The training step, ready to be compiled; no device is touched."""
        sharding = NamedSharding(self.mesh, self._batch_spec)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            self._host_batch(max(borders(self.dataset), default=0)),
        )
        return self.train_step.lower(self.template(), batch)


class _Several(NamedTuple):
    """How several steps are called.

    Attributes:
      call: the compiled `train_steps`.
      resident: its argument of that name.
      element: makes what a batch is taken from it with, of the number of the step; on the host.
    """

    call: Callable[..., TrainState]
    resident: Any
    element: Callable[[int], Any]


def _check_parts(config: Any) -> None:
    """Raises UserError where optimizer or recurrence would refuse the config, whatever the data."""
    make_optimizer(config.optim, Horizon(1, 1), _groups(config))
    make_recurrence(config, length=_ANY_LENGTH)


def _check_memory(shapes: TrainState, split: str, mesh: Mesh) -> None:
    """Raises UserError where the state, with the copy that is saved, does not fit into memory.

    The devices of a CPU share the machine's memory; a GPU has its own, of which JAX reserves a part
    (XLA_PYTHON_CLIENT_MEM_FRACTION).
    """
    # Twice: a checkpoint is written of a copy, and training goes on.
    needed = 2 * sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes))
    device = mesh.devices.flat[0]
    if split == "seeds" and device.platform != "cpu":
        needed //= mesh.size
    available, where = memory_of(device)
    if 0 < available < needed:
        raise UserError(
            f"parameters and optimizer state need {needed / 2**30:.0f} GiB with the copy that is"
            f" saved, and {where} has {available / 2**30:.0f}; lower model.hidden_size,"
            " model.head_hidden or num_seeds"
        )


def _groups(config: Any) -> tuple[ParameterGroup, ...]:
    """What the cell says of parameters of its own, unless `optim.groups` switches it off."""
    cell = CELLS.get(config.model.cell)
    return cell.groups if cell is not None and config.optim.groups else ()
