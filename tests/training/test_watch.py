"""What is said of members that stop being finite, and when the run ends."""

import types

import numpy as np
import pytest

from lrd_jax.errors import RunError
from lrd_jax.training.watch import Watch


def state(*steps):
    return types.SimpleNamespace(first_nonfinite_step=np.array(steps))


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


@pytest.mark.parametrize(
    ("steps", "words"), [((5,), "infinite at step 5;"), ((5, 2), "in every seed, at steps 5, 2;")]
)
def test_without_a_finite_member_the_run_ends(said, steps, words):
    looks = watch(said, *(-1 for _ in steps))
    with pytest.raises(RunError, match=words):
        looks.check(state(*steps))
    assert said == []
