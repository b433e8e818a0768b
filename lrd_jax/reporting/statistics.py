"""What several seeds say together: mean, standard deviation, interval of the mean."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrd_jax.metrics import Metric

CONFIDENCE = 0.95  # of the interval
METHOD = "Student's t over seeds, cut at the metric's range; from three seeds on"
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
    from scipy import stats  # here: it takes half a second, and single runs do without

    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return [max(mean - reach, ends[0]), min(mean + reach, ends[1])]


def by_value(runs: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, float], list[Any]]]:
    """Groups the entries of `result.json`'s `seeds` by what was swept, in order.

    Returns:
      The swept values with the entries of all their seeds; {} with all entries without a sweep.
    """
    groups: dict[tuple, list[Any]] = {}
    for run in runs:
        groups.setdefault(tuple(run.get("sweep", {}).items()), []).append(run)
    return [(dict(values), entries) for values, entries in groups.items()]
