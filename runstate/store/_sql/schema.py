"""The tables of a store and their indexes, in both dialects. The triggers are in `triggers/`.

One small hot row a run, rewritten at every transition; everything large or rare stands beside it: the settings a run
was created with, what its worker noted, its history. (A PostgreSQL update copies the whole row, and SQLite's rewrites
it with its overflow pages.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunStatus
from runstate.store._sql.dialect import Dialect

__all__ = [
    "ENDED",
    "LIVE",
    "TABLES",
    "create_tables",
    "occupies_thread",
    "sql_list",
]

TABLES: Final = ("runstate_run", "runstate_history", "runstate_settings", "runstate_notes", "runstate_worker")


def sql_list(words: Sequence[str]) -> str:
    """Return names of the law as a list of SQL literals. They are identifiers, so there is nothing to escape."""
    if not all(word.replace("_", "").replace(" ", "").isalpha() for word in words):
        raise ValueError(f"not names of the lifecycle: {words}")
    return ", ".join(f"'{word}'" for word in words)


LIVE: Final = sql_list([status for status in RunStatus if not RUN_LIFECYCLE.is_terminal(status)])
"""The statuses that something leaves."""

ENDED: Final = sql_list([status for status in RunStatus if RUN_LIFECYCLE.is_terminal(status)])
"""The statuses that nothing leaves."""


def occupies_thread(row: str = "") -> str:
    """Return the condition that a row, named by an alias and a dot, is the one live run that its thread may have."""
    exclusive = f"{row}exclusive"
    return (
        f"{row}status IN ({LIVE}) AND ({exclusive} = 'reject' OR ({exclusive} = 'queue' AND {row}ready_at IS NOT NULL))"
    )


def _run_table(dialect: Dialect) -> str:
    # What a row must be is in `triggers/conditions.py`: PostgreSQL reads every CHECK anew at each statement.
    number, json, text = dialect.number, dialect.json, dialect.text
    return f"""\
CREATE TABLE runstate_run (
    seq {dialect.serial_key},
    id {text} NOT NULL UNIQUE,
    thread_id {text} NOT NULL,
    assistant_id {text} NOT NULL,
    model {text},
    status {text} NOT NULL,
    version {number} NOT NULL,
    event {text},
    source {text},
    at {number} NOT NULL,
    actor {text},
    detail {json},
    created_at {number} NOT NULL,
    expires_at {number},
    started_at {number},
    cancelled_at {number},
    failed_at {number},
    completed_at {number},
    required_action {json},
    last_error {json},
    incomplete_details {json},
    usage {json},
    queue {text} NOT NULL,
    priority {number} NOT NULL,
    not_before {number},
    ready_at {number},
    exclusive {text},
    idempotency_key {text},
    worker {number},
    attempt {number} NOT NULL
){dialect.hot_table_options}"""


_INDEXES: Final = (
    # What may be claimed, in the order it is claimed.
    f"""\
CREATE INDEX runstate_run_claim ON runstate_run (queue, priority DESC, seq)
    WHERE status = '{INITIAL_STATUS}' AND ready_at IS NOT NULL""",
    # What waits for its time, or behind its thread's live run.
    f"""\
CREATE INDEX runstate_run_waiting ON runstate_run (not_before)
    WHERE status = '{INITIAL_STATUS}' AND ready_at IS NULL""",
    # The runs of a thread, as the API lists them.
    "CREATE INDEX runstate_run_thread ON runstate_run (thread_id, seq)",
    "CREATE INDEX runstate_run_worker ON runstate_run (worker) WHERE worker IS NOT NULL",
    "CREATE INDEX runstate_run_deadline ON runstate_run (expires_at) WHERE expires_at IS NOT NULL",
    f"""\
CREATE UNIQUE INDEX runstate_run_one_live ON runstate_run (thread_id)
    WHERE {occupies_thread()}""",
    f"""\
CREATE INDEX runstate_run_behind ON runstate_run (thread_id, seq)
    WHERE exclusive = 'queue' AND ready_at IS NULL AND status = '{INITIAL_STATUS}'""",
    "CREATE UNIQUE INDEX runstate_run_key ON runstate_run (idempotency_key) WHERE idempotency_key IS NOT NULL",
)


def create_tables(dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that make the tables and indexes of an empty store."""
    number, json = dialect.number, dialect.json
    history = f"""\
CREATE TABLE runstate_history (
    {dialect.history_key}run {number} NOT NULL,
    version {number} NOT NULL,
    event TEXT,
    source TEXT,
    target TEXT NOT NULL,
    at {number} NOT NULL,
    actor TEXT,
    detail {json},
{dialect.history_end}"""
    settings = f"""\
CREATE TABLE runstate_settings (
    id {dialect.text} PRIMARY KEY NOT NULL,  -- as that of the run: by another collation no index would be used
    settings {json} NOT NULL{dialect.check_object("settings")}
){dialect.table_options}"""
    notes = f"""\
CREATE TABLE runstate_notes (
    run {number} PRIMARY KEY NOT NULL,
    checkpoint {json}{dialect.check_json("checkpoint")},
    prompt_tokens {number} NOT NULL DEFAULT 0,
    completion_tokens {number} NOT NULL DEFAULT 0,
    progress TEXT
){dialect.table_options}"""
    # The session 0 has no worker and is closed for ever: a run that its worker released belongs to it.
    worker = f"""\
CREATE TABLE runstate_worker (
    token {number} PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    began_at {number} NOT NULL,
    lease_until {number} NOT NULL,
    closed {number} NOT NULL CHECK (closed IN (0, 1))
){dialect.table_options}"""
    nobody = "INSERT INTO runstate_worker VALUES (0, 'nobody', 0, 0, 1)"
    return (_run_table(dialect), *_INDEXES, history, *dialect.history_indexes, settings, notes, worker, nobody)
