"""What several seeds say: mean, deviation, interval of the mean; the difference of two settings."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lrd_jax.errors import UserError
from lrd_jax.metrics import Metric

CONFIDENCE = 0.95  # of the interval
METHOD = "Student's t over seeds, cut at the metric's range; from three seeds on"
PAIRED = "Student's t over the differences of the same seeds; from three on"
WELCH = "Welch's t over the seeds of both, which are different ones; from three each on"
_LEAST = 3  # seeds: of two, the interval would be 25 times as wide as their deviation


def over_seeds(
    runs: Sequence[Mapping[str, float | None]], metrics: Iterable[Metric] = ()
) -> dict[str, dict[str, Any]]:
    """Summarises each metric over the seeds that have it.

    Args:
      runs: the metrics of each seed by name; null where a seed stopped with NaN.
      metrics: what is known of them: the interval ends at the end of a metric's range.

    Returns:
      For each metric `seeds` (how many have it) and `mean`; of two seeds `values`; from two on
      `std` (sample standard deviation); from three on `interval`: the 95 % interval of the mean by
      Student's t (Student 1908, "The Probable Error of a Mean"), as low and high end. It covers the
      mean of normal draws 95 times of 100 at any number of seeds; a bootstrap of few does not.
    """
    ranges = {metric.name: metric.range for metric in metrics}
    found = {}
    for name in runs[0]:
        given = [value for run in runs if (value := run.get(name)) is not None]
        values = [value for value in given if math.isfinite(value)]
        found[name] = {"seeds": len(values), "mean": statistics.fmean(values) if values else None}
        if len(values) > 1:
            found[name]["std"] = statistics.stdev(values)
        if 1 < len(values) < _LEAST:
            found[name]["values"] = values
        if len(values) >= _LEAST:
            found[name]["interval"] = _interval(values, ranges.get(name, (-math.inf, math.inf)))
    return found


def _interval(values: Sequence[float], ends: tuple[float, float]) -> list[float]:
    return _around(statistics.fmean(values), *_error([values]), ends)


def band(
    values: np.ndarray, ends: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[np.ndarray, np.ndarray] | None:
    """The interval of `over_seeds` at every point of a curve.

    Args:
      values: `(points, seeds)`; a point with a NaN has none.
      ends: of the range of the values.

    Returns:
      Low and high ends, each `(points,)`; None of fewer than three seeds.
    """
    count = values.shape[1]
    if count < _LEAST:
        return None
    mean, error = values.mean(1), values.std(1, ddof=1) / math.sqrt(count)
    reach = _quantile(count - 1) * error
    return np.maximum(mean - reach, ends[0]), np.minimum(mean + reach, ends[1])


def _around(mean: float, error: float, freedom: float, ends: tuple[float, float]) -> list[float]:
    reach = _quantile(freedom) * error if error else 0.0
    return [max(mean - reach, ends[0]), min(mean + reach, ends[1])]


def _quantile(freedom: float) -> float:
    """How many standard errors the interval reaches to either side."""
    from scipy import stats  # here: it takes half a second, and single runs do without

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def difference(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    seeds_first: Sequence[int],
    seeds_second: Sequence[int],
    metric: Metric | None = None,
) -> dict[str, Any]:
    """Compares one metric of two settings: second minus first, with its 95 % interval.

    Two runs of one seed share start and order of the data, so their difference varies less than
    that of two seeds: where seeds are shared, the interval is Student's t over their differences.
    Else it is Welch's (1947, "The generalization of Student's problem when several different
    population variances are involved"), with Satterthwaite's degrees of freedom. Where some are
    shared, these are compared if they are three or more, or all that a setting has.

    Args:
      first: the metric of each seed; null or not finite where a seed has none.
      second: the same of the setting that is compared with it.
      seeds_first: whose values they are, all different.
      seeds_second: the same of `second`.
      metric: what is known of it: the interval ends where differences in its range do.

    Returns:
      `mean` (of the difference; None where a setting has no value), `seeds` (how many of each
      setting it is made of) and `interval_method`; of two pairs `values`, their differences; from
      three seeds of each setting on `interval`, as low and high end.

    Raises:
      UserError: not a seed for each value, or one seed twice.
    """
    a, b = _of_seeds(first, seeds_first), _of_seeds(second, seeds_second)
    pairs = [b[seed] - a[seed] for seed in a if seed in b]
    paired = bool(pairs) and len(pairs) >= min(_LEAST, len(a), len(b))
    counts = [len(pairs)] * 2 if paired else [len(a), len(b)]
    found: dict[str, Any] = {"mean": None, "seeds": counts}
    if min(counts):
        mean = statistics.fmean(pairs) if paired else _mean(b) - _mean(a)
        found["mean"] = mean
        if min(counts) >= _LEAST:
            low, high = metric.range if metric else (-math.inf, math.inf)
            error, freedom = _error([pairs] if paired else [[*a.values()], [*b.values()]])
            found["interval"] = _around(mean, error, freedom, (low - high, high - low))
        elif paired and len(pairs) > 1:
            found["values"] = pairs
    return found | {"interval_method": PAIRED if paired else WELCH}


def _mean(values: Mapping[int, float]) -> float:
    return statistics.fmean(values.values())


def _error(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Standard error of a sum of the samples' means, and its degrees of freedom (Satterthwaite)."""
    squares = [statistics.variance(values) / len(values) for values in samples]
    below = sum(s**2 / (len(v) - 1) for s, v in zip(squares, samples, strict=True))
    return math.sqrt(sum(squares)), sum(squares) ** 2 / below if below else 1.0


def _of_seeds(values: Sequence[float | None], seeds: Sequence[int]) -> dict[int, float]:
    if len(values) != len(seeds) or len(set(seeds)) < len(seeds):
        raise UserError(
            f"{len(values)} values of the seeds {', '.join(map(str, seeds))}: give a seed for each"
            " value, all of them different"
        )
    given = zip(seeds, values, strict=True)
    return {seed: value for seed, value in given if value is not None and math.isfinite(value)}


def by_value(runs: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, float], list[Any]]]:
    """Groups the entries of `result.json`'s `seeds` by what was swept, in order.

    Returns:
      The swept values with the entries of all their seeds; {} with all entries without a sweep.
    """
    groups: dict[tuple, list[Any]] = {}
    for run in runs:
        groups.setdefault(tuple(run.get("sweep", {}).items()), []).append(run)
    return [(dict(values), entries) for values, entries in groups.items()]
