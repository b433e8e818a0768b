"""Which keys of a config have an effect: what is refused, what is told, what is recorded.

A component knows the keys that are named like its fields or keyword parameters; nobody lists them.
Two kinds of key do nothing. One that the chosen component does not know at all (`model.gates` with
`cell=lstm`) is a mistake where the command line gives it. One that is known, and that the value of
another key switches off (`detach.scope` where nothing is blocked), is what a control run looks
like: it is told and never refused.

This stands above all components, so that none of them has to know the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from lrd_jax.cells import CELLS, cell_options, make_cell
from lrd_jax.config import defaults
from lrd_jax.config.horizon import Horizon, steps_between_evaluations
from lrd_jax.config.values import flatten
from lrd_jax.data import dataset_names, has_captions, known_keys, reads_text, registered
from lrd_jax.errors import UserError
from lrd_jax.models import network_options
from lrd_jax.recurrence.unroll import choose_backend
from lrd_jax.training.optimizer import SCHEDULES, schedule_options
from lrd_jax.training.own_keys import own_default, with_own_keys

_ANY_LENGTH = 2**20  # a sequence length that no option of a cell is too long for


def judge(config: Any, given: Mapping[str, Any], mode: str = "train") -> tuple[Any, list[str]]:
    """Finds the keys without effect.

    Args:
      config: the run's config, checked by `checks.validate`.
      given: the keys that the command line set.
      mode: "train", or "eval", where only these are of interest.

    Returns:
      The config, locked, keys of the user's own components in the types of their fields; and a line
      for each reason why keys have no effect. A key at its default, or at what `quick` makes of the
      default, is no fault, unless it is given and says something else than what is done anyway.

    Raises:
      UserError: a key that the chosen component does not know is given; no component at all knows a
        key; or the value of a key without effect would be refused elsewhere.
    """
    config = with_own_keys(config)
    values, unknown, nowhere = flatten(config), unused(config), known_nowhere(config)
    if refused := [k for k in given if k in nowhere and not _says_what_is(config, k)]:
        key = refused[0]
        raise UserError(f"config.{key}={values[key]!r} has no effect: {nowhere[key]}; leave it out")
    _check_elsewhere(config, unknown)
    differing = _differing(config)
    off = {k: why for k, why in _switched_off(config, given, mode).items() if k in differing}
    reasons: dict[str, list[str]] = {}
    for key, reason in (unknown | off).items():
        if key in given or mode == "train":
            reasons.setdefault(reason, []).append(f"{key}={_shown(values[key])}")
    lines = _slower(config) if mode == "train" else []
    return config, lines + [
        f"{', '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect: {reason}"
        for reason, keys in reasons.items()
    ]


def _says_what_is(config: Any, key: str) -> bool:
    """Whether a key that no chosen component knows says what is done without it.

    As `model.gates=UR` does of a cell of these gates, or an option that is off.
    """
    value, default = (flatten(c).get(key) for c in (config, defaults.get_config()))
    fixed = getattr(CELLS[config.model.cell], key.removeprefix("model."), None)
    return value == default and (not value or value in ("none", fixed))


def _slower(config: Any) -> list[str]:
    """A line where an option of the cell keeps it from its fast path."""
    cell = make_cell(config.model, _ANY_LENGTH)
    if config.model.backend != "auto" or not getattr(cell, "layer_norm", False):
        return []
    return [
        f"model.layer_norm=True: {choose_backend('auto', cell)} unrolls time, not fused: slower"
    ]


def unused(config: Any) -> dict[str, str]:
    """Returns the keys, not at their defaults, that the chosen components do not know: key -> why.

    Raises:
      UserError: an unknown cell, schedule or data set.
    """
    differing = _differing(config)
    return {key: reason for key, reason in known_nowhere(config).items() if key in differing}


def effective(config: Any) -> dict[str, Any]:
    """Returns the values that training depends on, by key: where they are equal, so are runs."""
    values = flatten(config)
    idle = known_nowhere(config) | _switched_off(config, values, "train")
    groups = ("eval", "devices")
    return {
        key: value
        for key, value in values.items()
        if key not in idle and key.partition(".")[0] not in groups
    }


def never_reached(config: Any, horizon: Horizon) -> list[str]:
    """Returns a line for each key that a run of this length never comes to."""
    lines = []
    warmup = config.optim.warmup_steps
    if warmup >= horizon.num_steps:
        lines.append(
            f"optim.warmup_steps={warmup} covers all {horizon.num_steps} steps: the learning rate"
            " never reaches its peak"
        )
    if (taken := sum(steps for steps, _ in config.data.curriculum)) >= horizon.num_steps:
        lines.append(
            f"data.curriculum takes {taken} steps, and the run has {horizon.num_steps}: it never"
            f" trains on sequences of data.length={config.data.length}"
        )
    patience = config.train.patience
    evaluations = horizon.num_steps // steps_between_evaluations(config.train, horizon)
    if patience and patience >= evaluations:
        lines.append(
            f"train.patience={patience} never ends a run of {evaluations} evaluations: the first"
            " one is always the best so far"
        )
    if config.train.steps_per_call > horizon.num_steps:
        lines.append(
            f"train.steps_per_call={config.train.steps_per_call} is more than the"
            f" {horizon.num_steps} steps of the run: they are one call"
        )
    return lines


# ---- Who knows which key ------------------------------------------------------------------------


class _Slot(NamedTuple):
    """A place that one of several components fills.

    Attributes:
      chosen: what fills it, as "key=value".
      known: keys that it knows.
      elsewhere: keys that any component which fits there knows.
    """

    chosen: str
    known: frozenset[str]
    elsewhere: frozenset[str]


def _slots(config: Any) -> Iterator[_Slot]:
    """Yields the places that components fill: cell, network, data set, schedule."""
    cell, data, schedule = config.model.cell, config.data.name, config.optim.schedule
    registered(data)
    cells = {name: cell_options(name) for name in CELLS} | {cell: cell_options(cell)}
    networks = {name: network_options(name) for name in ("sequence", "language", "caption")}
    network = "language" if reads_text(data) else "caption" if has_captions(data) else "sequence"
    datasets = {name: known_keys(name) for name in dataset_names()}
    schedules = {name: schedule_options(name) for name in SCHEDULES} | {
        schedule: schedule_options(schedule)
    }
    for group, key, options, name in (
        ("model", f"model.cell={cell}", cells, cell),
        ("model", f"data.name={data}", networks, network),
        ("data", f"data.name={data}", datasets, registered(data)),
        ("optim", f"optim.schedule={schedule}", schedules, schedule),
    ):
        named = {n: frozenset(f"{group}.{k}" for k in keys) for n, keys in options.items()}
        yield _Slot(key, named[name], frozenset().union(*named.values()))


def known_nowhere(config: Any) -> dict[str, str]:
    """Returns all keys that the chosen components do not know, and others would: key -> why."""
    slots, found = list(_slots(config)), {}
    for key in flatten(config):
        known = [slot for slot in slots if key in slot.known]
        others = [slot for slot in slots if key in slot.elsewhere]
        if others and not known:
            found[key] = f"{others[0].chosen} does not know it"
    return found


def _differing(config: Any) -> list[str]:
    """Keys that are neither at their default nor at what `quick` makes of it."""
    plain, quick = defaults.get_config(), defaults.get_config()
    defaults.shrink(quick)
    plain, quick, found = flatten(plain), flatten(quick), []
    for key, value in flatten(config).items():
        if key not in plain:  # of a component of the user's own
            plain[key] = quick[key] = own_default(config, key)
        if value not in (plain[key], quick[key]):
            found.append(key)
    return found


def _check_elsewhere(config: Any, unknown: Mapping[str, str]) -> None:
    """Refuses a value of other cells' keys that is taken by none in which it has an effect."""
    for key in unknown:
        group, _, name = key.rpartition(".")
        errors, taken = [], group != "model"
        for cell in CELLS:
            if name not in cell_options(cell):
                continue
            try:
                other = CELLS[cell](config.model.hidden_size, **{name: config.model[name]})
                taken |= name not in other.without_effect()
            except UserError as error:
                if name in str(error):  # not about the number of units, say
                    errors.append(error)
            except TypeError:  # a cell of the user's own that has fields without a default
                continue
        if errors and not taken:
            raise errors[0]


