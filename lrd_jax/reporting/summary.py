"""The two blocks of text around a run: what starts, and what came out."""

import datetime
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from clu import parameter_overview

from lrd_jax.config.members import named
from lrd_jax.metrics import Metric, declarations, declared
from lrd_jax.reporting import provenance
from lrd_jax.reporting.comparison import Entries, difference_text, differences
from lrd_jax.reporting.statistics import CONFIDENCE, by_value, over_seeds

# The viewer is an extra; the files that it reads are always written.
_MISSING = "" if find_spec("tensorboard") else "   # after: pip install 'lrd-jax[tensorboard]'"


# Baselines of auxiliary losses, see `objectives.auxiliary.Auxiliary.baselines`.
_TRIVIAL = {
    "aux_loss_mean": "the best constant",
    "aux_loss_position_mean": "the best constant at each position",
    "aux_loss_previous": "the previous value",
}


def startup(
    *,
    config_name: str,
    workdir: str | os.PathLike[str],
    model: str,
    data: str,
    params: Any,
    num_members: int = 1,
    baselines: Mapping[str, float] | None = None,
    metrics: Iterable[Metric] = (),
) -> str:
    """Returns the block printed before the first step.

    Args:
      config_name: e.g. "urlstm_pmnist" or "hdetach_copying-H6".
      workdir: the work directory.
      model: what is trained, `header.model_line`.
      data: the data set in one line, `dataset.describe()`.
      params: the parameters of one member, without a leading axis of members.
      num_members: how many seeds, times swept values, train in this program.
      baselines: what a model without memory scores, by metric, where that is known.
      metrics: of the objective; say how baselines are shown.

    Returns:
      Table of parameters, then config, model, device, data, baseline and work directory; no newline
      at the end.
    """
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    versions = provenance.versions()
    each = f" (each of {num_members} side by side)" if num_members > 1 else ""
    rows = {
        "config": config_name,
        "model": model,
        "device": f"{provenance.device_description()}, JAX {versions['jax']}",
        "data": data,
        **_baseline(baselines, {"metrics": declarations(metrics)}),
        "workdir": os.fspath(workdir),
    }
    return f"{table}{each}\n" + _rows(rows)


def closing(result: Mapping[str, Any], *, config_flag: str, workdir: str | os.PathLike[str]) -> str:
    """Returns the block printed after the last step.

    Args:
      result: the content of `result.json`: best, test, seeds, metrics and times are read.
      config_flag: the value of `--config`, for the commands that come next; "": there was none.
      workdir: the work directory.

    Returns:
      In a sweep a table of its values, and of their differences to the best one; then, of that,
      step and metrics (with several seeds: mean, sample standard deviation and interval), seeds
      that stopped with NaN, the baseline where the result has one, wall time, and the next
      commands; no newline at the end.
    """
    everyone = result.get("seeds") or [{"best": result["best"], "test": result["test"]}]
    swept = result.get("sweep", {})
    runs = [run for run in everyone if run.get("sweep", {}) == swept]
    folder = shlex.quote(os.fspath(workdir))
    given = f"--config={shlex.quote(config_flag)} " if config_flag else ""
    steps = sorted({run["best"]["step"] for run in runs if run["best"]["step"]})
    brackets = f"{CONFIDENCE:.0%} interval of the mean over seeds (Student's t)"
    rows = {
        **({"best value": named(swept)} if swept else {}),
        "best step": " to ".join(str(step) for step in dict.fromkeys((steps[0], steps[-1]))),
        "validation": _metrics(result, [run["best"]["valid"] for run in runs], interval=True),
        "test": _metrics(result, [run["test"] for run in runs], interval=True),
        **({"[ ... ]": brackets} if len(runs) > 2 else {}),
        **_cut(result),
        **_stopped(everyone),
        **_baseline(result.get("baselines"), result),
        "wall time": _wall_time(result),
        "workdir": os.fspath(workdir),
        "evaluate": f"python -m lrd_jax.main {given}--workdir={folder} --mode=eval",
        "curves": f"tensorboard --logdir={folder}{_MISSING}",
    }
    tables = [_by_value(result, everyone), _compared(result, everyone)] if swept else []
    return "\n\n".join([*filter(None, tables), _rows(rows)])


