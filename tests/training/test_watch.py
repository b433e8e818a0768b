"""What is said of members that stop being finite, and when the run ends."""

import types

import numpy as np
import pytest

from lrd_jax.errors import RunError
from lrd_jax.training import watch as module
from lrd_jax.training.watch import Watch


def state(*steps, stopped=()):
    best = types.SimpleNamespace(step=np.full(len(steps), 4))
    return types.SimpleNamespace(
        first_nonfinite_step=np.array(steps), stopped=np.array(stopped), best=best
    )


@pytest.fixture
def said():
    return []


def watch(said, *before):
    """A watch over as many members, some of which may have stopped in an earlier process."""
    recorder = types.SimpleNamespace(say=said.append)
    return Watch([f"seed {i}" for i in range(len(before))], state(*before), recorder)


def test_each_member_that_stops_is_told_once(said):
    looks = watch(said, -1, 3, -1, -1)
    looks.check(state(-1, 3, -1, -1))
    assert said == []  # that one was told of before this process
    looks.check(state(-1, 3, 1, -1))
    assert len(said) == 1 and "of seed 2 became NaN" in said[0] and "at step 1;" in said[0]
    looks.check(state(-1, 3, 1, -1))
    assert len(said) == 1
    looks.check(state(7, 3, 1, -1))
    assert len(said) == 2 and "of seed 0 " in said[1] and "at step 7;" in said[1]


def test_a_member_whose_patience_ends_is_told_once(said):
    looks = watch(said, -1, -1, -1)
    looks.check(state(-1, -1, -1, stopped=(-1, 6, -1)))
    looks.check(state(-1, -1, 7, stopped=(-1, 6, -1)))
    assert len(said) == 2 and not looks.over
    assert said[0] == (
        "seed 1 stops at step 6: no evaluation was better than that of step 4 (train.patience)"
    )
    looks.check(state(-1, -1, 7, stopped=(8, 6, -1)))
    assert len(said) == 3 and said[2].startswith("seed 0 stops at step 8") and looks.over


@pytest.mark.parametrize(
    ("steps", "words"), [((5,), "infinite at step 5;"), ((5, 2), "in every seed, at steps 5, 2;")]
)
def test_without_a_finite_member_the_run_ends(said, steps, words):
    looks = watch(said, *(-1 for _ in steps))
    with pytest.raises(RunError, match=words):
        looks.check(state(*steps))
    assert said == []


@pytest.mark.parametrize(
    ("step_s", "waits"),
    [
        (0.1, [1, 3, 7, 15, 24, 33]),  # ever more steps, up to those of a second
        (0.3, [1, 3, 6, 9, 12, 15]),
        (5.0, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_loop_is_a_second_ahead_at_most(monkeypatch, step_s, waits):
    """It waits for the devices in so many calls alone, however long a step takes."""
    clock, waited = types.SimpleNamespace(now=10.0), []
    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(module.jax, "block_until_ready", waited.append)
    pace = module.Pace()
    for call in range(1, waits[-1] + 1):
        clock.now += step_s * 1.0001  # no rounding at the border
        pace.wait(call)
    assert waited == waits
