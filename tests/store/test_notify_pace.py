"""How often a process sends NOTIFY: at once after a pause, seldom under load, and never late for workers."""

from __future__ import annotations

import pytest

from runstate.store._notifier import Change
from runstate.store._postgres.notifier import NotifyPace

WORK = [Change.QUEUED, Change.CANCELLING, Change.ENTRY | Change.QUEUED, Change.EVENT]


@pytest.mark.parametrize("change", [Change.ENTRY, *WORK])
def test_the_first_is_sent_at_once(change: Change) -> None:
    assert NotifyPace().due_in_s(change, now=0.0) <= 0


def test_single_commits_are_sent_after_five_milliseconds() -> None:
    """Fifty moves a second are each heard of at once."""
    pace = NotifyPace()
    for number in range(100):
        now = number * 0.02
        assert pace.due_in_s(Change.ENTRY, now) <= 0
        pace.sent(1, now)
    assert pytest.approx(0.005) == pace.due_in_s(Change.ENTRY, now)


def test_under_load_entries_are_told_seldom() -> None:
    """The space doubles while there are several commits in it, up to fifty milliseconds; then it is short again."""
    pace, now, spaces = NotifyPace(), 0.0, []
    for _ in range(6):
        pace.sent(3, now)
        spaces.append(pace.due_in_s(Change.ENTRY, now))
        now += spaces[-1]
    assert pytest.approx([0.01, 0.02, 0.04, 0.05, 0.05, 0.05]) == spaces
    pace.sent(1, now)
    assert pytest.approx(0.005) == pace.due_in_s(Change.ENTRY, now)


@pytest.mark.parametrize("change", WORK)
def test_workers_never_wait_longer(change: Change) -> None:
    """A queued run and a cancel are told of after five milliseconds at most, whatever the load."""
    pace, now = NotifyPace(), 0.0
    for _ in range(10):
        pace.sent(100, now)
        assert pytest.approx(0.005) == pace.due_in_s(change, now)
        now += 0.05
