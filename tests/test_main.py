import signal
import subprocess
import sys

import pytest
from absl import flags

from lrd_jax import main
from lrd_jax.errors import Interrupted, RunError, UserError


@pytest.fixture(autouse=True)
def verbosity():
    """Undoes what `run` sets for the program."""
    before = flags.FLAGS["verbosity"].value
    yield
    flags.FLAGS["verbosity"].value = before


@pytest.mark.parametrize(
    ("ending", "status", "printed"),
    [
        (UserError("bad\n  input"), 2, "lrd_jax: error: bad input\n"),
        (RunError("disk full"), 1, "lrd_jax: error: disk full\n"),
        (Interrupted(signal.SIGTERM), 143, ""),
        (
            MemoryError("177 GiB\nwanted"),
            1,
            "lrd_jax: error: out of memory (177 GiB wanted); lower data.batch_size, "
            "model.hidden_size or the length of the sequences\n",
        ),
        (SystemExit(0), 0, ""),
    ],
)
def test_every_ending_has_its_exit_status(monkeypatch, capsys, ending, status, printed):
    def end(*_, **__):
        raise ending

    monkeypatch.setattr(main.app, "run", end)
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == status
    assert capsys.readouterr() == ("", printed)


def test_other_failures_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(main.app, "run", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main.run()


def test_importing_the_program_does_not_load_jax():
    code = "import sys, lrd_jax.main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
