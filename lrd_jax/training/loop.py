"""Training of a work directory, from config to `result.json`.

Resuming. The state in a checkpoint is all there is: a batch is a pure function of (seed, step), a
step's random draws of (seed, step), metrics since the last log line travel in the state, and lines
of `metrics.jsonl` past the checkpoint are cut and written again. Precedence: a finished work
directory says so; else its newest whole checkpoint; else a fresh start.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrd_jax.config import checks
from lrd_jax.config.horizon import Horizon, steps_between_evaluations
from lrd_jax.config.members import labels
from lrd_jax.config.paths import expand_user
from lrd_jax.data.pipeline import borders, prefetch, shapes_change
from lrd_jax.errors import Interrupted, UserError
from lrd_jax.evaluation.inspection import Snapshots
from lrd_jax.metrics import CollectedMetric, ReportedMetric, finish, stored
from lrd_jax.reporting import forward, provenance, summary
from lrd_jax.reporting.results import run_result, seed_results, strict
from lrd_jax.reporting.workdir import (
    work_directory,
    write_json,
)
from lrd_jax.runtime import compile_time, interrupts, processes
from lrd_jax.runtime.checkpoints import Checkpoints
from lrd_jax.training import effects, found, longer, warm_start
from lrd_jax.training.agenda import Agenda, every, once
from lrd_jax.training.announce import say_what_starts
from lrd_jax.training.profiler import Profiler
from lrd_jax.training.program import Program, make_program
from lrd_jax.training.recorder import Recorder
from lrd_jax.training.state import TrainState, join_best, split_best
from lrd_jax.training.watch import Pace, Watch


def train(config: Any, workdir: str | Path, config_flag: str = "") -> dict[str, Any]:
    """Trains until the horizon, resuming where the work directory stopped.

    Args:
      config: the run's config.
      workdir: made if missing.
      config_flag: value of `--config`, to be shown and recorded.

    Returns:
      The content of `result.json`.

    Raises:
      UserError: bad input; nothing was changed.
      RunError: NaN loss in every seed, or the disk failed.
      Interrupted: SIGINT or SIGTERM came; the state was saved first.
    """
    checks.validate(config)
    if not isinstance(config_flag, str):
        raise UserError(f"config_flag={config_flag!r}: must be the value of --config, a string")
    place = expand_user(workdir)
    config, notes = effects.judge(config, {})
    return run(config, place, config_flag, notes)


def run(config: Any, workdir: Path, config_flag: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Does the same with a config that was checked and judged, as `main` has it.

    Args:
      config: as `effects.judge` returned it.
      workdir: see `train`.
      config_flag: see `train`.
      notes: lines of `effects.judge`, shown before all else.
    """
    forward.check(config.train.forward)
    found.check_same_everywhere(config, workdir)
    program = warm = None
    if not workdir.exists():  # built before the directory is: bad input leaves none behind
        program = make_program(config)
        warm = warm_start.read(program)
    with work_directory(workdir) if processes.is_first() else contextlib.nullcontext():
        result = processes.from_first(lambda: found.earlier_result(workdir, config))
        if result is not None:
            processes.say(_why_nothing(result, config.train.stop_step))
            processes.say(summary.closing(result, config_flag=config_flag, workdir=workdir))
            return result
        program = program or make_program(config)
        spec = program.dataset.spec
        rewritten = processes.from_first(
            lambda: found.keep_config(workdir, config, config_flag, spec)
        )
        processes.from_first(lambda: found.keep_fit(workdir, program.dataset))
        found.check_visible(workdir)
        checkpoints = Checkpoints(workdir / "checkpoints")
        # Closing waits for the other processes: an error must have reached them by then.
        with contextlib.closing(checkpoints), processes.shared_fate():
            for note in (*notes, *rewritten, *effects.never_reached(config, program.horizon)):
                processes.say(f"note: {note}")
            result = _train(program, workdir, checkpoints, config_flag, warm)
        processes.say(summary.closing(result, config_flag=config_flag, workdir=workdir))
        return result


def _why_nothing(result: dict[str, Any], stop_step: int) -> str:
    """Says why a run that has a result is not trained further."""
    steps, num_steps = result["steps"], result["num_steps"]
    if 0 < stop_step < steps:
        return (
            f"this run has reached step {steps}, beyond train.stop_step={stop_step}: nothing is"
            f" trained, and the result is that of step {steps}\n"
        )
    if steps < num_steps:
        return (
            f"this run is complete up to step {steps} of {num_steps}, where train.stop_step ends"
            " it; raise that, or set it to 0, to train further\n"
        )
    return "this run is complete; choose another --workdir to train again\n"


# ---- The loop ---------------------------------------------------------------------------------


