"""What `sweep.py` stands on: its journal, and the programs that it runs."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from lrd_jax.errors import Interrupted, UserError
from lrd_jax.runtime.locks import lock

ROOT = Path(__file__).resolve().parent.parent


def open_study(path: Path) -> Any:
    """Opens the journal, which is made if missing.

    Raises:
      UserError: it cannot be read, or is damaged.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    try:
        _cut_half_line(path)
        for line in path.read_bytes().splitlines() if path.exists() else ():
            if "op_code" not in dict(json.loads(line)):  # before Optuna writes behind it
                raise ValueError(line[:40])
        journal = JournalFileBackend(str(path))
        return optuna.create_study(
            study_name="sweep",
            storage=optuna.storages.JournalStorage(journal),
            direction="maximize",
            load_if_exists=True,
        )
    except OSError as error:
        raise UserError(f"{path} cannot be used ({error.strerror})") from error
    except Exception as error:  # whatever Optuna meets in a line that it did not write
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(
            f"{path} is damaged ({reason}): remove it, and the same command makes it again from the"
            " trials' work directories"
        ) from error


def _cut_half_line(path: Path) -> None:
    """Takes away half a line at the end, which a sweep that was killed has left."""
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):
        whole = text[: text.rfind(b"\n") + 1]
        print(f"{path.name}: half a line at its end is cut off", flush=True)
        with path.open("r+b") as file:
            file.truncate(len(whole))


def run(command: list[str], log: Path) -> int:
    """Runs a command with its output in a file; a signal to the sweep lets it save first."""
    with log.open("a", encoding="utf-8") as output:
        # In a session of its own: Ctrl-C reaches it once, from here.
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except Interrupted:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    return status if status >= 0 else 1  # a run killed from outside has failed


def wait_until_free(workdir: Path) -> None:
    """Waits for the run that a killed sweep may have left behind in a trial's directory."""
    if not (workdir / ".lock").exists():
        return
    with (workdir / ".lock").open("w", encoding="utf-8") as file:
        if not lock(file):
            print(f"{workdir.name} is still running: waiting for its end", flush=True)
            lock(file, wait=True)