# ---- What switches what off ---------------------------------------------------------------------


class _Rule(NamedTuple):
    """Keys that have no effect while `off` holds.

    Attributes:
      keys: a key, or a group with a dot at its end.
      off: of a config and the mode.
      reason: for the line.
      but: keys of the group that keep theirs.
      given: only where the command line gives the key; a file sets it for other cases.
    """

    keys: tuple[str, ...]
    off: Callable[[Any, str], bool]
    reason: str
    but: tuple[str, ...] = ()
    given: bool = False


def _blocks(c: Any) -> bool:
    return any((c.detach.p_block, c.detach.c_block, *c.sweep.p_block, *c.sweep.c_block))


def _pretrains(c: Any) -> bool:
    return c.aux.kind != "none" and c.aux.pretrain_epochs > 0


_RULES = (
    _Rule(("aux.",), lambda c, _: c.aux.kind == "none", "aux.kind=none", but=("aux.kind",)),
    _Rule(
        ("detach.scope", "detach.stack_mask", "detach.off_last_epochs"),
        lambda c, _: not _blocks(c),
        "detach.p_block and detach.c_block are 0",
    ),
    _Rule(
        ("model.dropout", "model.block", "detach.stack_mask"),
        lambda c, _: c.model.num_layers == 1,
        "model.num_layers=1",
    ),
    _Rule(
        ("model.recompute",),
        lambda c, _: choose_backend(c.model.backend, make_cell(c.model, _ANY_LENGTH)) != "fused",
        "time is not unrolled by the fused backend",
    ),
    _Rule(
        ("optim.clip_scope",),
        lambda c, _: not (c.optim.clip_norm or c.optim.clip_value or any(c.sweep.clip_norm)),
        "optim.clip_norm=0",
    ),
    _Rule(
        ("optim.decay_recurrent",),
        lambda c, _: not (c.optim.weight_decay or any(c.sweep.weight_decay)),
        "optim.weight_decay=0",
    ),
    _Rule(
        ("data.valid_split",),
        lambda c, _: c.data.name == "digits",
        "digits has validation examples of its own",
    ),
    _Rule(("optim.pretrain_decay",), lambda c, _: not _pretrains(c), "there is no pre-training"),
    _Rule(
        ("train.num_epochs",),
        lambda c, _: c.train.num_steps > 0,
        "train.num_steps wins",
        given=True,
    ),
    _Rule(
        ("eval.",),
        lambda _, mode: mode == "train",
        "training does not read it, --mode=eval does",
        but=("eval.batch_size", "eval.max_examples", "eval.allow_unknown"),
        given=True,
    ),
    _Rule(
        ("data.class_weights",),
        lambda _, mode: mode == "eval",
        "an evaluation counts all labels alike",
    ),
    _Rule(
        ("eval.temperature", "eval.prompt", "eval.sample_seed"),
        lambda c, mode: (
            mode == "eval" and not c.eval.sample_tokens and not has_captions(c.data.name)
        ),
        "eval.sample_tokens=0",
    ),
    _Rule(
        ("eval.temperature", "eval.sample_seed"),
        lambda c, mode: mode == "eval" and has_captions(c.data.name) and c.eval.decode == "beam",
        "eval.decode=beam",
    ),
    _Rule(
        ("eval.beam_size", "eval.length_power"),
        lambda c, mode: mode == "eval" and has_captions(c.data.name) and c.eval.decode != "beam",
        "eval.decode=sample",
    ),
    _Rule(
        (
            "eval.decode",
            "eval.beam_size",
            "eval.length_power",
            "eval.allow_unknown",
            "eval.ensemble",
            "eval.sheet_images",
            "eval.meteor",
        ),
        lambda c, _: not has_captions(c.data.name),
        "data.name is no set of pictures with captions",
    ),
    _Rule(
        ("model.attention_size", "detach.attention_query"),
        lambda c, _: not has_captions(c.data.name) or c.model.caption != "show_attend_tell",
        "model.caption is not show_attend_tell",
    ),
    _Rule(
        (
            "eval.split",
            "eval.batch_size",
            "eval.max_examples",
            "eval.delays",
            "eval.lengths",
            "eval.context",
        ),
        lambda c, mode: mode == "eval" and c.eval.sample_tokens > 0,
        "eval.sample_tokens asks for a text",
    ),
)


def _switched_off(config: Any, given: Any, mode: str) -> dict[str, str]:
    """Returns the keys that others switch off: key -> why."""
    cell = make_cell(config.model, _ANY_LENGTH)
    by_cell = {f"model.{name}": f"model.{why}" for name, why in cell.without_effect().items()}
    found = {}
    for key in flatten(config):
        if key in by_cell:
            found[key] = by_cell[key]
        for rule in _RULES:
            named = key in rule.keys or key.startswith(tuple(k for k in rule.keys if k[-1] == "."))
            if named and key not in rule.but and (key in given or not rule.given):
                if rule.off(config, mode):
                    found[key] = rule.reason
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)
