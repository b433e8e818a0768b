"""Training of a work directory, from config to `result.json`.

Resuming. The state in a checkpoint is all there is: a batch is a pure function of (seed, step), a
step's random draws of (seed, step), metrics since the last log line travel in the state, and lines
of `metrics.jsonl` past the checkpoint are cut and written again. Precedence: a finished work
directory says so; else its newest whole checkpoint; else a fresh start.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrd_jax.config import checks, command_line, record
from lrd_jax.config.members import Member, labels
from lrd_jax.data.pipeline import prefetch
from lrd_jax.data.spec import DataSpec
from lrd_jax.errors import Interrupted, RunError, UserError
from lrd_jax.metrics import finish, stored
from lrd_jax.reporting import provenance, summary
from lrd_jax.reporting.progress import Progress
from lrd_jax.reporting.writers import Writers
from lrd_jax.runtime import interrupts, processes
from lrd_jax.training.checkpoints import Checkpoints
from lrd_jax.training.program import Metrics, Trainer
from lrd_jax.training.results import run_result, seed_results
from lrd_jax.training.state import TrainState
from lrd_jax.training.workdir import (
    check_unused,
    finished,
    keep_vocabulary,
    work_directory,
    write_atomically,
)


def train(config: Any, workdir: str | Path, config_flag: str = "") -> dict[str, Any]:
    """Trains until the horizon, resuming where the work directory stopped.

    Args:
      config: the run's config.
      workdir: made if missing.
      config_flag: value of `--config`, for what is shown.

    Returns:
      The content of `result.json`.

    Raises:
      UserError: bad input; nothing was changed.
      RunError: NaN loss in every seed, or the disk failed.
      Interrupted: SIGINT or SIGTERM came; the state was saved first.
    """
    checks.validate(config)
    workdir = Path(workdir).expanduser()
    _check_same_everywhere(config, workdir)
    # Built before the directory is: bad input leaves none behind.
    trainer = None if workdir.exists() else Trainer(config)
    with work_directory(workdir) if processes.is_first() else contextlib.nullcontext():
        result = processes.from_first(lambda: _earlier_result(workdir, config))
        if result is not None:
            processes.say("this run is complete; choose another --workdir to train again\n")
            processes.say(summary.closing(result, config_flag=config_flag, workdir=workdir))
            return result
        trainer = trainer or Trainer(config)
        spec = trainer.dataset.spec
        processes.from_first(lambda: _keep_config(workdir, config, spec))
        _check_visible(workdir)
        checkpoints = Checkpoints(workdir / "checkpoints")
        # Closing waits for the other processes: an error must have reached them by then.
        with contextlib.closing(checkpoints), processes.shared_fate():
            result = _train(trainer, workdir, checkpoints, config_flag)
        processes.say(summary.closing(result, config_flag=config_flag, workdir=workdir))
        return result


def _check_same_everywhere(config: Any, workdir: Path) -> None:
    """Raises UserError where the processes of a run were started with different flags."""
    text, place = processes.from_first(lambda: [record.to_json(config), str(workdir)])
    lines = record.differences(record.from_json(text), config)
    lines = [line for line in lines if not line.startswith("data.data_dir:")]  # a local disk
    if place != str(workdir):
        lines.append(f"--workdir: {place} -> {workdir}")
    if lines:
        raise UserError(
            f"this process was started with other flags than process 0 ({'; '.join(lines)})"
        )


def _earlier_result(workdir: Path, config: Any) -> dict[str, Any] | None:
    """What `finished` returns; refuses the work directory of another config."""
    known = workdir / "config.json"
    if not known.exists():
        return None
    record.check_same(record.load_workdir(workdir), config)
    return finished(workdir, config)


def _keep_config(workdir: Path, config: Any, spec: DataSpec) -> None:
    known = workdir / "config.json"
    if not known.exists():
        check_unused(workdir)
        text = record.to_json(config, versions=provenance.versions(), commit=provenance.commit())
        write_atomically(known, text)
    keep_vocabulary(workdir, spec.vocabulary)


_FILE_SYSTEM_S = 30  # within which a new file shows on the other hosts of a network file system


def _check_visible(workdir: Path) -> None:
    """Raises UserError where this process does not see the work directory of process 0."""
    deadline = time.monotonic() + _FILE_SYSTEM_S
    while not (workdir / "config.json").exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"the work directory {workdir} of process 0 cannot be seen from here; choose a"
                " --workdir on a file system that all processes share"
            )
        time.sleep(0.5)


def _train(
    trainer: Trainer, workdir: Path, checkpoints: Checkpoints, config_flag: str
) -> dict[str, Any]:
    """The loop: batch -> step -> log -> evaluate -> save, in that order."""
    config, horizon = trainer.config, trainer.horizon
    started = time.monotonic()
    earlier_s = 0.0

    # ---- State: restored or fresh -------------------------------------------------------------
    restored = checkpoints.restore_latest(trainer.template())
    unevaluated = False  # a signal came between the newest step and its evaluation
    if restored is None:
        state, start = trainer.init(), 0
    else:
        state, extra = restored
        start, earlier_s = int(state.step), extra["wall_time_s"]
        unevaluated = extra.get("unevaluated", False)
    baselines = trainer.objective.baselines(trainer.dataset, "valid")
    one_seed = jax.tree.map(lambda x: x[0], jax.device_get(state.params))
    processes.say(
        summary.startup(
            config_name=command_line.config_name(config_flag) if config_flag else "",
            workdir=workdir,
            data=trainer.dataset.describe(),
            params=one_seed,
            num_members=len(trainer.members),
            baselines=baselines,
            metrics=trainer.objective.metrics,
        )
    )
    if horizon.pretrain_steps:
        processes.say(f"steps 1 to {horizon.pretrain_steps}: the auxiliary loss alone")
    if start:
        processes.say(f"resuming at step {start} of {horizon.num_steps}")
    if 0 < config.train.stop_step < horizon.num_steps:
        processes.say(f"will stop at step {config.train.stop_step} (train.stop_step)")

    end = min(config.train.stop_step or horizon.num_steps, horizon.num_steps)
    if end < start:
        raise UserError(
            f"train.stop_step={end} lies before step {start}, which this run has reached;"
            " raise it, or set it to 0"
        )

    # ---- What is due when ---------------------------------------------------------------------
    eval_every = config.train.eval_every_steps or horizon.steps_per_epoch
    save_every = config.train.checkpoint_every_steps or eval_every
    metrics = trainer.objective.metrics
    shown = [metric.name for metric in metrics if metric.name in ("loss", "aux_loss")]
    derived = [metric.name for metric in metrics if metric not in stored(metrics)]
    baseline = {f"baseline_{name}": baselines[name] for name in shown if name in baselines}
    log_every = config.train.log_every_steps

    def write(step: int, split: str, values: Metrics, **timing: float) -> None:
        for index, label in enumerate(labels(trainer.members)):
            each = {name: float(value[index]) for name, value in values.items()}
            epoch = step / horizon.steps_per_epoch
            writers.write(step, epoch, split, each | timing, label)

    def save(step: int) -> None:
        writers.flush()  # every line at or before a checkpoint is on disk before it is
        wall_time_s = earlier_s + time.monotonic() - started
        extra = {"wall_time_s": wall_time_s, "unevaluated": unevaluated}
        checkpoints.save(step, state, extra)

    with contextlib.ExitStack() as stack:
        writers = progress = _Silent()
        if processes.is_first():
            writers = Writers(workdir, config, resume_step=start, evaluated=not unevaluated)
            stack.callback(writers.close)
            progress = stack.enter_context(Progress(end, start, metrics=metrics))
        watch = _Watch(trainer.members, state, progress)
        batches = prefetch(trainer.batch, start, end)
        stack.enter_context(contextlib.closing(batches))
        logged_at, logged_step, saved_step = time.monotonic(), start, start
        pace = _Pace()

        # ---- Loop -----------------------------------------------------------------------------
        with interrupts.deferred() as own, processes.agreed(own) as caught:

            def leave_if_stopping() -> None:
                if caught.signum:
                    raise Interrupted(caught.signum)

            # No batch for a step that was trained before and lacks its evaluation.
            again = [(start - 1, None)] if unevaluated else []
            for index, batch in itertools.chain(again, batches):
                step = index + 1
                last = step == end
                if batch is not None:
                    state = trainer.train_step(state, batch)
                    pace.wait(state.step)
                    unevaluated = step % eval_every == 0 or last
                    if step % log_every == 0 or last:
                        values = finish(metrics, jax.device_get(state.sums))
                        watch.check(state)
                        now = time.monotonic()
                        rate = (step - logged_step) / max(now - logged_at, 1e-9)
                        write(step, "train", values, steps_per_s=rate)
                        latest = {n: _shown(values[n]) for n in (*shown, *derived)}
                        progress.update(step, **latest, **baseline)
                        state = state.replace(sums=jax.tree.map(lambda x: x * 0, state.sums))
                        logged_at, logged_step = now, step
                if unevaluated:
                    watch.check(state)  # also waits for the steps under way
                    began = time.monotonic()
                    with contextlib.suppress(Interrupted):
                        valid = trainer.evaluate(state.params, "valid", leave_if_stopping)
                        write(step, "valid", valid)
                        progress.update(step, **{f"valid_{k}": _shown(v) for k, v in valid.items()})
                        compared = {
                            metric.name: valid[metric.name].astype(np.float32)
                            for metric in stored(metrics)
                        }
                        state = trainer.update_best(state, compared)
                        unevaluated = False
                    logged_at += time.monotonic() - began  # steps_per_s is of training alone
                if not unevaluated and (step % save_every == 0 or last):
                    watch.check(state)
                    save(step)
                    saved_step = step
                if caught.signum:
                    if saved_step != step:
                        watch.check(state)
                        save(step)
                    checkpoints.wait()
                    progress.write(f"saved at step {step}; the same command continues from there")
                    raise Interrupted(caught.signum)
            checkpoints.wait()
        if caught.signum:  # it came after the last step; everything is saved
            raise Interrupted(caught.signum)

        # ---- The best parameters on the test split --------------------------------------------
        test = trainer.evaluate(state.best.params, "test")
        write(end, "test", test)
        writers.flush()
    wall_time_s = earlier_s + time.monotonic() - started
    # Without the carry, of which a process holds only its own rows.
    trained = jax.device_get(state.replace(carry=()))  # pyright: ignore[reportAttributeAccessIssue]
    each = seed_results(trained, "test", test, trainer.members, metrics)
    result = run_result(each, metrics, trainer.objective.select) | {
        "wall_time_s": wall_time_s,
        "device": provenance.device_description(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    result |= {"steps": end, "num_steps": horizon.num_steps}
    result |= {"baselines": dict(baselines)} if baselines else {}
    text = json.dumps(result, indent=2) + "\n"
    processes.from_first(lambda: write_atomically(workdir / "result.json", text))
    return result


# ---- Parts of the loop ------------------------------------------------------------------------

_AHEAD_S = 1.0  # how far the loop may run ahead of the devices


class _Pace:
    """Keeps the loop about a second ahead of the devices, however long a step takes.

    Calling a step only queues it. Dozens fit into the queue, and who wants to stop at a signal
    would first have to wait for all of them.
    """

    def __init__(self) -> None:
        self._since, self._stride, self._left = time.monotonic(), 1, 1

    def wait(self, output: jax.Array) -> None:
        """Waits, in some of the calls, for the step that makes this output."""
        self._left -= 1
        if self._left:
            return
        jax.block_until_ready(output)
        now = time.monotonic()
        step_s = max((now - self._since) / self._stride, 1e-6)
        self._stride = max(1, min(2 * self._stride, int(_AHEAD_S / step_s)))
        self._since, self._left = now, self._stride


def _shown(values: np.ndarray) -> float:
    """One number for the progress bar: the mean over the seeds that are alive."""
    alive = values[np.isfinite(values)]
    return float(alive.mean()) if len(alive) else math.nan


class _Watch:
    """Looks after members whose loss or gradient stops being finite."""

    def __init__(
        self, members: list[Member], state: TrainState, progress: Progress | _Silent
    ) -> None:
        """Takes note of those that were frozen before: they have been reported."""
        self._members, self._progress = members, progress
        self._known = jax.device_get(state.first_nonfinite_step) >= 0

    def check(self, state: TrainState) -> None:
        """Reports each newly frozen member in a line; ends the run when no other is left."""
        steps = jax.device_get(state.first_nonfinite_step)
        if (steps >= 0).all():
            where = (
                f"at step {steps[0]}"
                if len(steps) == 1
                else "in every seed, at steps " + ", ".join(str(step) for step in steps)
            )
            raise RunError(
                f"loss or gradient became NaN or infinite {where}; the last good checkpoint is"
                " kept. Lower optim.learning_rate or optim.clip_norm, and choose another --workdir"
            )
        for index in np.flatnonzero((steps >= 0) & ~self._known):
            self._progress.write(
                f"lrd_jax: warning: loss or gradient of {self._members[index]} became NaN or"
                f" infinite at step {steps[index]}; it stays as it was before, the others go on"
            )
        self._known = steps >= 0


class _Silent:
    """Writers and progress of a process that writes nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None
