"""Records for Weights & Biases or trackio, beside `metrics.jsonl`, which stays the truth.

Both have the same three calls: `init`, `log`, `finish`. Whatever goes wrong in them costs a warning
and the rest of what would have been forwarded, never the run.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrd_jax.config.members import named
from lrd_jax.config.values import flatten
from lrd_jax.errors import UserError, one_line
from lrd_jax.reporting.tensorboard import TIMING_KEYS

_log = logging.getLogger(__name__)


def check(service: str) -> None:
    """Raises UserError where `train.forward` names a package that is not installed."""
    if service == "none":
        return
    found = find_spec(service)
    if found is None or found.origin is None:  # a folder of that name, as wandb makes one, is none
        raise UserError(
            f"train.forward={service} needs a package that is not installed:"
            f" pip install 'lrd-jax[{service}]', or set it to none"
        )


class Forwarder:
    """Hands the numbers of each step to a service, in one call a step.

    A number is called `<split>/<metric>`; of one of several members the member's name follows, and
    the plain name is then the mean over seeds. What measures the machine is under `perf/`. A run
    that goes on is the same run there: its name, that of the work directory with six digits drawn
    once, is kept in `forward.json`. What is repeated after a kill is sent again.
    """

    def __init__(self, service: str, workdir: str | os.PathLike[str], config: Any) -> None:
        """Begins the run there, or goes on with it.

        Args:
          service: `wandb` or `trackio`.
          workdir: an existing folder.
          config: the run's config.
        """
        self._service, self._broken = service, False
        self._step, self._values = 0, {}
        self._module: Any = None

        def begin() -> None:
            self._module = importlib.import_module(service)
            name = _name(Path(workdir))
            own = {"id": name, "dir": os.fspath(workdir)} if service == "wandb" else {}
            project = os.environ.get(f"{service.upper()}_PROJECT", "lrd_jax")
            self._module.init(
                project=project, name=name, config=flatten(config), resume="allow", **own
            )

        self._guarded(begin)

    def write(
        self, step: int, split: str, values: Mapping[str, Any], member: Mapping[str, Any]
    ) -> None:
        """Takes one record; numbers alone, and those that are finite."""
        if step != self._step:
            self.flush()
        suffix = f"/{named(member)}" if member else ""
        self._step = step
        for name, value in values.items():
            if not isinstance(value, str) and math.isfinite(value):
                of_machine = name in TIMING_KEYS
                key = f"perf/{name}" if of_machine else f"{split}/{name}{suffix}"
                self._values[key] = float(value)

    def flush(self) -> None:
        """Sends what was taken so far."""
        step, values = self._step, self._values
        self._values = {}
        if values:
            self._guarded(lambda: self._module.log(values, step=step))

    def close(self) -> None:
        """Sends the rest and ends the run there; a second call does nothing."""
        self.flush()
        if self._module is not None:
            self._guarded(self._module.finish)
        self._broken = True

    def _guarded(self, call: Callable[[], Any]) -> None:
        """Calls a service; the first error is told, and it is not called again."""
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # whatever a service raises
            self._broken = True
            _log.warning(
                "train.forward=%s: %s; no more is forwarded, and metrics.jsonl has every record",
                *(self._service, one_line(f"{type(error).__name__}: {error}")[:200]),
            )


def _name(workdir: Path) -> str:
    """The name of the run of a work directory, drawn when it is first asked for."""
    path = workdir / "forward.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged
        name = f"{workdir.resolve().name}-{secrets.token_hex(3)}"
        path.write_text(json.dumps({"run": name}) + "\n", encoding="utf-8")
        return name