def evaluation(result: Mapping[str, Any], path: str | os.PathLike[str]) -> str:
    """Returns the block printed by `--mode=eval`.

    Args:
      result: the content of `path`: split, overrides and seeds are read.
      path: the file that was written.

    Returns:
      What was evaluated, its metrics (each seed's, then mean and deviation; of a sweep also what
      the other values differ by from the first), and the file; no newline at the end.
    """
    split, runs = result["split"], result["seeds"]
    rows = {key: str(value) for key, value in result["overrides"].items() if key != "eval.split"}
    groups = by_value(runs)
    if len(runs) > 1:
        rows |= {
            named(run.get("sweep", {}) | {"seed": run["seed"]}): _of_step(result, run)
            for run in runs
        }
        for swept, entries in groups:
            name = f"{split}, {named(swept)}" if swept else split
            rows[name] = _metrics(result, [run[split] for run in entries], interval=True)
        for swept, entries in groups[1:]:
            rows[f"{named(swept)} minus {named(groups[0][0])}"] = _difference(
                result, groups[0][1], entries, split
            )
    else:
        rows[split] = _of_step(result, runs[0])
    text = _rows(rows | _cut(result) | {"written to": os.fspath(path)})
    return f"{_confusion(result)}{text}" if len(groups) == 1 else text


_MOST_CLASSES = 12  # whose confusions fit on a page


def _confusion(result: Mapping[str, Any]) -> str:
    """The table of few classes, counts of all seeds together, with its title; else nothing."""
    found = [run.get("tables", {}).get("confusion", ()) for run in result["seeds"]]
    classes = len(found[0])
    if not 0 < classes <= _MOST_CLASSES:
        return ""
    names = result.get("classes") or list(map(str, range(classes)))
    rows = [
        [names[i], *(str(sum(table[i][j] for table in found)) for j in range(classes))]
        for i in range(classes)
    ]
    seeds = f", {len(found)} seeds together" if len(found) > 1 else ""
    title = f"how often each class (row) is taken for which{seeds}"
    return f"{title}\n{_table([['', *names], *rows])}\n\n"


def transfer(result: Mapping[str, Any], path: str | os.PathLike[str]) -> str:
    """Returns the table printed by `--mode=eval` with `eval.delays` or `eval.lengths`.

    Args:
      result: the content of `path`: split and rows, each with its seeds and baselines, are read.
      path: the file that was written.

    Returns:
      A row a delay or length (and swept value) with its metrics (mean and deviation over seeds) and
      the loss without memory, then the file; no newline at the end.
    """
    key = result.get("varies", "delay")  # earlier versions had delays alone
    split, rows = result["split"], result[f"{key}s"]
    first = rows[0]["seeds"][0]
    metrics = _in_order(result, first[split])
    table = [[key, *first.get("sweep", {}), "seeds", *(m.name for m in metrics), "baseline loss"]]
    for row in rows:
        baseline = value_over(Metric("loss"), [row["baselines"]])
        for swept, entries in by_value(row["seeds"]):
            values = [value_over(metric, [entry[split] for entry in entries]) for metric in metrics]
            swept_values = [f"{value:g}" for value in swept.values()]
            count = seeds_with_value([entry[split] for entry in entries])
            table.append([str(row[key]), *swept_values, count, *values, baseline])
    bounded = "".join(f"\n{name} {text}" for name, text in _cut(rows[0]).items())
    return f"{_table(table)}{bounded}\nwritten to {os.fspath(path)}"


def _wall_time(result: Mapping[str, Any]) -> str:
    """All of it, and where it went; runs of an earlier version did not measure that."""

    def text(seconds: float) -> str:
        return str(datetime.timedelta(seconds=round(seconds)))

    names = {"train_s": "training", "eval_s": "evaluation", "compile_s": "compiling"}
    parts = result.get("seconds", {})
    told = ", ".join(f"{name} {text(parts[key])}" for key, name in names.items() if key in parts)
    return text(result["wall_time_s"]) + (f" ({told})" if told else "")


