"""Trains or evaluates: `python -m lrd_jax.main --config=configs/urlstm_pdigits.py`.

`--mode=eval --workdir=DIR` evaluates a run; it knows its config itself.

Exit status: 0 done; 1 stopped while running; 2 bad input; 128 + signal when interrupted.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from lrd_jax.runtime import address_space, interrupts, terminal

if __name__ == "__main__":  # before the slower imports: Ctrl-C shows no traceback of them
    terminal.be_courteous()
    interrupts.end_at_once()

from absl import app, flags, logging

from lrd_jax.config import checks, command_line, record, source
from lrd_jax.errors import UserError
from lrd_jax.runtime.huge_pages import restart_with_huge_pages
from lrd_jax.runtime.launch import find_launch

_WORKDIR = flags.DEFINE_string("workdir", "", "Default: runs/<config name>[-<argument>].")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval"], "train (resumes), or eval: test the best checkpoint."
)

_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "Several processes: HOST:PORT where process 0 listens."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Several processes: the number of this one, from 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several processes: how many.")


def main(flag: command_line.ConfigFlag) -> None:
    """Runs what the flags ask for."""
    # Orbax is silent unless --verbosity=0.
    terminal.quiet(("absl",) if flags.FLAGS.verbosity < logging.INFO else ())
    launch = find_launch(
        _COORDINATOR_ADDRESS.value, _PROCESS_ID.value, _NUM_PROCESSES.value, os.environ
    )
    if launch is not None and _MODE.value == "eval":
        raise UserError("--mode=eval runs in one process: start it without the others")
    workdir = checks.expand_user(_WORKDIR.value or f"runs/{command_line.config_name(flag.spec)}")
    config: Any = flag.config
    given = flag.overrides
    if _MODE.value == "eval":
        trained = record.load_workdir(workdir)
        given = record.changes(trained, given)
        config = record.eval_overrides(trained, given)
        source.check_made_from(workdir, flag.spec)
    checks.validate(config)

    if config.devices.compilation_cache:
        # XLA tells, as errors and for each program that it loads, of preferences of its compiler
        # that are no features of a processor. Read when JAX loads.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    address_space.check()
    # Imported here, so that a wrong flag is answered before JAX has loaded.
    from lrd_jax.runtime import devices, processes

    with processes.joined(launch):
        training = _MODE.value == "train"
        devices.configure(config, training)  # before anything makes JAX create its client
        from lrd_jax.training import effects

        if not training:
            from lrd_jax.evaluation.own_file import bring_in

            bring_in(workdir, config)
        config, notes = effects.judge(config, given, _MODE.value)
        if training:
            from lrd_jax.training import loop

            loop.run(config, workdir, flag.spec, notes)
        else:
            from lrd_jax.evaluation import commands

            for note in notes:
                print(f"note: {note}")
            commands.run(workdir, config, given)


def _config_of_workdir() -> Any:
    """The config where none is given: an evaluation takes that of the work directory."""
    if _MODE.value != "eval":
        return None
    if not _WORKDIR.value:
        raise UserError(
            "--mode=eval needs the --workdir of a run, or the --config that it was made from"
        )
    return record.load_workdir(checks.expand_user(_WORKDIR.value))


def _parse(argv: Sequence[str]) -> command_line.ConfigFlag:
    try:
        return command_line.parse_flags(argv, find_config=_config_of_workdir)
    except SystemExit:  # --help, after which absl ends with 1
        sys.exit(0)


def _lower() -> str:
    """What takes less memory."""
    if flags.FLAGS.is_parsed() and _MODE.value == "eval":
        return "eval.batch_size, eval.beam_size, eval.delays or eval.sample_tokens"
    return "data.batch_size, model.hidden_size or the length of the sequences"


def run() -> None:
    """Runs `main` under absl; every failure that a user can cause becomes one line."""
    flags.FLAGS.verbosity = logging.WARNING  # JAX, Orbax and TFDS tell every step at INFO
    if not sys.warnoptions:  # python -W shows them; also those of what a config file imports
        warnings.simplefilter("ignore")
    sys.exit(terminal.status_of(lambda: app.run(main, flags_parser=_parse), lower=_lower))


if __name__ == "__main__":
    restart_with_huge_pages()
    run()