class _Run:
    """A run under way: its state, and what is done with it at some steps.

    Attributes:
      state: after `step` updates.
      step: updates applied.
      unevaluated: whether a signal came between this step and the end of its evaluation.
    """

    def __init__(
        self,
        program: Program,
        checkpoints: Checkpoints,
        recorder: Recorder,
        state: TrainState,
        unevaluated: bool,
        caught: processes.Signal,
    ) -> None:
        self.program, self.state, self.step = program, state, int(state.step)
        self.unevaluated = unevaluated
        self._checkpoints, self._recorder, self._caught = checkpoints, recorder, caught
        self._watch = Watch(program.members, state, recorder)
        self._saved_step = self.step

    def train(self, agenda: Agenda) -> None:
        """The loop: batches, steps; at some steps log, evaluate, save; stop at a signal.

        It ends before the agenda does where patience has ended all members.
        """
        if self.unevaluated:  # trained before, and left in its evaluation
            self.evaluate()
            self.save()
            self.stop_if_asked()
        if self._watch.over:
            return
        longest = self.program.steps_per_call
        stretches = prefetch(self.program.stretch, agenda.stretches(self.step, longest))
        with contextlib.closing(stretches):
            pace, due = Pace(longest), agenda.next_after(self.step)
            for steps, batches in stretches:
                at_once = pace.steps_per_call()
                for first in range(0, len(steps), at_once):
                    count = min(at_once, len(steps) - first)
                    self.state = self.program.advance(self.state, batches, first, count)
                    self.step += count
                    pace.wait(self.state.step, count)
                    if self.step == due:
                        for happen in agenda.at(due):
                            happen()
                        if self._watch.over:
                            for happen in agenda.left_at(due):
                                happen()
                            return self._checkpoints.wait()
                        due = agenda.next_after(due)
                    self.stop_if_asked()
        self._checkpoints.wait()

    @property
    def over(self) -> bool:
        """Whether patience has ended the run."""
        return self._watch.over

    def log(self) -> None:
        """Records the means since the last time; nothing where no member has trained since."""
        sums = jax.device_get(self.state.sums)
        if self._watch.over and not sums["grad_norm"][1].any():
            return
        values = finish(self.program.objective.metrics, sums)
        self._watch.check(self.state)
        self._recorder.train(self.step, values)
        zeros = jax.tree.map(lambda x: x * 0, self.state.sums)
        self.state = self.state.replace(sums=zeros)  # pyright: ignore[reportAttributeAccessIssue]

    def evaluate(self) -> None:
        """Validates, and keeps the parameters where they are the best; left at a signal."""
        self.unevaluated = True
        self._watch.check(self.state)  # also waits for the steps under way
        with contextlib.suppress(Interrupted), self._recorder.evaluating("valid") as shown:
            valid, raw = self.program.validate(self.state, self._leave_if_asked, shown)
            self._recorder.valid(self.step, valid, raw)
            names = [metric.name for metric in stored(self.program.objective.metrics)]
            compared = {name: valid[name].astype(np.float32) for name in names}
            self.state = self.program.update_best(self.state, compared)
            self.unevaluated = False
        if not self.unevaluated and self.program.config.train.patience:
            self._watch.check(self.state)
            if self._watch.over:  # before the save, which is the last one
                self.log()

    def save(self) -> None:
        """Saves, but not in an evaluation that was left: `stop_if_asked` is next, and does."""
        if not self.unevaluated:
            self._save()

    def stop_if_asked(self) -> None:
        """Saves and leaves where a signal came."""
        if self._caught.signum:
            if self._saved_step != self.step:
                self._save()
            self._checkpoints.wait()
            self._recorder.say(f"saved at step {self.step}; the same command continues from there")
            raise Interrupted(self._caught.signum)

    def _save(self) -> None:
        """Saves a checkpoint, after every line before it is on disk; RunError where all is NaN."""
        self._watch.check(self.state)
        # Every line at or before a checkpoint is on disk before it is.
        extra = {
            "metrics_bytes": self._recorder.flush(),
            "wall_time_s": self._recorder.wall_time_s,
            "seconds": self._recorder.seconds,
            "unevaluated": self.unevaluated,
            "first_nonfinite_step": jax.device_get(self.state.first_nonfinite_step).tolist(),
        }
        self._checkpoints.save(self.step, split_best(self.state), extra)
        self._saved_step = self.step

    def _leave_if_asked(self) -> None:
        if self._caught.signum:
            raise Interrupted(self._caught.signum)


