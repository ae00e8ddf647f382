"""The tables of a store and their indexes, in both dialects. The triggers are in `triggers/`.

A run has one small row, which every transition rewrites. What is large or rare stands in other tables: the
configuration that the run was created with, the checkpoint of its worker, its history. (A PostgreSQL update
copies the whole row, and SQLite rewrites it with its overflow pages.)
"""

from __future__ import annotations

from typing import Final

from runstate.run.validators import YEAR_10000
from runstate.store._sql.dialect import Dialect

__all__ = ["TABLES", "create_tables"]

TABLES: Final = (
    "runstate_run",
    "runstate_history",
    "runstate_run_config",
    "runstate_checkpoint",
    "runstate_worker_session",
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
    changed_at_us {number} NOT NULL,
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
    not_before_us {number},
    claimable_at_us {number},
    thread_policy {text},
    idempotency_key {text},
    worker {number},
    attempt {number} NOT NULL
){dialect.hot_table_options}"""


_INDEXES: Final = (
    # The runs of a thread, as the API lists them.
    "CREATE INDEX runstate_run_thread ON runstate_run (thread_id, seq)",
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
    at_us {number} NOT NULL,
    actor TEXT,
    detail {json},
{dialect.history_end}"""
    config = f"""\
CREATE TABLE runstate_run_config (
    id {dialect.text} PRIMARY KEY NOT NULL,  -- as that of the run: by another collation no index would be used
    config {json} NOT NULL{dialect.check_object("config")}
){dialect.table_options}"""
    checkpoint = f"""\
CREATE TABLE runstate_checkpoint (
    run {number} PRIMARY KEY NOT NULL,
    checkpoint {json}{dialect.check_json("checkpoint")},
    prompt_tokens {number} NOT NULL DEFAULT 0,
    completion_tokens {number} NOT NULL DEFAULT 0,
    progress TEXT,
    CHECK (prompt_tokens >= 0 AND completion_tokens >= 0)
){dialect.table_options}"""
    # The session 0 has no worker and is closed for ever: a run that its worker released belongs to it.
    worker = f"""\
CREATE TABLE runstate_worker_session (
    token {number} PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    began_at_us {number} NOT NULL,
    lease_until_us {number} NOT NULL,
    closed {number} NOT NULL CHECK (closed IN (0, 1)),
    CHECK (token >= 0 AND began_at_us >= 0 AND lease_until_us >= began_at_us),
    CHECK (lease_until_us < {YEAR_10000 * 1_000_000})
){dialect.table_options}"""
    released = "INSERT INTO runstate_worker_session VALUES (0, 'released', 0, 0, 1)"
    return (
        _run_table(dialect),
        *_INDEXES,
        *dialect.lookups.ddl,
        history,
        *dialect.history_indexes,
        config,
        checkpoint,
        worker,
        released,
    )
