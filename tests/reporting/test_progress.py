import contextlib
import io
import pty
import termios

import pytest

from lrd_jax.metrics import ACCURACY, NATS
from lrd_jax.reporting import progress as progress_module
from lrd_jax.reporting.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_a_file_gets_few_plain_lines(clock):
    stream = io.StringIO()
    with Progress(100_000, stream=stream) as bar:
        for step in range(10, 100_001, 10):
            clock[0] += 1.0
            bar.update(step, loss=1 / step)
    lines = stream.getvalue().splitlines()
    assert 100 <= len(lines) <= 200
    assert "\r" not in stream.getvalue()
    assert lines[-1] == "step 100000/100000 (100%), loss 1e-05, 10 steps/s, 0:00:00 left"


def test_lines_are_seconds_apart_in_a_short_run(clock):
    stream = io.StringIO()
    bar = Progress(100, stream=stream)
    for step in range(1, 101):
        clock[0] += 0.25
        bar.update(step, loss=1.0)
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        *(f"{step}/100" for step in range(8, 100, 8)),
        "100/100",
    ]


def test_speed_and_remaining_time_count_from_the_resumed_step(clock):
    stream = io.StringIO()
    bar = Progress(1000, start_step=400, stream=stream)
    clock[0] += 5.0
    bar.update(450, loss=0.25, valid_accuracy=0.5)
    assert stream.getvalue() == (
        "step 450/1000 (45%), loss 0.25, valid accuracy 0.5, 10 steps/s, 0:00:55 left\n"
    )
    clock[0] += 5.0
    bar.update(500, loss=0.125)  # the validation metric stays in sight
    assert "loss 0.125, valid accuracy 0.5" in stream.getvalue().splitlines()[1]


def test_messages_into_a_file_are_plain_lines():
    stream = io.StringIO()
    Progress(10, stream=stream).write("checkpoint damaged")
    assert stream.getvalue() == "checkpoint damaged\n"


def test_a_terminal_gets_one_bar_that_starts_at_the_resumed_step():
    stream = Terminal()
    with Progress(10, start_step=4, stream=stream) as bar:
        bar.update(6, loss=0.5)
        bar.write("a message")
        bar.update(10, loss=0.25, valid_accuracy=0.75)
    text = stream.getvalue()
    assert "40%" in text.split("\r")[1] and "4/10" in text.split("\r")[1]
    (message,) = (part for part in text.split("\r") if "a message" in part)
    assert message.strip(" ") == "a message\n"  # on a line of its own, the bar below it
    last = text.split("\r")[-1]
    assert "10/10" in last and "loss 0.25, valid accuracy 0.75" in last and last.endswith("\n")


@pytest.mark.parametrize("size", [(0, 0), (24, 100)])  # (0, 0): a container, not told yet
def test_the_bar_shows_on_a_real_terminal(size):
    leader, follower = pty.openpty()
    with open(follower, "w") as stream:
        termios.tcsetwinsize(follower, size)
        with Progress(10, stream=stream) as bar:
            bar.update(5, loss=0.5)
    text = b""
    with open(leader, "rb", buffering=0) as seen, contextlib.suppress(OSError):  # EIO: the end
        while chunk := seen.read(4096):
            text += chunk
    last = text.decode().rstrip().split("\r")[-1]
    assert "5/10" in last and "loss 0.5" in last and len(last) <= (size[1] or 80)


def test_values_are_shown_as_their_metrics_declare(clock):
    stream = io.StringIO()
    bar = Progress(10, stream=stream, metrics=(ACCURACY, NATS))
    bar.update(10, loss=0.000123456, valid_accuracy=0.923456, baseline_accuracy=0.125, other=2.0)
    assert (
        "loss 0.0001235, valid accuracy 92.35 %, baseline accuracy 12.5 %, other 2, "
        in stream.getvalue()
    )
