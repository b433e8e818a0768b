"""The profile of some steps: what it covers, and that a run writes it with three lines."""

import jax
import pytest

from lrd_jax.config import checks, defaults
from lrd_jax.errors import UserError
from lrd_jax.training.agenda import once
from lrd_jax.training.profiler import Profiler, busy_seconds, covered


def test_union_of_intervals_counts_nothing_twice():
    assert covered([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4
    assert covered([]) == 0


def test_due_at_one_step():
    when = once(7)
    assert when(0) == when(6) == 7 and when(7) > 10**9


def test_a_trace_is_written_and_summed_up(tmp_path):
    x, told = jax.numpy.ones((200, 200)), []
    work = jax.jit(lambda x: x @ x / 200)
    steps = iter((3, 5))
    profiler = Profiler(tmp_path, (3, 5), told.append)
    (_, stop), (_, start) = profiler.entries(lambda: next(steps), lambda: x)
    start()
    for _ in range(2):
        x = work(x)
    stop()
    lines = told[0].splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["step time", "host wait", "device time"]
    (trace,) = tmp_path.glob("profile/plugins/profile/*/*.xplane.pb")
    assert trace.with_name("perfetto_trace.json.gz").exists()
    assert busy_seconds(trace) > 0
    stop()  # at the end of a run every entry is called once more
    assert len(told) == 1


@pytest.mark.parametrize("steps", [(5,), (5, 5), (-1, 3), (1.5, 3)])
def test_wrong_steps_are_refused(steps):
    config = defaults.get_config()
    with pytest.raises((UserError, TypeError), match="profile_steps"):
        config.train.profile_steps = steps
        checks.validate(config)
