"""Signals: noted, ended at once, passed on; each in a process of its own."""

import signal
import subprocess
import sys

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM]


_IMPORTS = "import os, signal, sys\nfrom lrd_jax.runtime import interrupts\n"


def run(code):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, signal, sys\nfrom lrd_jax.runtime import interrupts\n" + code,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("signum", SIGNALS)
def test_outside_of_the_loop_a_signal_ends_the_process(signum):
    done = run(f"interrupts.end_at_once(); os.kill(os.getpid(), {int(signum)}); print('on')")
    assert (done.returncode, done.stdout) == (128 + signum, "")
    assert done.stderr.count("\n") == 2 and f"stopped by {signum.name}" in done.stderr


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_ends(signum):
    done = run(
        "interrupts.end_at_once()\n"
        "with interrupts.deferred() as caught:\n"
        "    assert caught.signum == 0\n"
        f"    os.kill(os.getpid(), {int(signum)})\n"
        f"    assert caught.signum == {int(signum)}\n"
        "    print('on', flush=True)\n"
        f"    os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
        "    print('never')\n"
    )
    assert (done.returncode, done.stdout) == (143, "on\n")
    assert "stopping: saving a checkpoint first" in done.stderr


def test_handlers_are_given_back():
    code = "before = signal.getsignal(signal.SIGINT)\n"
    code += "with interrupts.deferred():\n    print(signal.getsignal(signal.SIGINT) is before)\n"
    code += "print(signal.getsignal(signal.SIGINT) is before)"
    assert run(code).stdout == "False\nTrue\n"


def test_a_child_is_told_and_waited_for():
    child = (
        "import os, signal, sys, time; from lrd_jax.runtime import interrupts\n"
        "with interrupts.deferred() as caught:\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "    while not caught.signum: time.sleep(0.01)\n"
        "    sys.exit(128 + caught.signum)\n"
    )
    done = run(f"sys.exit(interrupts.call([sys.executable, '-c', {child!r}]))")
    assert done.returncode == 143 and "Traceback" not in done.stderr
    killed = "import os; os.kill(os.getpid(), 9)"
    assert run(f"sys.exit(interrupts.call([sys.executable, '-c', {killed!r}]))").returncode == 137
