"""What a run prints before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from lrd_jax.config import command_line
from lrd_jax.reporting import header, summary
from lrd_jax.runtime import processes
from lrd_jax.training.program import Program
from lrd_jax.training.state import TrainState


def say_what_starts(
    program: Program, state: TrainState, workdir: Path, config_flag: str, baselines: Any
) -> None:
    """Prints model, data, devices and what the run begins with.

    Args:
      program: that trains.
      state: before the first step, or as it was restored.
      workdir: of the run.
      config_flag: the value of `--config`; "": there was none.
      baselines: what a model without memory scores.
    """
    horizon, start = program.horizon, int(state.step)
    stop_step = program.config.train.stop_step
    one_seed = jax.tree.map(lambda x: x[0], jax.device_get(state.params))
    processes.say(
        summary.startup(
            config_name=command_line.config_name(config_flag) if config_flag else "",
            workdir=workdir,
            model=header.model_line(program.config, sum(x.size for x in jax.tree.leaves(one_seed))),
            data=program.dataset.describe(),
            params=one_seed,
            num_members=len(program.members),
            baselines=baselines,
            metrics=program.objective.metrics,
        )
    )
    if weights := getattr(program.objective, "spec", program.dataset.spec).class_weights:
        processes.say(
            f"training loss: a label counts {min(filter(None, weights)):.3g} to {max(weights):.3g}"
            " by its class (data.class_weights); validation and test count all labels alike"
        )
    if horizon.pretrain_steps:
        processes.say(f"steps 1 to {horizon.pretrain_steps}: the auxiliary loss alone")
    if start:
        processes.say(f"resuming at step {start} of {horizon.num_steps}")
    if 0 < stop_step < horizon.num_steps:
        processes.say(f"will stop at step {stop_step} (train.stop_step)")
