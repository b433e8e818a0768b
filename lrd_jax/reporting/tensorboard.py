"""TensorBoard event files: scalars, the values of a sweep, decoded pictures and samples of text.

`tensorboardX` writes TensorBoard's format without TensorFlow. It imports PyTorch where that is
installed, and cannot be told not to; so it is loaded with the first file that is written, and
`train.tensorboard=False` does without.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import ml_collections

from lrd_jax.errors import RunError

# Keys of `metrics.jsonl` and `result.json` that measure the machine rather than the model: two
# bit-identical runs differ in these alone. TensorBoard shows the numbers under `perf/`.
#   time         when the line was written: UTC, ISO 8601
#   steps_per_s  optimizer steps a second since the line before; evaluation and compiling left out
#   train_s, eval_s, compile_s
#                seconds of training, evaluation and compiling since the run began, also before it
#                was resumed; together in `seconds` of `result.json`
#   wall_time_s  all of it, with start-up
TIMING_KEYS = frozenset(
    {"time", "steps_per_s", "train_s", "eval_s", "compile_s", "wall_time_s", "seconds"}
)
_ALONE: Mapping[str, Any] = MappingProxyType({})


@functools.cache
def _library() -> Any:
    """What is used of tensorboardX."""
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter

    # protobuf makes these classes when the module is imported, so a type checker cannot see them.
    made = vars(event_pb2)
    return SimpleNamespace(
        summary=summary,
        Event=made["Event"],
        SessionLog=made["SessionLog"],
        RecordWriter=RecordWriter,
    )


@contextlib.contextmanager
def disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns the OSError of a full or broken disk into a RunError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"cannot write {path}: {reason}; make room or mend it, then run the same command again "
            "to continue from the last checkpoint"
        ) from error


class _EventFile:
    """One TensorBoard event file, written in the caller's thread.

    `tensorboardX.SummaryWriter` hands events to a thread of its own. When the disk fills up, that
    thread dies and the queue in front of it blocks the training loop for good; and its file name
    has a resolution of a second, so a quick restart would overwrite the file before it.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int | None):
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in the order of their names.
            stamp, nanoseconds = divmod(time.time_ns(), 10**9)
            host = socket.gethostname()
            self._path = folder / f"events.out.tfevents.{stamp}.{host}.{nanoseconds:09d}"
            self._writer = _library().RecordWriter(str(self._path))
        self.add(0, file_version="brain.Event:2")
        # Hides what earlier files of this folder hold from `purge_step` on.
        log = _library().SessionLog
        if purge_step is not None:
            self.add(purge_step, session_log=log(status=log.START))

    def add(self, step: int, **what: Any) -> None:
        event = _library().Event(wall_time=time.time(), step=step, **what)
        with disk_errors(self._path):
            self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        with disk_errors(self._path):
            self._writer.flush()

    def close(self) -> None:
        with disk_errors(self._path):
            self._writer.close()


