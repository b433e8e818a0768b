"""What happens at which step."""

from hypothesis import given
from hypothesis import strategies as st

from lrd_jax.training.agenda import Agenda, every, once


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


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(0, 39),
)
def test_stretches_end_at_whatever_is_due(intervals, border, longest, end, start):
    entries = [(every(n), lambda: None) for n in intervals] + [(once(border), lambda: None)]
    agenda = Agenda(entries, end)
    whole = list(agenda.stretches(0, longest))
    assert [step for stretch in whole for step in stretch] == [*range(end)]
    for stretch in whole:
        assert 1 <= len(stretch) <= longest
        assert not any(agenda.at(step) for step in range(stretch.start + 1, stretch.stop))
        assert agenda.at(stretch.stop) or stretch.stop % longest == 0
    # A run that goes on from any step has the rest of the same.
    resumed = list(agenda.stretches(min(start, end), longest))
    assert {s.stop for s in resumed} == {s.stop for s in whole if s.stop > start}
