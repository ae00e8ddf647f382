"""The judge of `tests.support.judge` finds what it looks for: every kind of break, once the guards are gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runstate import ManualClock
from runstate.store import open_store
from runstate.store._sql.dialect import POSTGRES, SQLITE
from tests.store.support import Prompt, bring_in_store, names
from tests.support.guards import drop_guards
from tests.support.judge import judge, judge_by_sql, judge_through
from tests.support.lifecycle import STATUSES


@pytest.fixture(params=["sqlite", "postgres"])
def unguarded(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Prompt]:
    """An SQL prompt at a store of runs in every status, whose triggers have been dropped."""
    server = None if request.param == "sqlite" else request.getfixturevalue("postgres_server")
    url = f"sqlite:///{tmp_path / 'runs.db'}" if server is None else server.create_database()
    with open_store(url, migrate=True) as store:
        for status in STATUSES:
            bring_in_store(store, status, id=f"run_{status}", actor="somebody", metadata={"a": "b"})
        for exclusive in ("reject", "queue"):
            store.create(**names(id=f"run_{exclusive}", thread_id=exclusive, one_live_run_per_thread=exclusive))
    assert () == judge_by_sql(url)
    with Prompt(url) as prompt:
        for statement in drop_guards(SQLITE if server is None else POSTGRES):
            prompt.run(statement)
        if server is None:
            prompt.run("DROP INDEX runstate_run_one_live")
        yield prompt
    if server is not None:
        server.drop_database(url)


RUN = "UPDATE runstate_run SET {} WHERE id = 'run_{}'"
ENTRY = "UPDATE runstate_history SET {} WHERE run = (SELECT seq FROM runstate_run WHERE id = 'run_{}') AND version = {}"
AFTER_THE_END = (
    "INSERT INTO runstate_history (run, version, event, source, target, at_us)"
    " SELECT seq, 4, '{}', '{}', '{}', changed_at_us FROM runstate_run WHERE id = 'run_completed'"
)
BREAKS = [
    (RUN.format("status = 'failed'", "queued"), "run run_queued is failed at version 1, but the entry of that version"),
    (RUN.format("version = 9", "queued"), "run run_queued is queued at version 9"),
    (RUN.format("version = 1", "completed"), "run run_completed is at version 1, but its last entry is 3"),
    (RUN.format("event = 'fail'", "completed"), "run run_completed is completed at version 3"),
    (RUN.format("source = NULL", "completed"), "run run_completed is completed at version 3"),
    (RUN.format("actor = 'else'", "completed"), "run run_completed is completed at version 3"),
    (RUN.format("detail = '{}'", "completed"), "run run_completed is completed at version 3"),
    (RUN.format("changed_at_us = changed_at_us + 1000000", "completed"), "run run_completed is completed at version 3"),
    (RUN.format("created_at = created_at - 1", "queued"), "run run_queued has created_at"),
    (RUN.format("started_at = started_at + 1", "completed"), "run run_completed is completed and has started_at"),
    (RUN.format("started_at = NULL", "in_progress"), "run run_in_progress is in_progress and has started_at None"),
    (RUN.format("completed_at = NULL", "expired"), "run run_expired is expired and has completed_at None"),
    (RUN.format("failed_at = 5", "cancelled"), "run run_cancelled is cancelled and has failed_at 5"),
    (RUN.format("cancelled_at = 5", "cancelling"), "run run_cancelling is cancelling and has cancelled_at 5"),
    (RUN.format("expires_at = NULL", "cancelling"), "run run_cancelling is cancelling, and its expires_at is None"),
    (RUN.format("expires_at = 2000000000", "failed"), "run run_failed is failed, and its expires_at is 2000000000"),
    (RUN.format("required_action = '{}'", "queued"), "run run_queued is queued, and its required_action is {}"),
    (RUN.format("last_error = NULL", "failed"), "run run_failed is failed, and its last_error is None"),
    (
        RUN.format("incomplete_details = NULL", "incomplete"),
        "run run_incomplete is incomplete, and its incomplete_details",
    ),
    (RUN.format("usage = NULL", "expired"), "run run_expired is expired, and its usage is None"),
    (RUN.format("expires_at = created_at", "queued"), "run run_queued has the deadline"),
    (RUN.format("expires_at = created_at", "in_progress"), "run run_in_progress was asked to start at"),
    (RUN.format("worker = 5", "completed"), "run run_completed is completed and belongs to a worker"),
    (RUN.format("claimable_at_us = NULL", "completed"), "run run_completed was started before it was ready"),
    (RUN.format("thread_id = 'queue'", "reject"), "thread queue has 2 live runs"),
    (ENTRY.format("version = 9", "completed", 2), "entries, of versions 1 to 9"),
    (ENTRY.format("version = 0", "completed", 1), "entries, of versions 0 to 3"),
    (ENTRY.format("target = 'completed'", "completed", 1), "was not born queued: None from None to completed"),
    (ENTRY.format("event = 'complete'", "in_progress", 2), "no row of the law has complete from queued to in_progress"),
    (ENTRY.format("event = NULL", "in_progress", 2), "no row of the law has None from queued to in_progress"),
    (
        ENTRY.format("source = 'cancelling'", "completed", 3),
        "leaves cancelling, but the entry before led to in_progress",
    ),
    (ENTRY.format("at_us = at_us - 1", "completed", 2), "before the entry before it"),
    ("DELETE FROM runstate_history WHERE version = 2", "has 2 entries, of versions 1 to 3"),
    ("DELETE FROM runstate_history", "but the entry of that version says None"),
    ("DELETE FROM runstate_run WHERE id = 'run_queued'", "runstate_history has rows of "),
    ("DELETE FROM runstate_run WHERE id = 'run_failed'", "runstate_run_config has rows of run_failed, which is no run"),
    ("INSERT INTO runstate_checkpoint (run) VALUES (999)", "runstate_checkpoint has rows of 999, which is no run"),
    (AFTER_THE_END.format("complete", "in_progress", "completed"), " ended 2 times"),
    (AFTER_THE_END.format("start", "queued", "in_progress"), " goes on after its end at version 3"),
]


def test_every_break_is_found(unguarded: Prompt) -> None:
    """What a guard would have refused is found afterwards, each thing by its own sentence."""
    for statement, sentence in BREAKS:
        with unguarded.undone():
            unguarded.run(statement)
            found = judge_through(unguarded.run).wrong
            assert any(sentence in one for one in found), (statement, found)
    assert () == judge_by_sql(unguarded.url)


def test_findings_are_counted_by_what_they_are(unguarded: Prompt) -> None:
    """A version that is missing, an end that came twice and a move that no row allows are told apart."""
    sound = judge(unguarded.url)
    assert (11, 6) == (sound.runs, sound.live)
    assert (0, 0, 0) == (sound.gaps, sound.doubled, sound.illegal)
    kinds = {
        "gaps": "DELETE FROM runstate_history WHERE version = 2",
        "doubled": AFTER_THE_END.format("complete", "in_progress", "completed"),
        "illegal": "UPDATE runstate_history SET event = 'expire' WHERE event = 'start'",
    }
    for kind, statement in kinds.items():
        with unguarded.undone():
            unguarded.run(statement)
            assert getattr(judge_through(unguarded.run), kind) >= 1