def _train(
    program: Program,
    workdir: Path,
    checkpoints: Checkpoints,
    config_flag: str,
    warm: warm_start.Parameters | None,
) -> dict[str, Any]:
    """Restores or begins, trains to the end, and tests the best parameters."""
    config, horizon, objective = program.config, program.horizon, program.objective
    started, compiled = time.monotonic(), compile_time.since_now()
    restored = checkpoints.restore_latest(split_best(program.template()))
    if restored is None:
        state, extra = warm_start.begin(program, workdir, warm), {}
    else:
        state, extra = join_best(restored[0]), restored[1]
    start = int(state.step)
    processes.from_first(lambda: found.say_what_is_missing(workdir, start, extra, config))
    processes.from_first(lambda: longer.go_on(workdir, program, start))
    end = min(config.train.stop_step or horizon.num_steps, horizon.num_steps)
    baselines = objective.baselines(program.dataset, "valid")
    say_what_starts(program, state, workdir, config_flag, baselines)
    if end < start:
        raise UserError(
            f"train.stop_step={end} lies before step {start}, which this run has reached;"
            " raise it, or set it to 0"
        )
    unevaluated = extra.get("unevaluated", False)
    metrics = objective.metrics
    shown = [m.name for m in metrics if not isinstance(m, CollectedMetric | ReportedMetric)]
    recorder = Recorder(
        workdir,
        config,
        members=program.members,
        horizon=horizon,
        start=start,
        end=end,
        evaluated=not unevaluated,
        shown=shown,
        metrics=metrics,
        baselines=baselines,
        earlier_s=extra.get("wall_time_s", 0.0) + time.monotonic() - started,
        earlier=extra.get("seconds", {}),
        compiled=compiled,
    )
    with recorder:
        with interrupts.deferred() as own, processes.agreed(own) as caught:
            under_way = _Run(program, checkpoints, recorder, state, unevaluated, caught)
            agenda = _agenda(under_way, config.train, horizon, end)
            if steps := config.train.inspect_every_steps:
                agenda.entries.insert(0, (every(steps), _inspection(under_way, workdir)))
            if config.train.profile_steps:
                _add_profile(under_way, workdir, agenda)
            under_way.train(agenda)
        if caught.signum:  # it came after the last step; everything is saved
            raise Interrupted(caught.signum)
        trained, end = under_way.state, under_way.step
        with recorder.evaluating("test") as tested:
            test = program.evaluate(trained.best.params, "test", shown=tested)
        recorder.test(end, test)
        recorder.flush()
    best, bad, stopped = jax.device_get(
        (trained.best, trained.first_nonfinite_step, trained.stopped)
    )
    each = seed_results(best, bad, "test", test, program.members, metrics, stopped)
    result = run_result(each, metrics, objective.select) | {
        "wall_time_s": recorder.wall_time_s,
        "seconds": recorder.seconds,
        "device": provenance.device_description(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }
    result |= warm_start.recorded(workdir)
    result |= {"steps": end, "num_steps": horizon.num_steps}
    result |= {"parameters": sum(x[0].size for x in jax.tree.leaves(trained.params))}
    result |= {"ended_by": "train.patience"} if under_way.over else {}
    cuts = {split: cut for split in ("valid", "test") if (cut := program.evaluate.cut(split))}
    result |= {"evaluated": cuts} if cuts else {}
    result |= {"baselines": dict(baselines)} if baselines else {}
    result = strict(result)
    processes.from_first(lambda: write_json(workdir / "result.json", result))
    return result


def _agenda(run: _Run, train: Any, horizon: Horizon, end: int) -> Agenda:
    """What happens at which step, in this order; a new kind of event is one more line."""
    eval_every = steps_between_evaluations(train, horizon)
    entries = [
        (every(train.log_every_steps), run.log),
        (every(eval_every), run.evaluate),
        (every(train.checkpoint_every_steps or eval_every), run.save),
    ]
    # Borders of the calls: of the loss, and of the shape of the batches.
    between = (horizon.pretrain_steps, *borders(run.program.dataset))
    entries += [(once(step), lambda: None) for step in between]
    seeds = [member.seed for member in run.program.members]
    if changes := shapes_change(run.program.dataset, seeds, end):
        entries.append((changes, lambda: None))
    return Agenda(entries, end)


def _add_profile(run: _Run, workdir: Path, agenda: Agenda) -> None:
    """Lets the first process trace `train.profile_steps`; tells where they are not reached."""
    start, stop = run.program.config.train.profile_steps
    if not run.step <= start < stop <= agenda.end:
        processes.say(
            f"note: train.profile_steps=({start}, {stop}) does not lie within the steps that are"
            f" trained now, {run.step} to {agenda.end}: nothing is traced"
        )
        return
    profiler = Profiler(workdir, (start, stop), processes.say)
    end, begin = profiler.entries(lambda: run.step, lambda: run.state.step)
    if not processes.is_first():
        end, begin = ((when, lambda: None) for when, _ in (end, begin))
    agenda.entries.insert(0, end)
    agenda.entries.append(begin)
    if run.step == start and processes.is_first():
        begin[1]()


def _inspection(run: _Run, workdir: Path) -> Callable[[], None]:
    """What writes the gates of the run's parameters at a step; here, before the first one."""
    program = run.program
    if not processes.is_first():
        return lambda: None
    everyone = labels(program.members)
    snapshots = Snapshots(workdir, program.objective, program.dataset, everyone, run.step)
    if run.step == 0:
        snapshots.write(0, run.state.params)
    return lambda: snapshots.write(run.step, run.state.params)
