"""What happens at which step."""

from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.training.agenda import Agenda, every


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 40), st.integers(0, 39))
def test_the_next_due_step_is_known_in_advance(intervals, end, start):
    start = min(start, end - 1)
    agenda = Agenda([(every(n), lambda n=n: n) for n in intervals], end)
    due = agenda.next_after(start)
    assert start < due <= end and agenda.at(due)
    assert not any(agenda.at(step) for step in range(start + 1, due))
    for step in range(start + 1, end + 1):
        happened = [what() for what in agenda.at(step)]
        assert happened == [n for n in intervals if step % n == 0 or step == end]
