"""Two settings beside each other: the difference of their scores over seeds, in numbers and words.

What is compared are entries of `result.json`'s `seeds`, or of what `--mode=eval` writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lrd_jax.metrics import Metric
from lrd_jax.reporting.statistics import PAIRED, difference

Entries = Sequence[Mapping[str, Any]]  # one a seed


def differences(
    first: Entries, second: Entries, metrics: Iterable[Metric], split: str = "test"
) -> dict[str, dict[str, Any]]:
    """Compares every metric of a split: second minus first; see `statistics.difference`.

    Args:
      first: the entries of one setting.
      second: of the one that is compared with it.
      metrics: those that both have.
      split: whose values they are.

    Returns:
      Metric -> what `difference` found.

    Raises:
      UserError: a seed occurs twice in a setting.
    """
    seeds = [[entry["seed"] for entry in entries] for entries in (first, second)]
    return {
        metric.name: difference(
            *([entry[split].get(metric.name) for entry in entries] for entries in (first, second)),
            seeds_first=seeds[0],
            seeds_second=seeds[1],
            metric=metric,
        )
        for metric in metrics
    }


def difference_text(metric: Metric, found: Mapping[str, Any]) -> str:
    """Returns e.g. "-1.20 points [-2.41, 0.01] (5 seeds, paired)".

    Of two pairs both differences stand in the brackets, of fewer nothing; a difference of
    percentages is in points.
    """
    text = with_interval(found, metric, sign="+", unit=" points" * (metric.unit == "%"))
    return text if found["mean"] is None else f"{text} ({_seeds(found)})"


def with_interval(
    found: Mapping[str, Any], metric: Metric, *, sign: str = "", unit: str = ""
) -> str:
    """Returns a statistic as text, e.g. "+1.20 [0.31, 2.09]"; "no value" where there is none.

    Args:
      found: from `statistics.over_seeds` or `statistics.difference`; of two seeds or pairs both
        values stand in the brackets.
      metric: what it is of.
      sign: "+" shows the sign of what is positive too.
      unit: stands behind the number.
    """
    if found.get("mean") is None:
        return "no value"

    def number(value: float) -> str:
        return f"{value * metric.factor:{sign}.{metric.digits}f}"

    text = f"{number(found['mean'])}{unit}"
    if "interval" in found:
        return f"{text} [{', '.join(map(number, found['interval']))}]"
    if "values" in found:
        return f"{text} ({', '.join(map(number, found['values']))})"
    return text


def _seeds(found: Mapping[str, Any]) -> str:
    first, second = found["seeds"]
    if found["interval_method"] == PAIRED:
        count = f"{first} seed{'s' * (first > 1)}, paired"
    else:
        count = f"{first} against {second} other seed{'s' * (second > 1)}"
    return count if "interval" in found else f"{count}, no interval"
