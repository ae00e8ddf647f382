"""A worker's turn of many runs: whose outcomes are made, and by which way SQLite finds what it gives back."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from runstate import ManualClock, RunEvent, TerminalStatus
from runstate.errors import LeaseLost
from runstate.store import Store, StoredRun, open_store
from runstate.store._sql.dialect import SQLITE
from runstate.store._sql.statements import Statements
from runstate.store._sqlite.settle_and_claim import claimable
from runstate.store._worker_types import Settle
from tests.store.support import names
from tests.support.lifecycle import CALL

USAGE = '{{"prompt_tokens":{0},"completion_tokens":30,"total_tokens":{1}}}'


@pytest.mark.parametrize("spent", [[12] * 6, [0, 1, 2, 3, 4, 5]], ids=["alike", "each its own"])
def test_some_of_many_outcomes(any_store: Store, clock: ManualClock, spent: list[int]) -> None:
    """Of many completions at once those are made whose runs the worker still holds, each with its own usage."""
    any_store.create_many([names(thread_id=f"thread_{n}") for n in range(6)])
    lease = any_store.open_lease("w1")
    runs = [claim.run for claim in any_store.claim(lease, 6)]
    any_store.complete(runs[1].id, actor="w1")  # as it would itself, in its name
    any_store.request_cancel(runs[3].id)
    any_store.release(lease, runs[4])
    usages = [USAGE.format(n, n + 30) for n in spent]
    outcomes = [Settle(run, RunEvent.COMPLETE, usage) for run, usage in zip(runs, usages, strict=True)]
    refused = any_store.settle(lease, outcomes).refused
    assert {runs[1].seq: TerminalStatus, runs[4].seq: LeaseLost} == {seq: type(why) for seq, why in refused.items()}
    for place in (0, 2, 3, 5):
        run = any_store.get(runs[place].id)
        assert ("completed", json.loads(usages[place])) == (run.status, run.to_dict()["usage"])
    assert [3, 3, 3, 4, 2, 3] == [any_store.get(run.id).version for run in runs]
    again = any_store.settle(lease, outcomes)
    assert {run.seq for run in runs} == set(again.refused)


def test_an_outcome_of_another_of_the_same_name(any_store: Store, clock: ManualClock) -> None:
    """Where the answer was lost, what another worker of that name settled after a take-over is not told as done."""
    any_store.create(**names(id="run_1"))
    lease = any_store.open_lease("w1", lease_s=1.0)
    (claim,) = any_store.claim(lease)
    clock.advance(2)
    any_store.sweep()
    other = any_store.open_lease("w1")
    (taken,) = any_store.take_over(other)
    assert {} == any_store.settle(other, [Settle(taken.run, RunEvent.COMPLETE)]).refused
    for holder, run, refused in ((lease, claim.run, [claim.run.seq]), (other, taken.run, [])):
        settles = [Settle(run, RunEvent.COMPLETE)]
        assert refused == list(any_store.settle_and_claim(holder, settles, reconcile=True).refused)


def test_a_claim_of_all_kinds_of_text(any_store: Store, clock: ManualClock) -> None:
    """What a claim hands over is what was created: quotes, other scripts, numbers as they were, nothing for nothing."""
    texts = ('"', "\\", "'", "é\u2028\U0001f600", "{}", "null", "1", "\t\n\x7f")
    for number, text in enumerate(texts):
        given = {"thread_id": f"t{text}", "queue": f"q{number}", "priority": -number, "instructions": text}
        any_store.create(**names(id=f"run_{number}", metadata={"a": text}, **given))
    queues = [f"q{number}" for number in range(len(texts))]
    lease = any_store.open_lease('w"1')
    claimed = any_store.claim(lease, 100, queues=queues)
    assert len(texts) == len(claimed)
    for claim in claimed:
        kept = any_store.get(claim.run.id)
        assert kept == claim.run
        for name in ("seq", "version", "actor", "queue", "priority", "attempt", "changed_at_us"):
            assert getattr(kept, name) == getattr(claim.run, name)
            assert type(getattr(kept, name)) is type(getattr(claim.run, name))


@pytest.mark.parametrize("name", ["claim", "claim_id", "move", "confirm_idle", "take_over"])
def test_settings_are_looked_up(tmp_path: Path, name: str) -> None:
    """SQLite would read the settings of all runs for each row that a statement gives back."""
    path = tmp_path / "runs.db"
    open_store(f"sqlite:///{path}").close()
    statements = Statements(SQLITE)
    own = {"claim": claimable()}  # SQLite's turn has a statement of its own
    asked: str | Mapping[RunEvent, str] = own.get(name) or getattr(statements, name)
    with closing(sqlite3.connect(path)) as connection:
        for statement in [asked] if isinstance(asked, str) else asked.values():
            given = dict.fromkeys(re.findall(r":([a-z_]+)", statement))
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
            assert "SCAN s" not in plan
            assert any(step.startswith("SEARCH s USING INDEX") for step in plan)


def test_a_claimed_run_that_another_thread_has_just_read(store: Store) -> None:
    """A run is read when somebody asks for more of it; who asked at the same moment gets the same."""
    store.create(**names())
    (claim,) = store.claim(store.open_lease(), 1)
    run = claim.run
    assert 2 == run.version
    late = getattr(StoredRun, "__getattr__")(run, "version")  # noqa: B009
    assert 2 == late
    with pytest.raises(AttributeError, match="StoredRun has no attribute 'verison'"):
        getattr(run, "verison")  # noqa: B009


def test_a_turn_that_settled_a_run_and_claimed_it_again(any_store: Store) -> None:
    """Asked again after two lost answers, it has both: the outcome is told as taken, the run as claimed."""
    lease = any_store.open_lease("w1")
    run = any_store.create(**names())
    (first,) = any_store.claim(lease)
    any_store.require_action(run.id, [CALL], actor=lease.actor)
    any_store.submit_tool_outputs(run.id, {"call_1": "sunny"})
    (second,) = any_store.claim(lease)
    settles = [Settle(first.run, RunEvent.REQUIRE_ACTION)]
    result = any_store.settle_and_claim(lease, settles, 1, held=frozenset(), reconcile=True)
    assert {} == result.refused
    (again,) = result.claims
    assert second.run == again.run
    assert {"call_1": "sunny"} == again.tool_outputs
    assert second.run == any_store.get(run.id)
