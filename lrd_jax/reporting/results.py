"""What a run came to: the content of `result.json`, of each seed and over them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_jax.config.members import Member
from lrd_jax.errors import UserError, one_line
from lrd_jax.metrics import Metric, declarations, declared, plain, with_derived
from lrd_jax.reporting.comparison import differences
from lrd_jax.reporting.statistics import METHOD, by_value, over_seeds


def seed_results(
    best: Any,
    stopped: Sequence[int],
    split: str,
    values: dict[str, np.ndarray],
    members: Sequence[Member],
    metrics: Sequence[Metric],
    ended: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Best step, its validation metrics and those of `split`, member by member.

    Swept values stand under `sweep`, where there are any. A member that stopped with NaN says at
    which step, and has nulls where it was never validated; one whose patience ended does so too.

    Args:
      best: step and validation metrics of each (`evaluation.best.Best`), on the host.
      stopped: the step of the NaN of each, -1 if none.
      split: name of the split that `values` are of.
      values: its metrics, name -> `(seeds,)`.
      members: who stands where on the leading axis.
      metrics: of the objective; some are made of others.
      ended: the step at which the patience of each ended, -1 if it did not; empty without any.
    """
    each = []
    best_valid = with_derived(metrics, best.valid)
    for i, member in enumerate(members):
        valid, tested = ({k: plain(v[i]) for k, v in part.items()} for part in (best_valid, values))
        if best.step[i] == 0:
            valid, tested = dict.fromkeys(valid), dict.fromkeys(tested)
        entry: dict[str, Any] = {"seed": member.seed}
        if member.swept:
            entry["sweep"] = member.swept
        entry |= {"best": {"step": int(best.step[i]), "valid": valid}, split: tested}
        if (bad := int(stopped[i])) >= 0:
            entry["first_nonfinite_step"] = bad
        if len(ended) and (last := int(ended[i])) >= 0:
            entry["stopped_step"] = last
        each.append(entry)
    return each


def run_result(
    each: list[dict[str, Any]], metrics: Sequence[Metric], select: Sequence[Metric]
) -> dict[str, Any]:
    """What `result.json` says of the metrics.

    Args:
      each: from `seed_results`, of the test split.
      metrics: of the objective.
      select: which validation metrics choose, as for the best checkpoint.

    Returns:
      `best`, `test` and, of several seeds, `statistics` over them; then `seeds`, which is `each`,
      and `metrics`, how each of them is shown and which direction is better.
      In a sweep the former are of the value that validated best, named under `sweep`, and
      `by_value` holds the same of every value, and the `difference` to that one.
    """
    values = [_over_seeds(swept, runs, metrics) for swept, runs in by_value(each)]
    best = max(values, key=lambda value: rank(value["best"]["valid"], select))
    groups = [entries for _, entries in by_value(each)]
    chosen = groups[values.index(best)]
    for value, entries in zip(values, groups, strict=True):
        if value is not best:
            found = differences(chosen, entries, metrics)
            value["difference"] = {"to": best["sweep"], "test": found}
    found = best | ({"by_value": values} if "sweep" in best else {}) | {"seeds": each}
    return found | {"metrics": declarations(metrics, select)}


def _over_seeds(
    swept: dict[str, float], runs: list[dict[str, Any]], metrics: Sequence[Metric]
) -> dict[str, Any]:
    """The seeds of one swept value together: median best step, means, and their statistics."""
    steps = [run["best"]["step"] for run in runs if run["best"]["step"]]
    valid = over_seeds([run["best"]["valid"] for run in runs], metrics)
    test = over_seeds([run["test"] for run in runs], metrics)
    result: dict[str, Any] = {"sweep": swept} if swept else {}
    result["best"] = {
        "step": int(np.median(steps)) if steps else 0,
        "valid": {name: found["mean"] for name, found in valid.items()},
    }
    result["test"] = {name: found["mean"] for name, found in test.items()}
    if len(runs) > 1:
        result["statistics"] = {"valid": valid, "test": test, "interval_method": METHOD}
    return result


def rank(valid: Mapping[str, float | None], select: Sequence[Metric]) -> tuple[float, ...]:
    """Makes validation metrics comparable: more is better; a metric that no seed has ranks last."""

    def of(metric: Metric) -> float:
        value = valid[metric.name]
        return -math.inf if value is None else metric.better(value)

    return tuple(of(metric) for metric in select)


def strict(values: Any) -> Any:
    """Returns JSON values with None for each number that JSON has not: NaN and the infinities."""
    if isinstance(values, Mapping):
        return {key: strict(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [strict(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


# ---- Read back -----------------------------------------------------------------------------------


def read_result(path: Path) -> dict[str, Any]:
    """Reads a `result.json`, of this version or an earlier one.

    Raises:
      UserError: it cannot be read, or lacks what every one holds; one line.
    """
    try:
        result = json.loads(path.read_bytes())
        _check(result)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = one_line(str(error))[:80] or type(error).__name__
        raise UserError(
            f"{path} is damaged ({reason}); remove it, and the same command writes it again"
        ) from error
    return result


# Of what a result need not hold.
_KINDS = {"seeds": list, "by_value": list, "evaluated": dict, "seconds": dict, "metrics": dict}


def _check(result: Any) -> None:
    """Raises ValueError, or what Python raises of itself, where a result is not one."""
    steps, num_steps, wall_time_s = (result[k] for k in ("steps", "num_steps", "wall_time_s"))
    if not (_is(steps, int) and _is(num_steps, int) and 0 < steps <= num_steps):
        raise ValueError(f"steps: {steps} of {num_steps}")
    if not (_is(wall_time_s, int | float) and 0 <= wall_time_s < math.inf):
        raise ValueError(f"wall_time_s: {wall_time_s}")
    parts = [result, *result.get("by_value", ()), *result.get("seeds", ())]
    for part in parts:
        best, test = part["best"], part["test"]
        if not _is(best["step"], int):
            raise ValueError(f"best.step: {best['step']}")
        for values in (best["valid"], test, result.get("baselines", {})):
            wrong = [
                name for name, v in values.items() if v is not None and not _is(v, int | float)
            ]
            if wrong:
                raise ValueError(f"{wrong[0]}: {values[wrong[0]]}")
    for key, kind in _KINDS.items():
        if not isinstance(result.get(key, kind()), kind):
            raise ValueError(f"{key}: {result[key]!r}")
    for name, cut in result.get("evaluated", {}).items():
        if name not in ("train", "valid", "test") or not all(
            _is(cut[key], int) for key in ("examples", "of")
        ):
            raise ValueError(f"evaluated: {name} {cut}")
    if not all(_is(value, int | float) for value in result.get("seconds", {}).values()):
        raise ValueError(f"seconds: {result['seconds']}")
    for run in result.get("seeds", ()):
        if not (_is(run["seed"], int) and _is(run.get("first_nonfinite_step", 1), int)):
            raise ValueError(f"seed: {run['seed']}")
    for part in parts:
        if not all(_is(value, int | float) for value in part.get("sweep", {}).values()):
            raise ValueError(f"sweep: {part['sweep']}")
    declared(result, result["test"])


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