class TensorBoardWriter:
    """Scalars `train/loss`, `valid/accuracy`, `perf/steps_per_s`, and the config as text.

    Each of several members is a run of its own (`seed_0`, `learning_rate_0.001-seed_0`), so that
    TensorBoard draws them over one another, and its tab "HParams" compares them; a run without
    others stands in the folder itself.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: ml_collections.ConfigDict,
        resume_step: int = 0,
    ):
        """Starts an event file in `folder`.

        Args:
          folder: where TensorBoard's `--logdir` points; created where needed.
          config: shown under TensorBoard's tab "Text".
          resume_step: the step that the run continues from; 0 for a fresh one. TensorBoard no
            longer shows what earlier event files hold past it (for a fresh run: anything).

        Raises:
          RunError: The disk is full or failed.
        """
        self._folder = pathlib.Path(folder)
        self._purge_step = resume_step + 1 if resume_step else 0
        self._files: dict[str, _EventFile] = {}
        self._described: set[str] = set()
        if not resume_step:
            # Four leading spaces: a code block in the Markdown that TensorBoard renders.
            content = json.dumps(config.to_dict(), indent=2)
            text = "\n".join("    " + line for line in content.splitlines())
            self._file({}).add(0, summary=_library().summary.text("config", text))
        self.flush()

    def write(
        self, step: int, split: str, values: Mapping[str, Any], member: Mapping[str, Any] = _ALONE
    ) -> None:
        """Adds every number among the values under `<split>/<key>`, timings under `perf/<key>`.

        Args:
          step: optimizer steps taken.
          split: train, valid or test.
          values: host scalars by name; those that are no numbers are left out.
          member: seed and swept values of the run that they belong to; empty where it is alone.

        Raises:
          RunError: The disk is full or failed.
        """
        if split == "valid" and member and member["seed"] != "mean":
            self._describe(member, values)
        for key, value in values.items():
            number = _as_float(value)
            if number is not None:
                tag = f"{'perf' if key in TIMING_KEYS else split}/{key}"
                self._file(member).add(step, summary=_library().summary.scalar(tag, number))

    def _describe(self, member: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Tells the tab "HParams" which values a member has, once."""
        name = _name(member)
        if name not in self._described:
            self._described.add(name)
            scored = [key for key in values if key not in TIMING_KEYS]
            _add_hparams(self._file(member), member, scored)

    def flush(self) -> None:
        """Waits until every event is on the disk.

        Raises:
          RunError: The disk is full or failed.
        """
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        """Writes what is pending and closes the files; a second call does nothing.

        Raises:
          RunError: The disk is full or failed.
        """
        with contextlib.ExitStack() as stack:  # closes every file, also after a failure of one
            for file in self._files.values():
                stack.callback(file.close)

    def _file(self, member: Mapping[str, Any]) -> _EventFile:
        name = _name(member)
        if name not in self._files:
            self._files[name] = _EventFile(self._folder / name, self._purge_step)
        return self._files[name]


def _as_float(value: Any) -> float | None:
    value = value.item() if hasattr(value, "item") else value
    return float(value) if isinstance(value, int | float) else None


def _name(member: Mapping[str, Any]) -> str:
    """Folder of a member."""
    # The seed last: a list of folders then shows the seeds of one value side by side.
    keys = sorted(member, key=lambda key: key == "seed")
    return "-".join(f"{key}_{member[key]}" for key in keys)


def _add_hparams(file: _EventFile, values: Mapping[str, Any], metrics: Iterable[str]) -> None:
    told = {key: v if isinstance(v, bool | int | float) else str(v) for key, v in values.items()}
    for part in _library().summary.hparams(told, {f"valid/{metric}": 0 for metric in metrics}):
        file.add(0, summary=part)


def write_hparams(
    folder: str | os.PathLike[str], values: Mapping[str, Any], metrics: Iterable[str]
) -> None:
    """Tells TensorBoard's tab "HParams" the values of a trial.

    Args:
      folder: the trial's `tensorboard/`.
      values: what the sweep varied, by key.
      metrics: validation metrics to compare.

    Raises:
      RunError: The disk is full or failed.
    """
    # No purge: what the trial wrote stays in sight.
    with contextlib.closing(_EventFile(pathlib.Path(folder), None)) as file:
        _add_hparams(file, values, metrics)


def show(
    folder: str | os.PathLike[str],
    step: int,
    *,
    text: Mapping[str, str] = _ALONE,
    pictures: Mapping[str, str | os.PathLike[str]] = _ALONE,
) -> None:
    """Shows what an evaluation made, in place of what the same one made before.

    Args:
      folder: for this evaluation alone.
      step: of the parameters.
      text: by tag.
      pictures: PNG files by tag.

    Raises:
      RunError: The disk is full or failed.
    """
    from matplotlib.image import imread

    summary = _library().summary
    with contextlib.closing(_EventFile(pathlib.Path(folder), 0)) as file:
        for tag, content in text.items():
            lines = content.splitlines()
            file.add(step, summary=summary.text(tag, "\n".join("    " + line for line in lines)))
        for tag, path in pictures.items():
            file.add(
                step,
                summary=summary.image(tag, imread(os.fspath(path))[..., :3], dataformats="HWC"),
            )
