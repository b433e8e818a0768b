"""A trained run, loaded for evaluation: no optimizer, no training state."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lrd_jax.config import checks
from lrd_jax.config.members import Member, members
from lrd_jax.config.paths import expand_user
from lrd_jax.data import make_dataset, reads_text
from lrd_jax.data.spec import Dataset, DataSpec
from lrd_jax.data.text import text_spec
from lrd_jax.errors import UserError
from lrd_jax.evaluation import estimate
from lrd_jax.evaluation.best import Best, best_member, shapes
from lrd_jax.evaluation.exported import is_exported, read
from lrd_jax.evaluation.own_file import bring_in
from lrd_jax.evaluation.scorer import Scorer, eval_batch_size
from lrd_jax.objectives import Objective, make_evaluated
from lrd_jax.reporting import progress
from lrd_jax.reporting.results import seed_results
from lrd_jax.reporting.workdir import check_draws, check_vocabulary, read_spec, read_vocabulary
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.runtime.devices import make_mesh

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What every evaluation starts from; made once by `load`.

    Attributes:
      workdir: of the run.
      config: the run's, with the changes of the command line.
      overrides: these changes, by key.
      dataset: source of batches; None where it was not asked for.
      spec: describes the data.
      objective: the model with its loss.
      members: the runs that trained side by side, in the order of the leading axis of `best`.
      best: step, validation metrics and parameters of each, on the devices.
      stopped: the step at which each stopped with NaN, -1 if it did not.
      mesh: the devices.
    """

    workdir: Path
    config: Any
    overrides: Mapping[str, Any]
    dataset: Dataset | None
    spec: DataSpec
    objective: Objective
    members: list[Member]
    best: Best
    stopped: list[int]
    mesh: Mesh

    @property
    def split(self) -> str:
        """The split that is asked for."""
        return self.config.eval.split

    def changed(self, config: Any) -> Loaded:
        """The same run on the data of another config."""
        dataset = make_dataset(config, self.workdir)
        objective = make_evaluated(config, dataset.spec)
        return dataclasses.replace(
            self, config=config, dataset=dataset, spec=dataset.spec, objective=objective
        )

    def scores(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Evaluates every member.

        Returns:
          Member by member: its seed (and swept values), its best step with the validation metrics,
          the metrics of the split, and `tables` where the objective has some. And `evaluated`: how
          much of the split, where that is not all.
        """
        assert self.dataset is not None
        count, options = len(self.members), self.config.devices
        # As in training where that is possible here: the score of a text depends, a little, on the
        # number of its streams, which is rounded up to the devices that share a batch.
        by_seeds = options.split == "seeds" and count % self.mesh.size == 0
        size = eval_batch_size(self.config, self.objective, self.mesh, count)
        if self.spec.kind != "language":  # of which a batch may be cut into shorter windows
            most = self.config.eval.max_examples or size
            held = min(size, most, self.dataset.eval_size(self.split))
            estimate.check_evaluation(self.config, self.spec, self.mesh, held)
        scorer = Scorer(
            self.objective,
            self.dataset,
            self.mesh,
            num_members=count,
            batch_size=size,
            split="seeds" if by_seeds else "batch",
            max_examples=self.config.eval.max_examples,
        )
        with progress.evaluating(f"evaluating {self.split}") as shown:
            values, tables = scorer.score(self.best.params, self.split, shown=shown)
        best = jax.device_get(self.best)
        each = seed_results(
            best, self.stopped, self.split, values, self.members, self.objective.metrics
        )
        for index, entry in enumerate(each if tables else ()):
            counts = {name: table[index].astype(int).tolist() for name, table in tables.items()}
            entry["tables"] = counts
        cut = scorer.cut(self.split)
        return each, {"evaluated": {self.split: cut}} if cut else {}

    def choose(self) -> tuple[int, Any, str]:
        """Takes the member that validated best.

        Returns:
          Its place, its parameters on the host, and who it is, "" where it is alone.
        """
        best = jax.device_get(self.best)
        index, count = best_member(best, self.objective.select), len(self.members)
        params = jax.tree.map(lambda leaf: leaf[index], best.params)
        name = f"{self.members[index]}, which validated best of {count}" if count > 1 else ""
        return index, params, name


def load(
    workdir: str | Path, config: Any, overrides: Mapping[str, Any], *, with_data: bool = True
) -> Loaded:
    """Loads the best parameters of a run from its newest checkpoint; touches nothing.

    Args:
      workdir: of a run that saved at least once; may be in use by one that trains. Or a folder that
        `lrd_jax.export` wrote.
      config: the run's config, with other `data.*` and `eval.*` perhaps.
      overrides: what differs.
      with_data: whether to make the data set; else the work directory says what the data look
        like (an older one of other than text does not: then it is made all the same).

    Raises:
      UserError: no such run, one whose model or text is another, or a value that does not fit.
    """
    workdir = expand_user(workdir)
    checks.validate(config)
    bring_in(workdir, config)
    dataset, spec = None, None if with_data else _known_spec(workdir, config)
    if spec is None:
        dataset = make_dataset(config, workdir)
        spec = dataset.spec
    objective, everyone, mesh = make_evaluated(config, spec), members(config), make_mesh()
    check_vocabulary(workdir, spec.vocabulary)
    if with_data:
        check_draws(workdir)
    wanted = shapes(objective, len(everyone))
    if is_exported(workdir):
        best, places = read(workdir, wanted)
        best = jax.device_put(best, NamedSharding(mesh, P()))
        everyone, stopped = [everyone[place] for place in places], [-1] * len(places)
    else:
        best, stopped = _restore(workdir, wanted, mesh)
    return Loaded(
        workdir, config, overrides, dataset, spec, objective, everyone, best, stopped, mesh
    )


def _known_spec(workdir: Path, config: Any) -> DataSpec | None:
    """What the data of a run look like, without them; None of an older run that kept neither."""
    if reads_text(config.data.name):
        vocabulary = read_vocabulary(workdir)
        return None if vocabulary is None else text_spec(vocabulary, config.data.length)
    return read_spec(workdir)


def _restore(workdir: Path, wanted: Best, mesh: Mesh) -> tuple[Best, list[int]]:
    """Reads the item `best` of the newest checkpoint, and who stopped with NaN."""
    folder, nothing = workdir / "checkpoints", f"{workdir} holds no checkpoint yet; train it first"
    if not folder.is_dir():
        raise UserError(nothing)
    place = NamedSharding(mesh, P())
    template = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), wanted
    )
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        restored = checkpoints.restore_latest({"best": template})
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(nothing)
    items, extra = restored
    steps = jax.device_get(items["best"].step)
    if not steps.any():
        raise UserError(f"{workdir} was not evaluated on validation data yet; train it further")
    stopped = extra.get("first_nonfinite_step")
    if not isinstance(stopped, list) or [*map(type, stopped)] != [int] * len(steps):
        logger.warning("the checkpoint does not say which seeds stopped with NaN, if any did")
        stopped = [-1] * len(steps)
    return items["best"], stopped
