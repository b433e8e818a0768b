"""The two blocks of text around a run: what starts, and what came out."""

import datetime
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from clu import parameter_overview

from lrd_jax.reporting import provenance


def startup(
    *,
    config_name: str,
    workdir: str | os.PathLike[str],
    data: str,
    params: Any,
    num_seeds: int = 1,
    baselines: Mapping[str, float] | None = None,
) -> str:
    """Returns the block printed before the first step.

    Args:
      config_name: e.g. "urlstm_pmnist" or "hdetach_copying-H6".
      workdir: the work directory.
      data: the data set in one line, `dataset.describe()`.
      params: the parameters of one seed, without a leading axis of seeds.
      num_seeds: how many seeds train in this program.
      baselines: what a model without memory scores, by metric, where that is known.

    Returns:
      Table of parameters, then config, device, data, baseline and work directory; no newline at the
      end.
    """
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    versions = provenance.versions()
    each = f" (each of {num_seeds} seeds)" if num_seeds > 1 else ""
    rows = {
        "config": config_name,
        "device": f"{provenance.device_description()}, JAX {versions['jax']}",
        "data": data,
        **_baseline(baselines),
        "workdir": os.fspath(workdir),
    }
    return f"{table}{each}\n" + _rows(rows)


def closing(result: Mapping[str, Any], *, config_flag: str, workdir: str | os.PathLike[str]) -> str:
    """Returns the block printed after the last step.

    Args:
      result: the content of `result.json`: best, test, seeds and wall_time_s are read.
      config_flag: the value of `--config`, for the commands that come next.
      workdir: the work directory.

    Returns:
      Best step, metrics (with several seeds: mean and sample standard deviation over them), the
      baseline where the result has one, wall time, and the next commands; no newline at the end.
    """
    runs = result.get("seeds") or [{"best": result["best"], "test": result["test"]}]
    folder = shlex.quote(os.fspath(workdir))
    tensorboard = shlex.quote(os.path.join(os.fspath(workdir), "tensorboard"))
    steps = sorted({run["best"]["step"] for run in runs})
    rows = {
        "best step": str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}",
        "validation": _metrics([run["best"]["valid"] for run in runs]),
        "test": _metrics([run["test"] for run in runs]),
        **_baseline(result.get("baselines")),
        "wall time": str(datetime.timedelta(seconds=round(result["wall_time_s"]))),
        "workdir": os.fspath(workdir),
        "evaluate": f"python -m lrd_jax.main --config={shlex.quote(config_flag)} "
        f"--workdir={folder} --mode=eval",
        "curves": f"tensorboard --logdir={tensorboard}",
    }
    return _rows(rows)


def evaluation(result: Mapping[str, Any], path: str | os.PathLike[str]) -> str:
    """Returns the block printed by `--mode=eval`.

    Args:
      result: the content of `path`: split, overrides and seeds are read.
      path: the file that was written.

    Returns:
      What was evaluated, its metrics (each seed's, then mean and deviation), and the file; no
      newline at the end.
    """
    split, runs = result["split"], result["seeds"]
    rows = {key: str(value) for key, value in result["overrides"].items() if key != "eval.split"}
    if len(runs) > 1:
        rows |= {f"seed {run['seed']}": _of_step(run, split) for run in runs}
        rows[split] = _metrics([run[split] for run in runs])
    else:
        rows[split] = _of_step(runs[0], split)
    return _rows(rows | {"written to": os.fspath(path)})


def transfer(result: Mapping[str, Any], path: str | os.PathLike[str]) -> str:
    """Returns the table printed by `--mode=eval` with `eval.delays`.

    Args:
      result: the content of `path`: split and delays, each with its seeds and baselines, are read.
      path: the file that was written.

    Returns:
      A row a delay with its metrics (mean and deviation over seeds) and the loss without memory,
      then the file; no newline at the end.
    """
    split, rows = result["split"], result["delays"]
    metrics = list(rows[0]["seeds"][0][split])
    table = [["delay", *metrics, "baseline loss"]]
    for row in rows:
        values = [_value(key, [seed[split] for seed in row["seeds"]]) for key in metrics]
        baseline = _value("loss", [row["baselines"]])
        table.append([str(row["delay"]), *values, baseline])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in table
    ]
    return "\n".join([*lines, f"written to {os.fspath(path)}"])


def _baseline(baselines: Mapping[str, float] | None) -> dict[str, str]:
    return {"baseline": _metrics([baselines])} if baselines else {}


def _of_step(run: Mapping[str, Any], split: str) -> str:
    return f"{_metrics([run[split]])} (best step {run['best']['step']})"


def _metrics(runs: Sequence[Mapping[str, float | None]]) -> str:
    """Returns e.g. "loss 0.2134, accuracy 94.02 %", or with several runs "... ± ... (3 seeds)"."""
    parts = [f"{key.replace('_', ' ')} {_value(key, runs)}" for key in runs[0]]
    return ", ".join(parts) + (f" ({len(runs)} seeds)" if len(runs) > 1 else "")


def _value(key: str, runs: Sequence[Mapping[str, float | None]]) -> str:
    """Returns one metric over runs, e.g. "94.02 ± 0.31 %"."""
    # A seed that stopped with NaN has null in `result.json`.
    values = [value for run in runs if (value := run.get(key)) is not None]
    formats = {"accuracy": (100, 2, " %"), "perplexity": (1, 2, "")}
    factor, digits, unit = formats.get(key, (1, 4, ""))
    text = f"{statistics.fmean(values) * factor:.{digits}f}" if values else "nan"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values) * factor:.{digits}f}"
    return text + unit


def _rows(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
