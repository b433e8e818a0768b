"""Metrics on disk: `metrics.jsonl`, the source of truth, and TensorBoard event files beside it."""

import contextlib
import io
import json
import math
import os
import pathlib
import socket
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import ml_collections
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from lrd_jax.errors import RunError

# protobuf makes these classes when the module is imported, so a type checker cannot see them.
_Event: Any = vars(event_pb2)["Event"]
_SessionLog: Any = vars(event_pb2)["SessionLog"]

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


@contextlib.contextmanager
def _disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns the OSError of a full or broken disk into a RunError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"cannot write {path}: {reason}; make room or mend it, then run the same command again "
            "to continue from the last checkpoint"
        ) from error


def _plain(value: Any) -> Any:
    """Returns a host scalar as a JSON value: floats in full precision, non-finite ones as null."""
    if hasattr(value, "item"):  # NumPy scalars and zero-dimensional arrays
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _record(line: bytes) -> dict[str, Any] | None:
    """Returns the record in one line of the file, or None where the line is not a whole one."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:  # garbled JSON or UTF-8
        return None
    if isinstance(record, dict) and isinstance(record.get("step"), int):
        return record
    return None


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads a metrics file, passing over half-written lines, so also that of a running run.

    Args:
      path: a `metrics.jsonl`.

    Returns:
      Its records in order of writing; a non-finite value reads None.

    Raises:
      OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        return [record for record in map(_record, file) if record is not None]


class MetricsFile:
    """Appends to `metrics.jsonl`: one JSON object a line, one line a (step, split, seed).

    Floats are written with all their digits, so bit-identical runs give identical lines apart from
    `TIMING_KEYS`. NaN and infinities, which JSON does not have, become null. A line reaches the
    operating system in one piece as soon as it is written; `flush` makes it survive a power cut.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens `path` for appending, creating it where needed.

        Raises:
          RunError: The file cannot be opened.
        """
        self._path = pathlib.Path(path)
        with _disk_errors(self._path):
            self._file = open(self._path, "ab", buffering=0)

    def truncate_after(self, step: int, evaluated: bool = True) -> None:
        """Keeps exactly the whole lines with `step` at or below this one, `test` lines apart.

        What a run wrote past its last checkpoint is written again when it resumes, and a kill can
        leave half a line. Test lines come after the last checkpoint of all, so they go always. The
        new file replaces the old one by a rename: a kill at any instant leaves either of the two,
        complete.

        Args:
          step: of the checkpoint that the run continues from.
          evaluated: whether validation of that step is behind it; else its lines go too.

        Raises:
          RunError: The disk refused; the file is as it was.
        """
        with _disk_errors(self._path):
            content = self._path.read_bytes()
            kept = b"".join(
                line
                for line in io.BytesIO(content)
                if (record := _record(line)) is not None
                and record["step"] <= step
                and record.get("split") != "test"
                and (evaluated or (record["step"], record.get("split")) != (step, "valid"))
            )
            if kept == content:
                return
            temporary = self._path.with_name(self._path.name + ".tmp")
            with open(temporary, "wb") as file:
                file.write(kept)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
            self._file.close()
            self._file = open(self._path, "ab", buffering=0)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line.

        Args:
          record: host values (Python or NumPy scalars, strings); an integer `step` among them.

        Raises:
          RunError: The disk is full or failed.
        """
        values = {key: _plain(value) for key, value in record.items()}
        line = memoryview(json.dumps(values, allow_nan=False).encode() + b"\n")
        with _disk_errors(self._path):
            while line:  # a nearly full disk takes part of a line before it refuses
                line = line[self._file.write(line) :]

    def flush(self) -> None:
        """Waits until every line written so far is on the disk.

        Raises:
          RunError: The disk is full or failed.
        """
        with _disk_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()


