"""What a store asks again and again reads what it needs by an index, however many runs there are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import pytest

from runstate.store import open_store
from runstate.store._api.queries import read_entries
from runstate.store._api.store import database_of
from runstate.store._sql.connection import Connection
from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.statements import Statements
from tests.store.support import Prompt

ASKED_OF_POSTGRES: Final = {
    "by_id": ("runstate_run_config",),
    "anything_due": ("runstate_claimable_deadline", "runstate_idle_deadline", "runstate_idle_waiting"),
    "expire_due": ("runstate_claimable_deadline", "runstate_idle_deadline", "Index Cond: (seq = ANY"),
    "fail_exhausted": ("runstate_held_worker", "Index Cond: (seq = ANY"),
    "confirm_lapsed": ("runstate_held_worker", "Index Cond: (seq = ANY"),
    "promote_ready": ("runstate_idle_waiting", "Index Cond: (seq = ANY"),
    "take_over": ("runstate_held_worker", "Index Cond: (seq = ANY"),
    "orphaned": ("runstate_held_worker", "Index Cond: (seq = ANY"),
    "overdue": ("runstate_held_worker", "(seq = ANY"),
}
"""The same of PostgreSQL, which finds them by small tables."""
ASKED: Final = {
    "by_id": ("runstate_run_config",),
    "anything_due": ("runstate_run_deadline", "runstate_run_waiting", "runstate_run_worker"),
    "expire_due": ("runstate_run_deadline",),
    "fail_exhausted": ("runstate_run_worker",),
    "confirm_lapsed": ("runstate_run_worker",),
    "promote_ready": ("runstate_run_waiting",),
    "take_over": ("runstate_run_worker",),
    "orphaned": ("runstate_run_worker",),
    "overdue": ("runstate_run_worker", "runstate_run_claim"),
}
"""The statements of every look, sweep and claim, and the indexes that they go by."""
WHOLE: Final = re.compile(
    r"AUTOMATIC|SCAN (runstate_run|r|q|b|h)$|Seq Scan on runstate_(run|run_config)\b", re.MULTILINE
)


def plan_of(prompt: Prompt, words: Dialect, name: str) -> str:
    """Return how a database would execute a statement, if it had many rows."""
    statement: str = getattr(Statements(words), name)
    if words is SQLITE:
        places = sorted(set(re.findall(r":(\w+)", statement)))
        found = prompt.connection.execute(f"EXPLAIN QUERY PLAN {statement}", dict.fromkeys(places, 1))
        return "\n".join(row[3] for row in found)
    prompt.run("SET enable_seqscan = off")  # it has few, and would read them all
    if name == "take_over":
        statement = statement.replace("%(id)s", "NULL")  # of any run
    given = re.sub(r"%\(\w+\)s", "'1'", statement)
    return "\n".join(row[0] for row in prompt.run(f"EXPLAIN {given}"))


@pytest.mark.parametrize("name", ASKED)
def test_by_an_index(name: str, store_url: str) -> None:
    with Prompt(store_url) as prompt:
        plan = plan_of(prompt, SQLITE if prompt.is_sqlite else POSTGRES, name)
    assert not WHOLE.search(plan), plan
    for index in (ASKED if prompt.is_sqlite else ASKED_OF_POSTGRES)[name]:
        assert index in plan, plan


class ExplainedConnection:
    """A connection that counts how many rows of a table its statements read."""

    def __init__(self, connection: Connection, table: str) -> None:
        self._connection = connection
        self._table = table
        self.statements = connection.statements
        self.read = 0

    def execute(self, statement: str, params: Mapping[str, Any]) -> Sequence[Any]:
        ((found,),) = self._connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", params)
        (plan,) = json.loads(found) if isinstance(found, str) else found
        self.read += self._rows_read(plan["Plan"])
        return self._connection.execute(statement, params)

    def _rows_read(self, node: Mapping[str, Any]) -> int:
        below: int = sum(map(self._rows_read, node.get("Plans", ())))
        if node.get("Relation Name") != self._table:
            return below
        removed = node.get("Rows Removed by Index Recheck", 0) + node.get("Rows Removed by Filter", 0)
        rows: float = node["Actual Loops"] * (node["Actual Rows"] + removed)
        return below + round(rows)


def test_a_page_of_entries_costs_the_same_however_many_follow(postgres_url: str) -> None:
    """PostgreSQL: the first page, one in the middle and the last read a small part of a hundred thousand entries."""
    transactions, each = 5000, 20
    with open_store(postgres_url, migrate=True) as store, Prompt(postgres_url) as prompt:
        seq = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o").seq
        prompt.run("SET synchronous_commit = off")
        prompt.run(
            "DO $$ BEGIN WHILE pg_current_xact_id()::text::bigint < 6000 LOOP COMMIT; END LOOP; END $$"
        )  # so many transactions must have been
        prompt.run(
            "BEGIN; SET LOCAL session_replication_role = replica;"
            " INSERT INTO runstate_history (run, version, event, source, target, at_us, tx)"
            f" SELECT {seq}, i + 2, 'start', 'queued', 'in_progress', 1, i / {each} + 1"
            f" FROM generate_series(0, {transactions * each - 1}) AS i; COMMIT"
        )
        prompt.run("VACUUM (ANALYZE) runstate_history")
        connection = database_of(store).open(reading=True)
        read: dict[int, int] = {}
        for first in (1, transactions // 2, transactions - 200):
            explained = ExplainedConnection(connection, "runstate_history")
            page, has_more, _ = read_entries(cast("Connection", explained), (first, 0, 0))
            assert (1000, True) == (len(page), has_more)
            assert [each * (first - 1) + 2 + place for place in range(1000)] == [entry.version for entry in page]
            read[first] = explained.read
        connection.close()
    assert max(read.values()) < 30_000, read


@pytest.mark.parametrize("has_statistics", [True, False])
def test_the_overdue_runs_are_read_until_there_are_enough(has_statistics: bool, postgres_url: str) -> None:
    """PostgreSQL: ten of two thousand that wait too long are found without a look at the others, oldest first."""
    with open_store(postgres_url, migrate=True) as store, Prompt(postgres_url) as prompt:
        runs = store.create_many([{"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}] * 2000)
        if has_statistics:
            prompt.run("ANALYZE")
        connection = database_of(store).open(reading=True)
        explained = ExplainedConnection(connection, "runstate_run")
        found = explained.execute(connection.statements.overdue, {"queue": "default", "age": 0, "limit": 10})
        connection.close()
    assert [run.id for run in runs[:10]] == [row[0] for row in found]
    assert explained.read <= 20
