import contextlib
import datetime
import io
import pty
import termios

import pytest

from lrd_jax.metrics import ACCURACY, NATS
from lrd_jax.reporting import progress as progress_module
from lrd_jax.reporting.progress import Part, Progress, fit


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
    stamp, last = lines[-1].split(" ", 1)
    assert last == "step 100000/100000 (100%), loss 1e-05, 10 steps/s, 0:00:00 left"
    at = datetime.datetime.fromisoformat(stamp)
    assert abs(datetime.datetime.now(datetime.UTC) - at) < datetime.timedelta(minutes=1)


def test_lines_are_seconds_apart_in_a_short_run(clock):
    stream = io.StringIO()
    bar = Progress(100, stream=stream)
    for step in range(1, 101):
        clock[0] += 0.25
        bar.update(step, loss=1.0)
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == [
        *(f"{step}/100" for step in range(8, 100, 8)),
        "100/100",
    ]


def test_speed_and_remaining_time_count_from_the_resumed_step(clock):
    stream = io.StringIO()
    bar = Progress(1000, start_step=400, stream=stream)
    clock[0] += 5.0
    bar.update(450, loss=0.25, valid_accuracy=0.5)
    assert stream.getvalue().partition(" ")[2] == (
        "step 450/1000 (45%), loss 0.25, valid accuracy 0.5, 10 steps/s, 0:00:55 left\n"
    )
    clock[0] += 5.0
    bar.update(500, loss=0.125)  # the validation metric stays in sight
    assert "loss 0.125, valid accuracy 0.5" in stream.getvalue().splitlines()[1]


def test_a_value_of_an_earlier_step_says_of_which(clock):
    stream = io.StringIO()
    bar = Progress(1000, stream=stream, metrics=(ACCURACY,))
    for step, values in (
        (40, {"loss": 0.5, "baseline_loss": 2.0}),
        (50, {"valid_loss": 0.75, "valid_accuracy": 0.5}),
        (60, {"loss": 0.25, "baseline_loss": 2.0}),
    ):
        clock[0] += 5.0
        bar.update(step, **values)
    shown = [line.split(", ")[1:-2] for line in stream.getvalue().splitlines()]
    assert shown == [
        ["loss 0.5", "baseline loss 2"],
        ["loss 0.5 (step 40)", "baseline loss 2", "valid loss 0.75", "valid accuracy 50 %"],
        [
            *("loss 0.25", "baseline loss 2"),
            *("valid loss 0.75 (step 50)", "valid accuracy 50 % (step 50)"),
        ],
    ]


def test_a_terminal_says_so_in_few_letters():
    stream = Terminal()
    with Progress(1000, stream=stream, metrics=(ACCURACY,)) as bar:
        bar.update(450, loss=0.5, valid_accuracy=0.9235)
        bar.update(500, loss=0.25)
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("loss 0.25, val acc 92.35 % at 450, ") and "ETA" in last


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
    assert "10/10" in last and "loss 0.25, val acc 0.75" in last and last.endswith("\n")


def drawn(leader):
    """All pictures of the line on a pseudo-terminal."""
    text = b""
    with open(leader, "rb", buffering=0) as seen, contextlib.suppress(OSError):  # EIO: the end
        while chunk := seen.read(4096):
            text += chunk
    return text.decode().rstrip().split("\r")


@pytest.mark.parametrize("size", [(0, 0), (24, 100)])  # (0, 0): a container, not told yet
def test_the_bar_shows_on_a_real_terminal(size):
    leader, follower = pty.openpty()
    with open(follower, "w") as stream:
        termios.tcsetwinsize(follower, size)
        with Progress(10, stream=stream) as bar:
            bar.update(5, loss=0.5)
    last = drawn(leader)[-1]
    assert "5/10" in last and "loss 0.5" in last and len(last) <= (size[1] or 80)


def test_values_are_shown_as_their_metrics_declare(clock):
    stream = io.StringIO()
    bar = Progress(10, stream=stream, metrics=(ACCURACY, NATS))
    bar.update(10, loss=0.000123456, valid_accuracy=0.923456, baseline_accuracy=0.125, other=2.0)
    assert (
        "loss 0.0001235, valid accuracy 92.35 %, baseline accuracy 12.5 %, other 2, "
        in stream.getvalue()
    )


@pytest.mark.parametrize(
    ("columns", "seen"),
    [
        (40, ["loss 0.2134", "acc 93.81 %", "ETA 0:01:50"]),
        (60, ["loss 0.2134", "acc 93.81 %", "val acc 92.35 %", "45%", "ETA 0:01:50"]),
        (80, ["loss 0.2134", "acc 93.81 %", "val acc 92.35 %", "45%", "ETA 0:01:50"]),
        (120, ["val loss 0.2913", "450/1000", "5 steps/s", "base loss 2.303", "ETA 0:01:50"]),
    ],
)
def test_what_matters_is_in_sight_at_any_width(clock, columns, seen):
    leader, follower = pty.openpty()
    values = {"loss": 0.21341, "accuracy": 0.9381, "baseline_loss": 2.3026}
    with open(follower, "w") as stream:
        termios.tcsetwinsize(follower, (24, columns))
        with Progress(1000, stream=stream, metrics=(ACCURACY, NATS)) as bar:
            clock[0] += 90
            bar.update(450, **values, valid_accuracy=0.92349, valid_loss=0.2913)
    lines = drawn(leader)
    assert all(len(line.rstrip("\n")) <= columns for line in lines)
    last = lines[-1]
    assert last.startswith("loss 0.2134, ") and all(part in last for part in seen), last
    assert "compiling, 0%" in lines[1] and "compiling" not in last  # before the first step


def test_an_evaluation_shows_how_far_it_is_and_is_no_training(clock):
    leader, follower = pty.openpty()
    training = [0.0]
    with open(follower, "w") as stream:
        termios.tcsetwinsize(follower, (24, 80))
        with Progress(100, stream=stream, training=lambda: training[0]) as bar:
            for step, spent in ((50, 10.0), (100, 10.0)):
                training[0] += spent
                clock[0] += spent
                bar.update(step, loss=0.5)
                if step == 50:
                    clock[0] += 10.0  # of evaluation
            bar.stage("testing")
            clock[0] += 1.0
            bar.stage("testing", 0.4)
            pictures = [bar._stage, bar._bar.n]
            bar.stage("")
    assert pictures == [("testing", 0.4), 0.4]  # the bar is not full while the test runs
    lines = drawn(leader)
    assert any("testing 40%" in line for line in lines) and "testing" not in lines[-1]
    assert "5 steps/s" in lines[-1]
    (half,) = {line for line in lines if "50/100" in line}
    assert "ETA 0:00:10" in half


def test_a_long_evaluation_writes_lines_into_a_file(clock):
    stream = io.StringIO()
    bar = Progress(100, stream=stream)
    bar.stage("validating")
    for tenth in range(1, 11):
        clock[0] += 4.0
        bar.stage("validating", tenth / 10)
    lines = [line.partition(" ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [f"step 0/100, validating {share}" for share in ("30%", "60%", "90%")]


def test_parts_are_dropped_by_rank():
    parts = [Part("loss 0.5", 0), Part("accuracy 50 %", 2), Part("ETA 0:00:10", 1)]
    assert fit(parts, 80) == "loss 0.5, accuracy 50 %, ETA 0:00:10"
    assert fit(parts, 30) == "loss 0.5, ETA 0:00:10"
    assert fit(parts, 20) == "loss 0.5"
    assert fit(parts, 5) == "loss "
