"""Printing never ends a program: each in a process with streams of its own."""

import os
import subprocess
import sys

import pytest

from lrd_jax.errors import Interrupted, RunError, UserError
from lrd_jax.runtime import terminal

START = "import os, sys\nfrom lrd_jax.runtime import terminal\nterminal.be_courteous()\n"


def shell(code, redirection="", **environment):
    """Runs code behind a shell's redirection; returns status, stdout and stderr, as bytes."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", START + code],
        capture_output=True,
        env=os.environ | environment,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "out", "err"),
    [
        (">/dev/full", b"", b"output takes no more"),
        ("2>/dev/full", b"error takes no more", b""),
        (">&-", b"", b"err"),
        ("2>&-", b"out", b""),
        (">&- 2>&-", b"", b""),
        (">/dev/full 2>&1", b"", b""),
        ("<&-", b"out", b"err"),
    ],
)
def test_a_stream_that_takes_nothing(redirection, out, err):
    code = "for _ in range(9): print('out', flush=True); print('err', file=sys.stderr)"
    status, stdout, stderr = shell(code, redirection)
    assert status == 0
    assert (out in stdout) and (err in stderr) and b"Traceback" not in stdout + stderr
    assert (stdout + stderr).count(b"takes no more") <= 1


def test_a_pipe_whose_reader_has_left():
    code = "for _ in range(9): print('x' * 9999, flush=True)\nprint('on', file=sys.stderr)"
    done = subprocess.run(
        [
            *("bash", "-c", 'set -o pipefail; "$@" | head -c 1', "bash"),
            *(sys.executable, "-c", START + code),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and done.stdout == b"x"
    warning, last = done.stderr.splitlines()
    assert b"standard output takes no more (Broken pipe)" in warning and last == b"on"


def test_a_file_never_gets_the_number_of_a_closed_stream():
    code = "sys.stdin.read()\nwith open(os.devnull) as file: os._exit(file.fileno() > 2)"
    assert shell(code, "<&- >&- 2>&-")[0] == 1


def test_a_non_blocking_pipe_is_waited_for():
    code = "os.set_blocking(1, False)\nfor _ in range(300): print('x' * 999)\n"
    status, out, err = shell(code, "| (sleep 0.2; cat)")
    assert (status, err) == (0, b"") and out == (b"x" * 999 + b"\n") * 300


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
)
def test_no_character_is_too_much(environment):
    text = "caf\\u00e9 \\u0142 \\u03a9 \\U0001f600 \\udcff"  # the last: a file name's odd byte
    code = f"print('{text}'); print('{text}', file=sys.stderr)"
    status, out, err = shell(code, **environment)
    assert status == 0 and out.startswith(b"caf") and err.startswith(b"caf")
    assert b"Traceback" not in err
    if environment.get("PYTHONIOENCODING") == "utf-8":
        assert out.decode() == "café ł Ω 😀 ?\n"


def test_a_stream_of_somebody_else_is_left_alone():
    code = (
        "import io\nsys.stdout = mine = io.StringIO()\nterminal.be_courteous()\n"
        "os._exit(sys.stdout is not mine)"
    )
    assert shell(code)[0] == 0


# ---- How a program ends ------------------------------------------------------------------------


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            UserError("no such\n  run: name another"),
            2,
            "lrd_jax: error: no such run: name another\n",
        ),
        (RunError("disk full"), 1, "lrd_jax: error: disk full\n"),
        (Interrupted(15), 143, ""),
        (KeyboardInterrupt(), 130, "interrupted: nothing was written\n"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"),
            1,
            "lrd_jax: error: out of memory (RESOURCE_EXHAUSTED: Out of memory); lower it\n",
        ),
        (MemoryError(), 1, "lrd_jax: error: out of memory; lower it\n"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_a_status(error, status, said, capsys):
    assert terminal.status_of(raising(error), lower=lambda: "it") == status
    assert capsys.readouterr() == ("", said)


def test_what_a_user_cannot_cause_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        terminal.status_of(raising(ZeroDivisionError()))
    assert terminal.status_of(lambda: 7) == 0
