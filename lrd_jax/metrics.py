"""What is measured: a `Metric` is declared once and read wherever a number is shown or compared.

An objective lists its metrics; the summary, plots, progress line, sweeps, the table of results and
the choice of the best step read name, unit, digits, direction and range from here. `result.json`
holds the declarations (`declarations`, `declared`), so that a script which reads it needs no table
of its own. Nothing here loads JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def mean(total: Any, count: Any) -> Any:
    """The sum over examples divided by their number."""
    return total / count


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number about a run, made of sums over examples.

    A confusion matrix, for instance, comes as `Metric("kappa", shapes=((10, 10),), finish=kappa)`:
    `Objective.loss` gives the counts of a batch as a tuple of one array, they are added up over
    batches and devices, and `kappa(counts)` runs once on the host, for each member.

    Attributes:
      name: key in `metrics.jsonl` and `result.json`; underscores are shown as blanks.
      unit: shown after the value; "%" multiplies what is shown by 100.
      digits: shown after the decimal point.
      higher_is_better: the direction, for the best step, sweeps and plots.
      range: smallest and largest possible value, for the axes of plots and the ends of intervals.
      shapes: of each sum of one member; the default is a total and a count, both `()`.
      finish: makes the metric of the sums of one member, given in order; on the host, numpy.
    """

    name: str
    unit: str = ""
    digits: int = 4
    higher_is_better: bool = False
    range: tuple[float, float] = (-math.inf, math.inf)
    shapes: tuple[tuple[int, ...], ...] = ((), ())
    finish: Callable[..., Any] = mean

    @property
    def label(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ")

    @property
    def factor(self) -> float:
        """What a value is multiplied by before it is shown."""
        return 100 if self.unit == "%" else 1

    def number(self, value: float) -> str:
        """A value without its unit, e.g. "94.02"."""
        return f"{value * self.factor:.{self.digits}f}"

    def text(self, value: float) -> str:
        """A value with its unit, e.g. "94.02 %"."""
        return self.with_unit(self.number(value))

    def with_unit(self, text: str) -> str:
        """Adds the unit to a text."""
        return f"{text} {self.unit}".rstrip()

    def labelled(self, text: str) -> str:
        """Puts the name before a text, unless the unit begins with it: "bits per character"."""
        return text if self.unit.startswith(self.label) else f"{self.label} {text}"

    def better(self, value: Any) -> Any:
        """Comparable values: more is better."""
        return value if self.higher_is_better else -value


@dataclasses.dataclass(frozen=True)
class DerivedMetric(Metric):
    """Made of another metric's value, e.g. perplexity of the loss; neither summed nor stored.

    Attributes:
      of: name of that metric; `finish` gets its value.
    """

    of: str = "loss"


@dataclasses.dataclass(frozen=True)
class CollectedMetric(Metric):
    """Made of what `Objective.collect` gives for each example, e.g. the score of decoded words.

    It exists in evaluation alone: the state's sums have no place for it, `best.valid` has.

    `finish` gets the collected tree of one member, leaves `(examples, ...)` in the order of the
    split, padding left out.
    """


@dataclasses.dataclass(frozen=True)
class ReportedMetric(Metric):
    """Summed in evaluation alone: training has no place for it, and it chooses no best step.

    So an objective may report more, or something else, without changing what a checkpoint holds.
    """


@dataclasses.dataclass(frozen=True)
class TableMetric(ReportedMetric):
    """Counts that are a table and no number: `finish` gives an array; see `tables`."""


# ---- Of classes and of numbers ------------------------------------------------------------------


def balanced_accuracy(right: Any, true: Any) -> Any:
    """The mean over classes, of those that occur, of the part that is recognised.

    Brodersen, Ong, Stephan and Buhmann (2010), "The balanced accuracy and its posterior
    distribution".

    Args:
      right: labels of each class that are right, `(classes,)`.
      true: labels of each class, `(classes,)`.
    """
    there = true > 0
    return (right[there] / true[there]).mean() if there.any() else np.nan


def macro_f1(right: Any, true: Any, said: Any) -> Any:
    """The mean over classes, of those that occur or are said, of F1 = 2 right / (true + said).

    Args:
      right: as above.
      true: as above.
      said: how often each class is predicted, `(classes,)`.
    """
    there = true + said > 0
    return (2 * right[there] / (true + said)[there]).mean() if there.any() else np.nan


def column_mean(totals: Any, count: Any) -> Any:
    """Totals of several columns, `(columns,)`, divided by the number of rows; their mean."""
    return np.mean(totals / count)


def r_squared(squares: Any, count: Any, total: Any, total_squares: Any) -> Any:
    """1 - squared error / squared deviation from the mean; the mean over columns that vary.

    Args:
      squares: of the errors, `(columns,)`.
      count: rows.
      total: sum of the true numbers, `(columns,)`.
      total_squares: sum of their squares, `(columns,)`.
    """
    around_mean = total_squares - total**2 / count
    # Sums in float32: of numbers far from 0 what is left would be rounding. Scale them then.
    varies = around_mean > 1e-4 * total_squares
    if not varies.any():
        return np.nan
    return np.mean(1 - squares[varies] / around_mean[varies])


_UNIT = (0.0, 1.0)
FROM_ZERO = (0.0, math.inf)
"""The range of what cannot be negative, as a mean of squares or a cross-entropy."""
BALANCED_ACCURACY = ReportedMetric(
    "balanced_accuracy", "%", 2, True, _UNIT, finish=balanced_accuracy
)
MACRO_F1 = ReportedMetric("macro_f1", "%", 2, True, _UNIT, finish=macro_f1)
# Rows are the true classes, columns what was predicted.
CONFUSION = TableMetric("confusion", finish=lambda counts: counts)
MSE = ReportedMetric("mse", range=FROM_ZERO, finish=column_mean)
MAE = ReportedMetric("mae", range=FROM_ZERO, finish=column_mean)
R_SQUARED = ReportedMetric("r2", "", 4, True, (-math.inf, 1.0), finish=r_squared)


def plain(value: Any) -> float:
    """A number as Python's: of float32 the fewest digits that mean it, 0.06 for 0.059999998."""
    short = getattr(value, "dtype", None) == np.float32
    return float(str(value)) if short else float(value)


LOSS = Metric("loss", range=FROM_ZERO)
NATS = Metric("loss", unit="nats", range=FROM_ZERO)  # of running text: per token
ACCURACY = Metric("accuracy", "%", 2, higher_is_better=True, range=(0.0, 1.0))
PERPLEXITY = DerivedMetric("perplexity", digits=1, range=(1.0, math.inf), finish=np.exp)
BITS_PER_CHAR = DerivedMetric(
    "bits_per_char",
    "bits per character",
    3,
    range=FROM_ZERO,
    finish=lambda nats: nats / math.log(2),
)
_RECORDED_BEFORE = (ACCURACY, LOSS, PERPLEXITY, BITS_PER_CHAR)  # by runs without declarations


def summed(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """The metrics that `Objective.loss` gives the sums of."""
    others = DerivedMetric | CollectedMetric | ReportedMetric
    return tuple(m for m in metrics if not isinstance(m, others))


def stored(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """The metrics whose values the state keeps of the best validation."""
    return tuple(m for m in metrics if not isinstance(m, DerivedMetric | ReportedMetric))


def collected(metrics: Iterable[Metric]) -> tuple[CollectedMetric, ...]:
    """The metrics that evaluation makes of collected outputs."""
    return tuple(m for m in metrics if isinstance(m, CollectedMetric))


def finish(metrics: Iterable[Metric], sums: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """Makes values of sums, member by member.

    Args:
      metrics: of the objective.
      sums: name -> sums over examples, on the host, each `(members, ...)`; a name that no metric
        has (the norm of the gradient) is a total and a count.

    Returns:
      Name -> `(members,)`, derived metrics last, tables left out; NaN where a member counted
      nothing.
    """
    values = _finished({m.name: m for m in metrics}, sums, tables=False)
    return with_derived(metrics, values)


def tables(metrics: Iterable[Metric], sums: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """Makes the tables among the metrics; arguments as above.

    Returns:
      Name -> `(members, ...)`.
    """
    return _finished({m.name: m for m in metrics}, sums, tables=True)


def _finished(
    by_name: Mapping[str, Metric], sums: Mapping[str, Sequence[Any]], tables: bool
) -> dict[str, np.ndarray]:
    """Values of metrics, or of tables, `(members, ...)` by name, from their sums."""
    found = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, parts in sums.items():
            metric = by_name.get(name, Metric(name))
            if isinstance(metric, TableMetric) == tables:
                each = [np.asarray(metric.finish(*part)) for part in zip(*parts, strict=True)]
                found[name] = np.stack(each)
    return found


def with_derived(metrics: Iterable[Metric], values: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to values, each `(members,)`, those of the derived metrics."""
    derived = [m for m in metrics if isinstance(m, DerivedMetric) and m.of in values]
    return {**values, **{m.name: m.finish(values[m.of]) for m in derived}}


def finish_collected(
    metrics: Iterable[Metric], batches: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]]
) -> dict[str, np.ndarray]:
    """Makes the collected metrics of what an evaluation gathered.

    Args:
      metrics: of the objective.
      batches: of each batch what was collected, name -> `(members, batch, ...)`, and its mask,
        `(members, batch)`, on the host.

    Returns:
      Name -> `(members,)`.
    """
    values: dict[str, list[Any]] = {metric.name: [] for metric in collected(metrics)}
    for member in range(len(batches[0][1])) if values else ():
        outputs = {
            name: np.concatenate([b[name][member][mask[member] > 0] for b, mask in batches])
            for name in batches[0][0]
        }
        for metric in collected(metrics):
            values[metric.name].append(metric.finish(outputs))
    return {name: np.array(each, np.float64) for name, each in values.items()}


# ---- Declarations on paper ----------------------------------------------------------------------


def declarations(metrics: Iterable[Metric], select: Sequence[Metric] = ()) -> dict[str, Any]:
    """What `result.json` holds of the metrics: by name, those that choose the best step first."""
    numbers = (metric for metric in metrics if not isinstance(metric, TableMetric))
    chosen = {metric.name: metric for metric in (*select, *numbers)}
    return {name: _declaration(metric) for name, metric in chosen.items()}


def _declaration(metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {"digits": metric.digits, "higher_is_better": metric.higher_is_better}
    if metric.unit:
        found["unit"] = metric.unit
    if any(map(math.isfinite, metric.range)):  # JSON has no infinity
        found["range"] = [end if math.isfinite(end) else None for end in metric.range]
    if isinstance(metric, DerivedMetric):
        found["of"] = metric.of
    return found


def declared(record: Mapping[str, Any], names: Iterable[str]) -> dict[str, Metric]:
    """The metrics that a record is about; the first one is what its best step was chosen by.

    Args:
      record: the content of a `result.json` or the like; one of an earlier version holds no
        declarations.
      names: of the metrics that it has values of.
    """
    names = list(names)
    before = {metric.name: metric for metric in _RECORDED_BEFORE}
    if {"perplexity", "bits_per_char"}.intersection(names):
        before["loss"] = NATS
    found = {}
    for name, given in record.get("metrics", {}).items():
        low, high = given.get("range", (None, None))
        ends = (-math.inf if low is None else low, math.inf if high is None else high)
        kind = DerivedMetric if "of" in given else Metric
        rest = {key: value for key, value in given.items() if key != "range"}
        found[name] = kind(name, range=ends, **rest)
    known = found or {name: metric for name, metric in before.items() if name in names}
    ordered = {name: metric for name, metric in known.items() if name in names}
    return ordered | {name: Metric(name) for name in names if name not in ordered}