def _by_value(result: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """A row a swept value: metrics as mean and deviation over its seeds."""
    groups = by_value(runs)
    metrics = _in_order(result, runs[0]["best"]["valid"])  # what is only reported has none of it
    names = [f"{split} {m.name}" for split in ("validation", "test") for m in metrics]
    table = [[*groups[0][0], "seeds", *names]]
    for swept, entries in groups:
        parts = ([run["best"]["valid"] for run in entries], [run["test"] for run in entries])
        values = [value_over(metric, part) for part in parts for metric in metrics]
        shown = [f"{value:g}" for value in swept.values()]
        table.append([*shown, seeds_with_value([run["test"] for run in entries]), *values])
    return _table(table)


def _compared(result: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """A row a swept value but the best one: its test metrics minus those of that."""
    groups = by_value(runs)
    best = next(entries for swept, entries in groups if swept == result["sweep"])
    rows = {}
    for swept, entries in groups:
        if entries is not best:
            rows[named(swept)] = _difference(result, best, entries, "test")
    if not rows:
        return ""
    head = f"test, minus that of {named(result['sweep'])} ([ ]: {CONFIDENCE:.0%} interval):"
    return f"{head}\n{_rows(rows)}"


def _difference(result: Mapping[str, Any], first: Entries, second: Entries, split: str) -> str:
    """Second minus first, e.g. "loss +0.0312 [0.0101, 0.0523] (5 seeds, paired), ..."."""
    metrics = _in_order(result, first[0][split])
    found = differences(first, second, metrics, split)
    return ", ".join(m.labelled(difference_text(m, found[m.name])) for m in metrics)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _stopped(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Who stopped with NaN, or because nothing got better, and when."""

    def told(key: str) -> str:
        return "; ".join(
            f"{named(run.get('sweep', {}) | {'seed': run.get('seed', 0)})} at step {run[key]}"
            for run in runs
            if key in run
        )

    found = {"NaN": told("first_nonfinite_step"), "stopped": told("stopped_step")}
    found["stopped"] += " (train.patience)" if found["stopped"] else ""
    return {name: text for name, text in found.items() if text}


def _cut(result: Mapping[str, Any]) -> dict[str, str]:
    """How much of the splits was evaluated, where that is not all."""
    names = {"train": "training", "valid": "validation", "test": "test"}
    cuts = [
        f"the first {cut['examples']} of {cut['of']} examples of {names[split]}"
        for split, cut in result.get("evaluated", {}).items()
    ]
    return {"evaluated": f"{', '.join(cuts)} (eval.max_examples)"} if cuts else {}


def _baseline(baselines: Mapping[str, float] | None, result: Mapping[str, Any]) -> dict[str, str]:
    """What models score that remember nothing, and trivial predictions of an auxiliary loss."""
    given = baselines or {}
    trivial = {text: given[name] for name, text in _TRIVIAL.items() if name in given}
    task = {n: value for n, value in given.items() if n != "aux_loss" and n not in _TRIVIAL}
    rows = {}
    if task:
        rows["baseline"] = f"{_metrics(result, [task])} (without memory)"
    if trivial:
        values = (f"{text} {Metric('aux_loss').number(value)}" for text, value in trivial.items())
        rows["trivial"] = f"aux loss of {', of '.join(values)}"
    return rows


def _of_step(result: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    return f"{_metrics(result, [run[result['split']]])} (best step {run['best']['step']})"


def _in_order(result: Mapping[str, Any], values: Iterable[str]) -> list[Metric]:
    """The metrics of the values, in their order."""
    values = list(values)
    known = declared(result, values)
    return [known[name] for name in values]


def _metrics(
    result: Mapping[str, Any],
    runs: Sequence[Mapping[str, float | None]],
    interval: bool = False,
) -> str:
    """Returns e.g. "loss 0.2134, accuracy 94.02 %", or with several runs "... ± ... (3 seeds)"."""
    metrics = _in_order(result, runs[0])
    text = ", ".join(metric.labelled(value_over(metric, runs, interval)) for metric in metrics)
    return text + (f" ({seeds_with_value(runs)} seeds)" if len(runs) > 1 else "")


def seeds_with_value(runs: Sequence[Mapping[str, float | None]]) -> str:
    """Returns how many runs have a value, e.g. "3", or "2 of 3" where one stopped with NaN."""
    whole = sum(any(value is not None for value in run.values()) for run in runs)
    return str(whole) if whole == len(runs) else f"{whole} of {len(runs)}"


def value_over(
    metric: Metric, runs: Sequence[Mapping[str, float | None]], interval: bool = False
) -> str:
    """Returns one metric over runs, e.g. "94.02 ± 0.31 % [93.25, 94.79]"; of two, both values."""
    given = [{metric.name: run.get(metric.name)} for run in runs]
    found = over_seeds(given, [metric])[metric.name]
    text = "nan" if found["mean"] is None else metric.number(found["mean"])
    if "values" in found:
        text += f" ({', '.join(map(metric.number, found['values']))})"
    elif "std" in found:
        text += f" ± {metric.number(found['std'])}"
    text = metric.with_unit(text)
    if interval and "interval" in found:
        text += f" [{', '.join(map(metric.number, found['interval']))}]"
    return text


def _rows(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
