"""The law in the database: all 81 pairs of a status and an event, through the store's own methods."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from runstate import IllegalTransition, ManualClock, TerminalStatus
from runstate.store import Store, StoredRun
from tests.store.support import Prompt, ask_store, bring_in_store
from tests.support.lifecycle import EVENTS, LIVE, NOW, PAIRS, STATUSES, TABLE, TERMINAL, WAYS, after, ask, new_run

IDLE = ("queued", "requires_action")
LEGAL = sorted(TABLE)
ILLEGAL = [pair for pair in PAIRS if pair not in TABLE]


def told(prompt: Prompt, run_id: str) -> list[tuple[Any, ...]]:
    """Return a run's history as the database has it: version, event, source, target, seconds, actor."""
    return [
        (row["version"], row["event"], row["source"], row["target"], row["at_us"] // 1_000_000, row["actor"])
        for row in prompt.entries(run_id)
    ]


def seen(store: Store, run: StoredRun) -> list[tuple[Any, ...]]:
    """Return the same as the store tells it."""
    return [
        (entry.version, entry.event, entry.source, entry.target, entry.at_us // 1_000_000, entry.actor)
        for entry in store.history(run.id)
    ]


def test_the_table_is_whole() -> None:
    """There are 81 pairs, 19 legal ones."""
    assert (81, 19, 62) == (len(PAIRS), len(LEGAL), len(ILLEGAL))
    assert set(PAIRS) == set(product(STATUSES, EVENTS))


@pytest.mark.parametrize(("source", "event"), LEGAL)
def test_a_legal_move(store: Store, prompt: Prompt, clock: ManualClock, source: str, event: str) -> None:
    """It writes what docs/lifecycle.md says and no more, as a run in memory does at the same time, and one entry."""
    run = bring_in_store(store, source, id="run_1")
    twin = new_run(at=NOW)
    for earlier in WAYS[source]:
        ask(twin, earlier, NOW)
    before = run.to_dict()
    assert twin.to_dict() == before
    clock.advance(7)
    moved = ask_store(store, run.id, event, actor="somebody")
    if event == "request_cancel" and source in IDLE:  # nobody works on it: it arrives in the same commit
        steps = [(event, source, "cancelling"), ("confirm_cancel", "cancelling", "cancelled")]
        expected = after("confirm_cancel", after(event, before, NOW + 7), NOW + 7)
        expected["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        ask(twin, event, NOW + 7)
        twin.confirm_cancel(at=NOW + 7)
    else:
        steps = [(event, source, TABLE[source, event])]
        expected = after(event, before, NOW + 7)
        ask(twin, event, NOW + 7)
    assert expected == moved.to_dict() == twin.to_dict() == store.get(run.id).to_dict()
    assert moved == store.get(run.id)
    history = told(prompt, run.id)
    entries = [(run.version + n, *step, NOW + 7, "somebody") for n, step in enumerate(steps, start=1)]
    assert entries == history[run.version :]
    assert history == seen(store, run)
    assert (moved.version, moved.event, moved.source, moved.status) == history[-1][:4]
    assert (moved.changed_at_us, moved.actor) == ((NOW + 7) * 1_000_000, "somebody")


@pytest.mark.parametrize("source", STATUSES)
def test_illegal_moves(store: Store, prompt: Prompt, clock: ManualClock, source: str) -> None:
    """Each is refused with the run as it stands, and nothing in the database has changed."""
    run = bring_in_store(store, source, id="run_1", actor="first")
    before = prompt.everything()
    clock.advance(7)
    for event in [event for status, event in ILLEGAL if status == source]:
        with pytest.raises(IllegalTransition) as refused:
            ask_store(store, run.id, event, actor="second")
        assert before == prompt.everything()
        error = refused.value
        assert (source in TERMINAL) is isinstance(error, TerminalStatus)
        assert run == error.run == store.get(run.id)
        assert ("run_1", source, event) == (error.run_id, error.status, error.event)
        assert {asked for status, asked in TABLE if status == source} == set(error.allowed)
        if source != "queued":
            last = WAYS[source][-1]
            assert f"run run_1 is {source} (by {last}, first) and cannot {event}" in str(error)


@pytest.mark.parametrize("source", sorted(LIVE))
def test_a_whole_life(any_store: Store, clock: ManualClock, source: str) -> None:
    """Each live status is reached, left and never seen twice at one version, with times that never fall."""
    run = bring_in_store(any_store, source)
    clock.advance(-5)  # as real clocks sometimes go
    any_store.fail(run.id, "server_error", "x")
    entries = any_store.history(run.id)
    assert [*range(1, len(WAYS[source]) + 3)] == [entry.version for entry in entries]
    times = [entry.at_us for entry in entries]
    assert sorted(times) == times
    assert [None, *WAYS[source], "fail"] == [entry.event for entry in entries]


def test_two_tool_rounds(any_store: Store, clock: ManualClock) -> None:
    """`started_at` is stamped anew at every start, the deadline is kept, and the history has every time."""
    run = bring_in_store(any_store, "queued")
    for second, event in enumerate(("start", "require_action", "submit_tool_outputs") * 2, start=1):
        clock.advance(1)
        run = ask_store(any_store, run.id, event)
        assert NOW + 600 == run.expires_at
        assert {1: NOW + 1, 2: NOW + 1, 3: NOW + 1}.get(second, NOW + 4) == run.started_at
    clock.advance(1)
    assert NOW + 7 == any_store.start(run.id).started_at
    assert [NOW + second for second in range(8)] == [entry.at_us // 1_000_000 for entry in any_store.history(run.id)]
