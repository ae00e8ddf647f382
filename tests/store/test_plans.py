"""What a store asks again and again reads what it needs by an index, however many runs there are."""

from __future__ import annotations

import re
from typing import Final

import pytest

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
