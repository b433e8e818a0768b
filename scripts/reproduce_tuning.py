"""What `reproduce.py` does before a comparison and after it: learning rates, and other lengths."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reproduce_experiments import Experiment

from lrd_jax.errors import UserError

RATE = "optim.learning_rate"
SEED = 0  # tries the rates; those compared are the next ones


def tune(
    experiment: Experiment,
    workdirs: dict[str, Path],
    steps: dict[str, int],
    run: Callable[[tuple[str, ...], Path], None],
) -> tuple[Experiment, dict[str, Any]]:
    """Chooses the learning rate of every variant, all with the same effort.

    Each of `experiment.rates` is trained for a quarter of the steps, their schedule that of the
    whole, by a seed that is not compared; the rate that is best on validation data is taken.

    Args:
      experiment: its variants hold all overrides.
      workdirs: variant -> where its trial is kept; a finished one is not run again.
      steps: variant -> steps of its whole training.
      run: trains with these overrides in that folder, to its end.

    Returns:
      The experiment with the chosen rates and seeds; variant -> `learning_rate`, `seed`, `steps`
      and `tried` (learning rate and validation scores of each).
    """
    chosen: dict[str, tuple[str, ...]] = {}
    found: dict[str, Any] = {}
    for label, overrides in experiment.variants.items():
        quarter = max(1, steps[label] // 4)
        own = tuple(o for o in overrides if o.partition("=")[0] != "num_seeds")
        trial = (f"seed={SEED}", f"sweep.learning_rate={experiment.rates}")
        run((*own, *trial, f"train.stop_step={quarter}"), workdirs[label])
        text = (workdirs[label] / "result.json").read_text(encoding="utf-8")
        result = json.loads(text)
        rate = result["sweep"]["learning_rate"]
        tried = [
            {"learning_rate": value["sweep"]["learning_rate"], "valid": value["best"]["valid"]}
            for value in result["by_value"]
        ]
        rates = ", ".join(f"{r:g}" for r in experiment.rates)
        print(f"{label}: {RATE}={rate:g} of {rates}", flush=True)
        chosen[label] = (*overrides, f"{RATE}={rate!r}", f"seed={SEED + 1}")
        found[label] = {"learning_rate": rate, "seed": SEED, "steps": quarter, "tried": tried}
    return dataclasses.replace(experiment, variants=chosen), found


def check_rates(experiment: Experiment, extra: Sequence[str]) -> Experiment:
    """Leaves the choice out where `--set` makes it, and tells; UserError where it sets the seed."""
    given = {override.partition("=")[0] for override in extra}
    if not experiment.rates or RATE in given:
        if experiment.rates:
            print(f"{RATE} is given: no others are tried")
        return dataclasses.replace(experiment, rates=())
    if "seed" in given:
        raise UserError(f"--set=seed: seed {SEED} tries learning rates, the next ones are compared")
    return experiment


def tested_at(workdir: Path) -> dict[str, Any]:
    """What an evaluation at other lengths found: the content of `eval/transfer.json`."""
    return json.loads((workdir / "eval" / "transfer.json").read_text(encoding="utf-8"))
