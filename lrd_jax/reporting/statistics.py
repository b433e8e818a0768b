"""What several seeds say together: mean, standard deviation, bootstrap interval of the mean."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

CONFIDENCE = 0.95  # of the interval


def over_seeds(runs: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Summarises each metric over the seeds that have it.

    Args:
      runs: the metrics of each seed by name; null where a seed stopped with NaN.

    Returns:
      For each metric `seeds` (how many have it), `mean`, and from two seeds on `std` (sample
      standard deviation) and `interval`: the 95 % percentile bootstrap of the mean, as low and
      high end (Efron & Tibshirani 1993, ch. 13). Of very few seeds it is too narrow, as any
      bootstrap is.
    """
    found = {}
    for name in runs[0]:
        given = [value for run in runs if (value := run.get(name)) is not None]
        values = [value for value in given if math.isfinite(value)]
        found[name] = {"seeds": len(values), "mean": statistics.fmean(values) if values else None}
        if len(values) > 1:
            found[name] |= {"std": statistics.stdev(values), "interval": _interval(values)}
    return found


def _interval(values: Sequence[float]) -> list[float]:
    from scipy import stats  # here: it takes half a second, and single runs do without

    # Resampling with a generator of its own: the same values give the same interval every time.
    # "BCa", SciPy's default, breaks down where values are equal, as accuracies often are.
    result = stats.bootstrap(
        (values,), _mean, method="percentile", confidence_level=CONFIDENCE, rng=0
    )
    return [float(end) for end in result.confidence_interval]


def _mean(sample: Any, axis: int) -> Any:
    return sample.mean(axis=axis)


def by_value(runs: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, float], list[Any]]]:
    """Groups the entries of `result.json`'s `seeds` by what was swept, in order.

    Returns:
      The swept values with the entries of all their seeds; {} with all entries without a sweep.
    """
    groups: dict[tuple, list[Any]] = {}
    for run in runs:
        groups.setdefault(tuple(run.get("sweep", {}).items()), []).append(run)
    return [(dict(values), entries) for values, entries in groups.items()]
