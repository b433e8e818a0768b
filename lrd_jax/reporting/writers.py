"""Metrics on disk: `metrics.jsonl`, the source of truth, and what else they are written to."""

import io
import json
import math
import os
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lrd_jax.reporting.forward import Forwarder
from lrd_jax.reporting.tensorboard import TIMING_KEYS, TensorBoardWriter, disk_errors

__all__ = ["TIMING_KEYS", "MetricsFile", "TensorBoardWriter", "Writers", "read_metrics"]

_ALONE: Mapping[str, Any] = MappingProxyType({})


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
        with disk_errors(self._path):
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
        with disk_errors(self._path):
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
        with disk_errors(self._path):
            while line:  # a nearly full disk takes part of a line before it refuses
                line = line[self._file.write(line) :]

    def flush(self) -> int:
        """Waits until every line written so far is on the disk; returns the size in bytes.

        Raises:
          RunError: The disk is full or failed.
        """
        with disk_errors(self._path):
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()


class Writers:
    """Every record of a run's metrics behind one face."""

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        config: Any,
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
        self._tensorboard = None
        if config.train.tensorboard:
            self._tensorboard = TensorBoardWriter(workdir / "tensorboard", config, resume_step)
        service = config.train.forward
        self._forward = None if service == "none" else Forwarder(service, workdir, config)

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
        if self._tensorboard:
            self._tensorboard.write(step, split, values, member)
        if self._forward:
            self._forward.write(step, split, values, member)

    def write_mean(
        self, step: int, split: str, values: Mapping[str, Any], swept: Mapping[str, Any] = _ALONE
    ) -> None:
        """Shows the mean over seeds in TensorBoard, as a run called `seed_mean`, and forwards it.

        Args:
          step: optimizer steps taken.
          split: train, valid or test.
          values: host scalars by name.
          swept: the values in a sweep that the seeds have in common.

        Raises:
          RunError: The disk is full or failed.
        """
        if self._tensorboard:
            self._tensorboard.write(step, split, values, {**swept, "seed": "mean"})
        if self._forward:
            self._forward.write(step, split, values, swept)

    def flush(self) -> int:
        """Waits until everything is on the disk; call it before a checkpoint is written.

        Returns:
          The size of `metrics.jsonl` in bytes.

        Raises:
          RunError: The disk is full or failed.
        """
        if self._tensorboard:
            self._tensorboard.flush()
        if self._forward:
            self._forward.flush()
        return self._metrics.flush()

    def close(self) -> None:
        """Closes all files; a second call does nothing.

        Raises:
          RunError: The disk is full or failed.
        """
        self._metrics.close()
        if self._forward:
            self._forward.close()
        if self._tensorboard:
            self._tensorboard.close()
