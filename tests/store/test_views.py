"""The views for readers: the same columns in both databases, and what the store says of a run."""

from __future__ import annotations

import json
from typing import Any

from runstate import ManualClock
from runstate.store import Store
from tests.store.support import Prompt, names

RUNS = (
    *("id", "thread_id", "assistant_id", "model", "status", "created_at", "expires_at", "started_at", "cancelled_at"),
    *("failed_at", "completed_at", "required_action", "last_error", "incomplete_details", "usage", "config", "version"),
    *("event", "source", "changed_at_us", "actor", "detail", "queue", "priority", "not_before_us", "claimable_at_us"),
    *("thread_policy", "idempotency_key", "repeats", "attempt", "lost", "failed", "worker", "lease_until_us"),
    *("progress", "prompt_tokens", "completion_tokens"),
)
ENTRIES = ("run_id", "version", "event", "source", "target", "at_us", "actor", "detail")
ATTEMPTS = ("run_id", "number", "attempt", "ended_at_us", "result", "actor", "error", "next_at_us")


def value(found: object) -> Any:
    """Return JSON as a value: PostgreSQL's driver reads it, SQLite has it as a text."""
    return json.loads(found) if isinstance(found, str) and found.startswith("{") else found


def test_the_columns_are_the_same_in_both(prompt: Prompt, store: Store) -> None:
    store.create(**names())
    for view, columns in (("runs", RUNS), ("entries", ENTRIES), ("attempts", ATTEMPTS)):
        found = prompt.run(f"SELECT {', '.join(columns)} FROM runstate_{view}")
        assert all(len(columns) == len(row) for row in found)
    assert [*RUNS] == [*prompt.rows("runstate_runs")[0]]
    assert [*ENTRIES] == [*prompt.rows("runstate_entries")[0]]


def test_a_run_and_its_entries_are_shown(prompt: Prompt, store: Store, clock: ManualClock) -> None:
    """While a worker has it, its name and its lease are there; afterwards they are not."""
    run = store.create(**names(metadata={"a": "b"}, actor="web"))
    lease = store.open_lease("w1", lease_s=30)
    (claim,) = store.claim(lease)
    (shown,) = prompt.rows("runstate_runs")
    found = store.get(run.id)
    same = ("id", "thread_id", "status", "created_at", "expires_at", "started_at", "version", "actor", "attempt")
    assert {name: getattr(found, name) for name in same} == {name: shown[name] for name in same}
    assert ("w1", {"metadata": {"a": "b"}}) == (shown["worker"], value(shown["config"]))
    assert 30_000_000 == shown["lease_until_us"] - shown["changed_at_us"]
    entries = [(row["version"], row["event"], row["target"], row["actor"]) for row in prompt.rows("runstate_entries")]
    assert [(1, None, "queued", "web"), (2, "start", "in_progress", "w1")] == sorted(entries)
    store.release(lease, claim.run)
    (shown,) = prompt.rows("runstate_runs")
    assert (None, None, 1, 0) == (shown["worker"], shown["lease_until_us"], shown["attempt"], shown["lost"])