class _EventFile:
    """One TensorBoard event file, written in the caller's thread.

    `tensorboardX.SummaryWriter` hands events to a thread of its own. When the disk fills up, that
    thread dies and the queue in front of it blocks the training loop for good; and its file name
    has a resolution of a second, so a quick restart would overwrite the file before it.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in the order of their names.
            stamp, nanoseconds = divmod(time.time_ns(), 10**9)
            host = socket.gethostname()
            self._path = folder / f"events.out.tfevents.{stamp}.{host}.{nanoseconds:09d}"
            self._writer = RecordWriter(str(self._path))
        self.add(0, file_version="brain.Event:2")
        # Hides what earlier files of this folder hold from `purge_step` on.
        self.add(purge_step, session_log=_SessionLog(status=_SessionLog.START))

    def add(self, step: int, **what: Any) -> None:
        with _disk_errors(self._path):
            self._writer.write(_Event(wall_time=time.time(), step=step, **what).SerializeToString())

    def flush(self) -> None:
        with _disk_errors(self._path):
            self._writer.flush()

    def close(self) -> None:
        with _disk_errors(self._path):
            self._writer.close()


class TensorBoardWriter:
    """Scalars `train/loss`, `valid/accuracy`, `perf/steps_per_s`, and the config as text.

    Each of several members is a run of its own (`seed_0`, `learning_rate_0.001-seed_0`), so that
    TensorBoard draws them over one another; a run without others stands in the folder itself.
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
        if not resume_step:
            # Four leading spaces: a code block in the Markdown that TensorBoard renders.
            content = json.dumps(config.to_dict(), indent=2)
            text = "\n".join("    " + line for line in content.splitlines())
            self._file({}).add(0, summary=summary.text("config", text))
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
        for key, value in values.items():
            number = _as_float(value)
            if number is not None:
                tag = f"{'perf' if key in TIMING_KEYS else split}/{key}"
                self._file(member).add(step, summary=summary.scalar(tag, number))

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
        # The seed last: a list of folders then shows the seeds of one value side by side.
        keys = sorted(member, key=lambda key: key == "seed")
        name = "-".join(f"{key}_{member[key]}" for key in keys)
        if name not in self._files:
            self._files[name] = _EventFile(self._folder / name, self._purge_step)
        return self._files[name]


def _as_float(value: Any) -> float | None:
    value = value.item() if hasattr(value, "item") else value
    return float(value) if isinstance(value, int | float) else None


class Writers:
    """Every record of a run's metrics behind one face."""

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        config: ml_collections.ConfigDict,
        resume_step: int = 0,
        evaluated: bool = True,
    ):
        """Opens `metrics.jsonl` and `tensorboard/` in the work directory.

        Args:
          workdir: an existing folder.
          config: written to TensorBoard as text.
          resume_step: the step of the checkpoint that the run continues from; lines past it are
            cut. 0 is a fresh run, and cuts whatever a run that never saved has left.
          evaluated: whether validation of that step is behind it, not to be written again.

        Raises:
          RunError: The disk is full or failed.
        """
        workdir = pathlib.Path(workdir)
        self._metrics = MetricsFile(workdir / "metrics.jsonl")
        self._metrics.truncate_after(resume_step if resume_step else -1, evaluated)
        self._tensorboard = TensorBoardWriter(workdir / "tensorboard", config, resume_step)

    def write(
        self,
        step: int,
        epoch: float,
        split: str,
        values: Mapping[str, Any],
        member: Mapping[str, Any] = _ALONE,
    ) -> None:
        """Records one set of metrics.

        Args:
          step: optimizer steps taken.
          epoch: passes over the training data, fractional.
          split: train, valid or test.
          values: host scalars by name, e.g. loss, accuracy, steps_per_s.
          member: seed and swept values of the run that they belong to, `members.labels`; empty
            where it is alone.

        Raises:
          RunError: The disk is full or failed.
        """
        record = {"step": step, "epoch": epoch, "split": split, **member}
        self._metrics.write(record | dict(values))
        self._tensorboard.write(step, split, values, member)

    def flush(self) -> None:
        """Waits until everything is on the disk; call it before a checkpoint is written.

        Raises:
          RunError: The disk is full or failed.
        """
        self._metrics.flush()
        self._tensorboard.flush()

    def close(self) -> None:
        """Closes all files; a second call does nothing.

        Raises:
          RunError: The disk is full or failed.
        """
        self._metrics.close()
        self._tensorboard.close()
