"""The tables of a store and their indexes, in both dialects. The guards that hold the law stand in `guards.py`.

One small hot row a run, rewritten at every transition; everything large or rare stands beside it: the settings a run
was created with, what its worker noted, its history. (A PostgreSQL update copies the whole row, and SQLite's rewrites
it with its overflow pages.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunStatus

__all__ = [
    "ENDED",
    "LIVE",
    "POSTGRES",
    "SQLITE",
    "TABLES",
    "Dialect",
    "create_tables",
    "occupies_thread",
    "sql_list",
    "thread_lock_sql",
]

TABLES: Final = ("runstate_run", "runstate_history", "runstate_settings", "runstate_notes", "runstate_worker")


@attrs.frozen
class Dialect:
    """What a dialect calls things, where the two differ."""

    name: str
    number: str
    """The type of a 64-bit integer."""
    json: str
    """The type of a column that holds JSON text."""
    text: str
    """The type of a text that is compared byte by byte."""
    serial_key: str
    """The type of a key that the database counts up."""
    null_safe_eq: str
    """The comparison that takes two nulls for equal."""
    false: str
    """False."""
    table_options: str
    hot_table_options: str
    """The same for the table whose rows change often."""

    def is_json(self, column: str) -> str:
        """Return the CHECK that a column holds JSON; empty where its type says so already."""
        return "" if self.json == "json" else f" CHECK ({column} IS NULL OR json_valid({column}))"

    def is_object(self, column: str) -> str:
        """Return the CHECK that a column holds a JSON object: the JSON null is not NULL, and says as little."""
        if self.json == "json":
            return f" CHECK (json_typeof({column}) = 'object')"
        return f" CHECK ({column} IS NULL OR (json_valid({column}) AND json_type({column}) = 'object'))"


SQLITE: Final = Dialect(
    name="sqlite",
    number="INTEGER",
    json="TEXT",
    text="TEXT",
    serial_key="INTEGER PRIMARY KEY AUTOINCREMENT",  # or the number of a run that was pruned would be given again
    null_safe_eq="IS",
    false="0",
    table_options=" STRICT",
    hot_table_options=" STRICT",
)
POSTGRES: Final = Dialect(
    name="postgres",
    number="bigint",
    json="json",
    text='text COLLATE "C"',
    serial_key="bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    null_safe_eq="IS NOT DISTINCT FROM",
    false="false",
    table_options="",
    # Dead rows are made at every transition; let the page hold some, and let them be swept often.
    hot_table_options=" WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01,"
    " autovacuum_analyze_scale_factor = 0.02)",
)


def sql_list(words: Sequence[str]) -> str:
    """Return names of the law as a list of SQL literals. They are identifiers, so there is nothing to escape."""
    if not all(word.replace("_", "").replace(" ", "").isalpha() for word in words):
        raise ValueError(f"not the words of a law: {words}")
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


def thread_lock_sql(thread: str) -> str:
    """Return PostgreSQL's call that holds a thread until the commit. All who do so must mean the same lock."""
    return f"pg_advisory_xact_lock(hashtextextended('runstate ' || {thread}, 0))"


def _run_table(words: Dialect) -> str:
    # What a row must be stands in `guards.py`: PostgreSQL reads every CHECK anew at each statement.
    number, json, text = words.number, words.json, words.text
    return f"""\
CREATE TABLE runstate_run (
    seq {words.serial_key},
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
){words.hot_table_options}"""


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


def create_tables(words: Dialect) -> tuple[str, ...]:
    """Return the statements that make the tables and indexes of an empty store."""
    number, json = words.number, words.json
    sqlite = words is SQLITE
    # Counted up for ever: who reads on from a place must not miss an entry that got the number of a pruned one.
    history_key = "id INTEGER PRIMARY KEY AUTOINCREMENT,\n    " if sqlite else ""
    history_end = (
        f"    UNIQUE (run, version)\n){words.table_options}" if sqlite else "    PRIMARY KEY (run, version)\n)"
    )
    # PostgreSQL's transactions commit in another order than they began: who reads on from a place in the history of
    # all runs needs to know which were still under way.
    transaction = "" if sqlite else "    tx bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),\n"
    history = f"""\
CREATE TABLE runstate_history (
    {history_key}run {number} NOT NULL,
    version {number} NOT NULL,
    event TEXT,
    source TEXT,
    target TEXT NOT NULL,
    at {number} NOT NULL,
    actor TEXT,
    detail {json},
{transaction}{history_end}"""
    settings = f"""\
CREATE TABLE runstate_settings (
    id {words.text} PRIMARY KEY NOT NULL,  -- as that of the run: by another collation no index would be used
    settings {json} NOT NULL{words.is_object("settings")}
){words.table_options}"""
    notes = f"""\
CREATE TABLE runstate_notes (
    run {number} PRIMARY KEY NOT NULL,
    checkpoint {json}{words.is_json("checkpoint")},
    prompt_tokens {number} NOT NULL DEFAULT 0,
    completion_tokens {number} NOT NULL DEFAULT 0,
    progress TEXT
){words.table_options}"""
    # The session 0 is nobody's and closed for ever: a run that its worker released belongs to it.
    worker = f"""\
CREATE TABLE runstate_worker (
    token {number} PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    began_at {number} NOT NULL,
    lease_until {number} NOT NULL,
    closed {number} NOT NULL CHECK (closed IN (0, 1))
){words.table_options}"""
    nobody = "INSERT INTO runstate_worker VALUES (0, 'nobody', 0, 0, 1)"
    brin = (
        ()
        if sqlite
        else ("CREATE INDEX runstate_history_tx ON runstate_history USING brin (tx) WITH (autosummarize = on)",)
    )
    return (_run_table(words), *_INDEXES, history, *brin, settings, notes, worker, nobody)
