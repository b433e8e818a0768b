"""What is looked at: the best parameters of a run, or a network as it is initialised."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lrd_jax.config import checks, record
from lrd_jax.config.horizon import Horizon
from lrd_jax.config.members import SWEPT, named
from lrd_jax.config.paths import expand_user
from lrd_jax.config.values import flatten
from lrd_jax.data import make_dataset
from lrd_jax.data.spec import Dataset, DataSpec
from lrd_jax.errors import UserError
from lrd_jax.evaluation.loaded import load
from lrd_jax.objectives import Objective, make_objective
from lrd_jax.training import effects

_CHANGEABLE = ("data.", "eval.", "detach.", "truncate.")  # of a trained run: no parameter changes
_NOISE = (
    "dropout",
    "embedding_dropout",
    "output_dropout",
    "head_dropconnect",
    "input_noise",
)
_NAMES = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU", "urlstm": "UR-LSTM", "onlstm": "ON-LSTM"}


@dataclasses.dataclass(frozen=True)
class Subject:
    """One network with its data.

    Attributes:
      label: for legends.
      source: the work directory or config file, with what was changed.
      config: with what was changed.
      dataset: source of batches.
      params: of each seed, on the host.
      seeds: the seeds.
      steps: the optimizer steps behind each seed's parameters; zeros where it is untrained.
      workdir: of a run; "" of an untrained network.
      notes: what a reader has to know, in lines.
    """

    label: str
    source: str
    config: Any
    dataset: Dataset
    params: Sequence[Any]
    seeds: Sequence[int]
    steps: Sequence[int]
    workdir: str = ""
    notes: Sequence[str] = ()

    @property
    def spec(self) -> DataSpec:
        """Describes the data."""
        return self.dataset.spec

    @property
    def trained(self) -> bool:
        """Whether any step was taken."""
        return any(self.steps)

    def batch(self, split: str, examples: int) -> dict[str, Any]:
        """The first examples of a split."""
        size = min(examples, self.dataset.eval_size(split))
        return next(iter(self.dataset.eval_batches(split, size)))

    def objective(self) -> Objective:
        """The task's own loss as in training: with detaching and truncation, without dropout.

        An auxiliary loss and the end of detaching (`detach.off_last_epochs`) are left out.
        """
        return self.objective_for(self.config, self.spec)

    def objective_for(self, config: Any, spec: DataSpec) -> Objective:
        """The same of another config and data, such as a longer delay."""
        return make_objective(_quiet(config), spec, Horizon(1, 1))

    def about(self) -> dict[str, Any]:
        """What the numbers of a figure say of it."""
        return {
            "label": self.label,
            "source": self.source,
            "seeds": list(self.seeds),
            "steps": list(self.steps),
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def _quiet(config: Any) -> Any:
    config = config.copy_and_resolve_references()
    config.unlock()
    for name in _NOISE:
        config.model[name] = 0.0
    config.detach.off_last_epochs = 0
    config.aux.kind = "none"
    return config.lock()


def untrained(
    config: Any,
    *,
    source: str = "",
    overrides: Mapping[str, Any] | None = None,
    seeds: int = 3,
    label: str = "",
) -> Subject:
    """A network as it is initialised.

    Args:
      config: of a run; its first seed is the first of these.
      source: where the config is from.
      overrides: what was changed in it, for the record.
      seeds: how many initialisations.
      label: for legends; made of the config where it is empty.

    Raises:
      UserError: a value that does not fit, or data that are not at hand.
    """
    checks.validate(config)
    config, notes = effects.judge(config, overrides or {})
    dataset = make_dataset(config)
    numbers = list(range(config.seed, config.seed + seeds))
    objective = make_objective(_quiet(config), dataset.spec, Horizon(1, 1))
    init = jax.jit(objective.init)
    params = [jax.device_get(init(jax.random.key(seed))) for seed in numbers]
    return Subject(
        label=label or describe(config),
        source=_with_changes(source or "a config", overrides or {}),
        config=config,
        dataset=dataset,
        params=params,
        seeds=numbers,
        steps=[0] * seeds,
        notes=[*notes, *_left_out(config)],
    )


def trained(
    workdir: str | os.PathLike[str],
    config: Any = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    label: str = "",
) -> Subject:
    """The best parameters of a run; its seeds, of a sweep those of the value that validated best.

    Args:
      workdir: of a run that was validated at least once.
      config: of the work directory with the overrides in place; None: as it is.
      overrides: changed keys; of `data`, `eval`, `detach` and `truncate` only.
      label: for legends; made of the config where it is empty.

    Raises:
      UserError: no such run, or an override that is not allowed or does not fit the model.
    """
    folder, overrides = expand_user(workdir), overrides or {}
    for key in overrides:
        if not key.startswith(_CHANGEABLE):
            raise UserError(
                f"the model comes from the work directory: config.{key} cannot be changed, only"
                " data.*, eval.*, detach.* and truncate.* can"
            )
    config = record.load_workdir(folder) if config is None else config
    checks.validate(config)
    loaded = load(folder, config, overrides)
    assert loaded.dataset is not None
    best = jax.device_get(loaded.best)
    chosen, _, _ = loaded.choose()
    swept = loaded.members[chosen].swept
    places = [i for i, member in enumerate(loaded.members) if member.swept == swept]
    whole = [i for i in places if best.step[i] > 0]
    notes = _left_out(config)
    if swept:
        notes.append(f"of the sweep in {folder}: {named(swept)}, which validated best")
        config = config.copy_and_resolve_references()
        config.update_from_flattened_dict({SWEPT[name]: value for name, value in swept.items()})
    if len(whole) < len(places):
        notes.append(f"{len(places) - len(whole)} of {len(places)} seeds were never validated")
    for i in whole:
        if loaded.stopped[i] >= 0:
            seed, step = loaded.members[i].seed, loaded.stopped[i]
            notes.append(f"seed {seed} stopped with NaN at step {step}: its best is from before")
    return Subject(
        label=label or describe(config),
        source=_with_changes(os.fspath(workdir), overrides),
        config=config,
        dataset=loaded.dataset,
        params=[jax.tree.map(lambda leaf, i=i: leaf[i], best.params) for i in whole],
        seeds=[loaded.members[i].seed for i in whole],
        steps=[int(best.step[i]) for i in whole],
        workdir=os.fspath(folder),
        notes=notes,
    )


def first_examples(subjects: Sequence[Subject], split: str, examples: int) -> str:
    """What a figure says of a split that is looked at in part, "; first N of M ..."; else ""."""
    sizes = {
        s.dataset.eval_size(split) for s in subjects if s.spec.kind != "language"
    }  # of text, what is asked for are tokens
    words = {"train": "training", "valid": "validation", "test": "test"}
    return "".join(
        f"; first {examples} of {size} {words[split]} examples"
        for size in sorted(sizes)
        if examples < size
    )


def _left_out(config: Any) -> list[str]:
    aux = config.aux.kind
    return [f"aux.kind={aux}: this is the task's own loss alone"] if aux != "none" else []


def _with_changes(source: str, overrides: Mapping[str, Any]) -> str:
    return " ".join([source, *(f"--config.{key}={value}" for key, value in overrides.items())])


def describe(config: Any) -> str:
    """What a legend calls a setting: the cell, and what happens to its gradient."""
    model, detach = config.model, config.detach
    name = _NAMES.get(model.cell, model.cell)
    if model.cell in ("gated_lstm", "gated_gru"):
        name = f"{model.gates} {'LSTM' if model.cell == 'gated_lstm' else 'GRU'}"
    parts = [
        name,
        f"h-detach {detach.p_block:g}" if detach.p_block else "",
        f"c-detach {detach.c_block:g}" if detach.c_block else "",
        f"truncated at {config.truncate.steps}" if config.truncate.steps else "",
    ]
    return ", ".join(filter(None, parts))


def told_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """The subjects with labels of their own: where two are equal, what differs is added."""
    for tell in (_training, _differences, lambda s, _: Path(s.source).name):
        count = Counter(s.label for s in subjects)
        same = {s.label: [t for t in subjects if t.label == s.label] for s in subjects}
        subjects = [
            dataclasses.replace(s, label=", ".join(filter(None, (s.label, tell(s, same[s.label])))))
            if count[s.label] > 1
            else s
            for s in subjects
        ]
    count = Counter(s.label for s in subjects)
    return [
        dataclasses.replace(s, label=f"{s.label} ({number})") if count[s.label] > 1 else s
        for number, s in enumerate(subjects, 1)
    ]


def _training(subject: Subject, others: Sequence[Subject]) -> str:
    if len({s.trained for s in others}) == 1:
        return ""
    return "trained" if subject.trained else "untrained"


def _differences(subject: Subject, others: Sequence[Subject]) -> str:
    values = [flatten(other.config) for other in others]
    own = flatten(subject.config)
    differing = [key for key in own if any(v.get(key) != own[key] for v in values)]
    return ", ".join(f"{key.rpartition('.')[2]} {own[key]}" for key in differing[:3])
