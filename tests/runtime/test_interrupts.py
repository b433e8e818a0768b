"""Signals: noted, ended at once, passed on; each in a process of its own."""

import os
import pty
import signal
import subprocess
import sys

import pytest

INSISTING = [signal.SIGINT, signal.SIGTERM]
WARNINGS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]
SIGNALS = INSISTING + WARNINGS


def run(code, ignored=""):
    return subprocess.run(
        # A shell, as `nohup` does: what it ignores, its program ignores at the start.
        [
            *("sh", "-c", f"trap '' {ignored}; exec \"$@\"" if ignored else 'exec "$@"', "sh"),
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


@pytest.mark.parametrize("signum", INSISTING)
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
    code = "before = [signal.getsignal(s) for s in interrupts.SIGNALS]\n"
    code += "now = lambda: [signal.getsignal(s) for s in interrupts.SIGNALS]\n"
    code += "with interrupts.deferred():\n    print(any(a is b for a, b in zip(now(), before)))\n"
    code += "print(now() == before)"
    assert run(code).stdout == "False\nTrue\n"


@pytest.mark.parametrize("signum", WARNINGS)
def test_a_warning_that_comes_again_ends_nothing(signum):
    """The shell and the kernel both tell of a lost terminal; SIGXCPU comes every second."""
    done = run(
        "interrupts.end_at_once()\n"
        "with interrupts.deferred() as caught:\n"
        f"    for s in 3 * [{int(signum)}] + [signal.SIGTERM]:\n"
        "        os.kill(os.getpid(), s)\n"
        f"        assert caught.signum == {int(signum)}\n"
        "    print('on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('never')\n"
    )
    assert (done.returncode, done.stdout) == (130, "on\n")
    assert done.stderr.count("saving a checkpoint first") == 1


def test_what_others_chose_is_kept():
    """Ignored at the start (nohup), or handled by a program that calls us."""
    done = run(
        "signal.signal(signal.SIGUSR2, lambda *_: print('theirs'))\n"
        "interrupts.end_at_once()\n"
        "with interrupts.deferred() as caught:\n"
        "    for s in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2): os.kill(os.getpid(), s)\n"
        "    assert caught.signum == 0\n"
        "sys.exit(interrupts.call([sys.executable, '-c',"
        " 'import os, signal; os.kill(os.getppid(), signal.SIGINT); print(7)']))\n",
        ignored="INT HUP",
    )
    assert (done.returncode, done.stdout) == (0, "theirs\n7\n"), done.stderr


def test_in_another_thread_signals_are_left_alone():
    done = run(
        "import threading\n"
        "def work():\n"
        "    interrupts.end_at_once()\n"
        "    with interrupts.deferred() as caught:\n"
        "        print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, caught.signum)\n"
        "    print(interrupts.call([sys.executable, '-c', 'raise SystemExit(5)']))\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
    )
    assert (done.returncode, done.stdout) == (0, "True 0\n5\n"), done.stderr


def test_a_lost_terminal_does_not_stop_what_is_being_saved(tmp_path):
    """What is printed after the hang-up goes nowhere; written to the terminal it would fail."""
    code = (
        "import os, signal, sys, time\n"
        "os.open(os.ttyname(0), os.O_RDWR)\n"  # makes it the terminal of this session
        "from lrd_jax.runtime import interrupts\n"
        "with interrupts.deferred() as caught:\n"
        "    print('ready', flush=True)\n"
        "    while not caught.signum: time.sleep(0.01)\n"
        "    print('more', flush=True); print('more', file=sys.stderr, flush=True)\n"
        f"    open({str(tmp_path / 'saved')!r}, 'w').write(str(caught.signum))\n"
    )
    terminal, end = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), end)
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **streams)
    try:
        os.close(end)
        assert os.read(terminal, 5) == b"ready"
    finally:
        os.close(terminal)
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGHUP))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_child_is_told_and_waited_for(signum):
    child = (
        "import os, signal, sys, time; from lrd_jax.runtime import interrupts\n"
        "with interrupts.deferred() as caught:\n"
        f"    os.kill(os.getppid(), {int(signum)})\n"
        "    while not caught.signum: time.sleep(0.01)\n"
        "    sys.exit(128 + caught.signum)\n"
    )
    done = run(f"sys.exit(interrupts.call([sys.executable, '-c', {child!r}]))")
    assert done.returncode == 128 + signum and "Traceback" not in done.stderr
    killed = "import os; os.kill(os.getpid(), 9)"
    assert run(f"sys.exit(interrupts.call([sys.executable, '-c', {killed!r}]))").returncode == 137
