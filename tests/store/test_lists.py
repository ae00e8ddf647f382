"""Lists and counts of many runs: they agree with the runs, and read few rows however many runs have ended."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from runstate import ManualClock, RunStatus
from runstate.lifecycle import RunEvent
from runstate.store import Settle, Store, StoredRun
from runstate.store._sql.dialect import POSTGRES, SQLITE
from runstate.store._sql.lists import RunFilter, Span, list_statement, sources
from runstate.store._sql.statements import Statements
from tests.store.support import Prompt, ask_store, bring_in_store, names
from tests.support.lifecycle import NOW, STATUSES

USAGE: Final = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'


def run_through(store: Store, clock: ManualClock) -> None:
    """Leave runs in every status: moved by hand, by workers, in later attempts, late, and changed long after."""
    for number in range(18):
        queue = "slow" if number % 2 else "fast"
        given: dict[str, Any] = {"thread_id": f"thread_{number % 3}", "queue": queue, "expires_in_s": 30 + 50 * number}
        bring_in_store(store, STATUSES[number % 9], metadata={"n": str(number % 2)}, **given)
        clock.advance(1)
    first, second = store.open_lease("first", lease_s=5), store.open_lease("second", lease_s=3600)
    store.create_many([names(queue="work", thread_id=f"thread_{n}", expires_in_s=300) for n in range(8)])
    held = store.claim(first, 6, queues=("work",))
    store.settle(first, [Settle(held[0].run, RunEvent.COMPLETE, USAGE)])
    clock.advance(6)
    store.sweep()
    taken = store.take_over(second, 5, queues=("work",))
    assert 5 == len(taken)
    store.settle(second, [Settle(claim.run, RunEvent.COMPLETE, USAGE) for claim in taken[:2]])
    store.request_cancel(taken[2].run.id)
    store.fail(taken[3].run.id, "server_error", "it broke")
    clock.advance(20)
    waiting = store.create(**names(not_before=NOW + 10_000, expires_in_s=20_000))
    store.create(**names(one_live_run_per_thread="queue", thread_id="thread_9"))
    store.create(**names(one_live_run_per_thread="queue", thread_id="thread_9"))
    clock.advance(5)
    store.request_cancel(waiting.id)


CHOICES: Final[Mapping[str, list[Any]]] = {
    "thread_id": ["thread_1", "thread_9"],
    "status": [*STATUSES, ["failed", "queued"], ["in_progress", "cancelling"], ["completed", "expired"], [*STATUSES]],
    "queue": ["fast", "slow", "work", "absent"],
    "metadata": [{"n": "1"}],
    "older_than_s": [0, 30, 45],
    "younger_than_s": [5, 30, 45],
    "changed_within_s": [1, 26, 40],
    "unchanged_for_s": [1, 26, 40],
    "ended_within_s": [1, 26, 40],
    "attempts_above": [0, 1, 2],
    "past_deadline": [True, False],
}
MATCHES: Final[Mapping[str, Callable[[StoredRun, Any, int], bool]]] = {
    "thread_id": lambda run, value, now: run.thread_id == value,
    "status": lambda run, value, now: run.status in ([value] if isinstance(value, str) else value),
    "queue": lambda run, value, now: run.queue == value,
    "metadata": lambda run, value, now: run.metadata.items() >= value.items(),
    "older_than_s": lambda run, value, now: run.created_at <= now - value,
    "younger_than_s": lambda run, value, now: run.created_at > now - value,
    "changed_within_s": lambda run, value, now: run.changed_at_us > (now - value) * 1_000_000,
    "unchanged_for_s": lambda run, value, now: run.changed_at_us <= (now - value) * 1_000_000,
    "ended_within_s": lambda run, value, now: run.is_terminal and run.changed_at_us > (now - value) * 1_000_000,
    "attempts_above": lambda run, value, now: run.attempt > value,
    "past_deadline": lambda run, value, now: not value or (run.expires_at is not None and run.expires_at <= now),
}


def test_every_combination_of_conditions(any_store: Store, clock: ManualClock) -> None:
    """A list with up to four conditions has the runs for which all of them hold, in either order, page by page."""
    run_through(any_store, clock)
    runs = any_store.list(limit=100, order="asc").data
    now = int(clock.now)
    chance = random.Random(0)
    combinations = [{name: value} for name, values in CHOICES.items() for value in values]
    for _ in range(400):
        some = chance.sample([*CHOICES], chance.randint(2, 4))
        combinations.append({name: chance.choice(CHOICES[name]) for name in some})
    for given in combinations:
        expected = [run.id for run in runs if all(MATCHES[name](run, value, now) for name, value in given.items())]
        assert expected == [run.id for run in any_store.list(**given, limit=100, order="asc").data], given
        page = any_store.list(**given, limit=2)
        found = [run.id for run in page.data]
        while page.has_more:
            page = any_store.list(**given, limit=2, after=page.last_id)
            found += [run.id for run in page.data]
        assert expected[::-1] == found, given
        if len(expected) > 3:
            before = any_store.list(**given, limit=2, before=expected[0])
            assert expected[1:3][::-1] == [run.id for run in before.data], given


def test_a_long_walk_and_a_source_agree(any_store: Store, clock: ManualClock) -> None:
    """A window of time finds its runs also if more than a thousand others are newer, or match."""
    first = bring_in_store(any_store, "queued", id="run_first")
    runs = any_store.create_many([names(queue="bulk")] * 1100)
    clock.advance(100)
    any_store.start(first.id)
    for order in ("asc", "desc"):
        assert ["run_first"] == [run.id for run in any_store.list(changed_within_s=50, order=order)]
    any_store.complete(first.id)
    assert ["run_first"] == [run.id for run in any_store.list(ended_within_s=50)]
    assert [] == [*any_store.list(younger_than_s=50)]
    assert [run.id for run in runs[:-6:-1]] == [run.id for run in any_store.list(younger_than_s=150, limit=5)]
    assert [run.id for run in runs[:-6:-1]] == [run.id for run in any_store.list(status="queued", limit=5)]
    assert [runs[0].id] == [run.id for run in any_store.list(status="queued", limit=1, order="asc")]


def counted(store: Store) -> dict[RunStatus, int]:
    """Return how many runs are in each status, by a list of all runs."""
    found: Counter[RunStatus] = Counter()
    page = store.list(limit=100)
    while page.data:
        found.update(run.status for run in page)
        page = store.list(limit=100, after=page.last_id)
    return {status: found[status] for status in RunStatus}


def test_counts_agree_with_the_runs(any_store: Store, clock: ManualClock) -> None:
    """They are exact after moves, claims, take-overs and pruning, and within a transaction that is undone."""
    assert dict.fromkeys(RunStatus, 0) == any_store.counts()
    run_through(any_store, clock)
    assert counted(any_store) == any_store.counts()
    clock.advance(1000)
    any_store.sweep()
    assert counted(any_store) == any_store.counts()
    assert any_store.prune(10) > 5
    assert counted(any_store) == any_store.counts()


def test_the_rows_of_counts_are_summed_up(prompt: Prompt, store: Store) -> None:
    """On PostgreSQL about one transaction in 256 sums up what the others have added, and the sum stays right."""
    if prompt.is_sqlite:
        pytest.skip("its counts are not stored")
    ended = 0
    while prompt.run("SELECT count(*) FROM runstate_count")[0][0] == ended:
        assert ended < 5000
        run = store.create(**names())
        ask_store(store, run.id, "start")
        ask_store(store, run.id, "complete")
        ended += 1
    assert {"completed": ended} == {status: count for status, count in store.counts().items() if count}
    while store.prune(0):
        pass
    assert not any(store.counts().values())


def test_counts_of_runs_that_are_moved_by_one_statement(prompt: Prompt, store: Store) -> None:
    """A statement that moves some runs and touches others is counted by what it moved."""
    for status in ("queued", "queued", "in_progress", "cancelling", "completed"):
        bring_in_store(store, status)
    prompt.run(
        "UPDATE runstate_run SET version = version + 1, event = 'request_cancel', source = status,"
        " status = 'cancelling' WHERE status IN ('queued', 'in_progress')"
    )
    prompt.run("UPDATE runstate_run SET actor = actor")
    assert {"cancelling": 4, "completed": 1} == {status: count for status, count in store.counts().items() if count}
    assert counted(store) == store.counts()


# --- how much is read -------------------------------------------------------------------------------------------------

CONDITIONS: Final[Mapping[str, dict[str, Any]]] = {
    **{f"status {status}": {"statuses": frozenset({status})} for status in RunStatus if status != "completed"},
    "two statuses": {"statuses": frozenset({RunStatus.FAILED, RunStatus.IN_PROGRESS})},
    "status and queue": {"statuses": frozenset({RunStatus.QUEUED}), "queue": "rare"},
    "status and age": {"statuses": frozenset({RunStatus.QUEUED}), "older_than_s": 10},
    "failed in a window": {"statuses": frozenset({RunStatus.FAILED}), "ended_within_s": 60},
    "ended in a window": {"ended_within_s": 60},
    "changed in a window": {"changed_within_s": 60},
    "past the deadline": {"past_deadline": True},
    "attempts": {"attempts_above": 1},
}
"""Conditions that few of many runs meet."""


def fill(store: Store, count: int) -> None:
    """Let a worker complete so many runs."""
    lease = store.open_lease("fill", lease_s=3600)
    left = count
    while left:
        store.create_many([names(queue="bulk")] * min(left, 500))
        claims = store.claim(lease, 500, queues=("bulk",))
        store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE, USAGE) for claim in claims])
        left -= len(claims)
    store.close_lease(lease)


def rows_read(prompt: Prompt, statement: str, params: Mapping[str, Any]) -> int:
    """Return how many rows a statement reads: by PostgreSQL's EXPLAIN, or in steps of SQLite's virtual machine."""
    if prompt.is_sqlite:
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        prompt.connection.set_progress_handler(step, 1)
        prompt.connection.execute(statement, params).fetchall()
        prompt.connection.set_progress_handler(None, 1)
        return steps // 10
    plan = "\n".join(row[0] for row in prompt.connection.execute(f"EXPLAIN (ANALYZE) {statement}", params))
    found = re.findall(r"actual time=\S+ rows=([\d.]+) loops=(\d+)", plan)
    removed = re.findall(r"Rows Removed by \w+(?: \w+)*: (\d+)", plan)
    return round(sum(float(rows) * int(loops) for rows, loops in found)) + sum(map(int, removed))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CONDITIONS, "counts"])
def test_what_is_read_does_not_grow_with_the_ended_runs(name: str, prompt: Prompt, store: Store) -> None:
    """A list of few runs, and the counts, read as much with 2,000 completed runs as with 500."""
    for status in STATUSES:
        bring_in_store(store, status, queue="rare")
    speak = Statements(SQLITE if prompt.is_sqlite else POSTGRES)
    if "window" in name and "failed" not in name and not prompt.is_sqlite:
        pytest.skip("it reads blocks of a few thousand entries")
    read = []
    for more in (500, 1500):
        fill(store, more)
        prompt.run("ANALYZE" if prompt.is_sqlite else "VACUUM ANALYZE")
        if name == "counts":
            read.append(rows_read(prompt, speak.dialect.lookups.counts, {}))
            continue
        wanted = RunFilter(**CONDITIONS[name])
        found = sources(speak, wanted)
        assert found is not None
        params = {**wanted.params(NOW * 1_000_000), "limit": 21}
        read.append(rows_read(prompt, list_statement(speak, wanted, Span(True, "", ""), found), params))
    assert read[1] <= read[0] + 100, read
    assert read[1] < 1000, read


@pytest.mark.parametrize("name", ["ended in a window", "changed in a window"])
def test_a_window_is_found_by_its_time(name: str, prompt: Prompt) -> None:
    """PostgreSQL reads the blocks of the history that have entries of the window."""
    if prompt.is_sqlite:
        pytest.skip("it has an index of the runs")
    speak, wanted = Statements(POSTGRES), RunFilter(**CONDITIONS[name])
    found = sources(speak, wanted)
    assert found is not None
    statement = list_statement(speak, wanted, Span(True, "", ""), found)
    prompt.run("SET enable_seqscan = off")
    plan = prompt.connection.execute(f"EXPLAIN {statement}", {**wanted.params(NOW * 1_000_000), "limit": 21})
    assert "Bitmap Index Scan on runstate_history_tx" in "\n".join(row[0] for row in plan)
