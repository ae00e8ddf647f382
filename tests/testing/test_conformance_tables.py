"""The conformance of SQL tables, in SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from runstate.testing.conformance import SqlTableAdapter, check_conformance
from tests.support.lifecycle import PAIRS

pytestmark = pytest.mark.slow  # a check of conformance of a whole implementation asks some thousand things

FIELDS: Final = ("required_action", "last_error", "incomplete_details", "usage")
TIMES: Final = ("created_at", "expires_at", "started_at", "cancelled_at", "failed_at", "completed_at")
TABLE: Final = (
    "CREATE TABLE run (id text PRIMARY KEY, status text NOT NULL, "
    f"{', '.join(f'{name} bigint' for name in TIMES)}, {', '.join(f'{name} text' for name in FIELDS)})"
)


def moves(given: Callable[[str], str], now: str = "") -> dict[str, str]:
    """Return a statement for each event; `given` writes a parameter as the driver wants it."""
    at = now or given("at")
    done = "expires_at = NULL, required_action = NULL, usage = '{}'"
    live = "('queued', 'in_progress', 'requires_action', 'cancelling')"
    written = {
        "start": ("in_progress", f"started_at = {at}", "= 'queued'"),
        "require_action": ("requires_action", "required_action = '{}'", "= 'in_progress'"),
        "submit_tool_outputs": ("queued", "required_action = NULL", "= 'requires_action'"),
        "request_cancel": ("cancelling", "required_action = NULL", "IN ('queued', 'in_progress', 'requires_action')"),
        "confirm_cancel": ("cancelled", f"cancelled_at = {at}, {done}", "= 'cancelling'"),
        "complete": ("completed", f"completed_at = {at}, {done}", "IN ('in_progress', 'cancelling')"),
        "mark_incomplete": (
            *("incomplete", f"completed_at = {at}, incomplete_details = '{{}}', {done}"),
            "IN ('in_progress', 'cancelling')",
        ),
        "fail": ("failed", f"failed_at = {at}, last_error = '{{}}', {done}", f"IN {live}"),
        "expire": ("expired", f"completed_at = {at}, {done}", f"IN {live}"),
    }
    return {
        event: f"UPDATE run SET status = '{status}', {fields} WHERE id = {given('id')} AND status {where}"
        for event, (status, fields, where) in written.items()
    }


def table(connect: Callable[[], Any], given: Callable[[str], str], **other: Any) -> SqlTableAdapter:
    """Return an adapter for a table."""
    with closing(connect()) as connection:
        connection.execute(TABLE)
        connection.commit()
    created = (
        f"INSERT INTO run (id, status, created_at, expires_at) VALUES ({given('id')}, 'queued', {given('at')}, 2e9)"
    )
    settings = {"create": created, "moves": moves(given), "read": f"SELECT * FROM run WHERE id = {given('id')}"}
    return SqlTableAdapter(connect, **{**settings, **other})


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[], Any], Callable[[str], str]]:
    """How to connect to an empty database, and how its driver writes parameters."""
    if request.param == "sqlite":

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(tmp_path / "runs.db", timeout=30)
            connection.execute("PRAGMA synchronous = OFF")
            return connection

        return connect, (lambda name: f":{name}")
    url: str = request.getfixturevalue("postgres_url")
    return (lambda: psycopg.connect(url)), (lambda name: f"%({name})s")


Database = tuple[Callable[[], Any], Callable[[str], str]]


def test_tables(database: Database) -> None:
    """A table whose statements name where a run must stand holds, also when two ask at once."""
    report = check_conformance(table(*database), race_rounds=1)
    report.assert_conforms()
    assert dict.fromkeys(PAIRS, "holds") == report.cells
    assert {"cell": 81, "walk": 49, "repeat": 19, "race": 56} == report.checked


def test_tables_that_return_rows(database: Database) -> None:
    """A statement may return the rows that it moved."""
    connect, given = database
    returning = {event: f"{sql} RETURNING id, status" for event, sql in moves(given).items()}
    assert check_conformance(table(connect, given, moves=returning), race_rounds=0).conforms


def test_tables_that_tell_the_time_themselves(database: Database) -> None:
    """The time of statements that do not take it is not the conformance kit's to move."""
    connect, given = database
    own = table(connect, given, moves=moves(given, now="1900000000"))
    assert not hasattr(own, "advance")
    assert check_conformance(own, race_rounds=0, time_step_s=0).conforms


def test_tables_that_forget_a_condition(database: Database) -> None:
    """A statement without a condition overwrites what has ended."""
    connect, given = database
    careless = moves(given)
    careless["complete"] = careless["complete"].partition(" AND ")[0]
    report = check_conformance(table(connect, given, moves=careless), race_rounds=1)
    assert [("cell", "complete", "accepted")] * 7 == [
        (violation.requirement, violation.event, violation.found[:8]) for violation in report.violations
    ]


def test_tables_that_break(database: Database) -> None:
    """An error of the database is a breakage, unless it is said to be a refusal."""
    connect, given = database
    missing = moves(given)
    missing["fail"] = missing["fail"].replace("failed_at", "failed_on")
    report = check_conformance(table(connect, given, moves=missing), race_rounds=1)
    assert {"fail"} == {violation.event for violation in report.violations}
    assert all(violation.found.startswith("it broke: ") for violation in report.violations)
    assert "failed_on" in report.violations[0].found
    kinds = (sqlite3.Error, psycopg.Error)
    refused = check_conformance(table_again(connect, given, moves=missing, refused=kinds), race_rounds=0)
    assert all(violation.found.startswith("refused: ") for violation in refused.violations)


def table_again(connect: Callable[[], Any], given: Callable[[str], str], **other: Any) -> SqlTableAdapter:
    with closing(connect()) as connection:
        connection.execute("DROP TABLE run")
        connection.commit()
    return table(connect, given, **other)


def test_a_table_without_a_statement(database: Database) -> None:
    """An event without a statement is not offered."""
    connect, given = database
    few = {event: sql for event, sql in moves(given).items() if event != "expire"}
    report = check_conformance(table(connect, given, moves=few), race_rounds=0)
    assert report.conforms
    assert 8 == report.count("not offered")


def test_a_table_that_inserts_nothing(database: Database) -> None:
    """A run that is not there when it was inserted was not made."""
    connect, given = database
    empty = f"INSERT INTO run (id, status) SELECT {given('id')}, 'queued' WHERE 1 = 0"
    (violation,) = check_conformance(table(connect, given, create=empty)).violations
    assert "no run was made: LookupError: no row has its id" == violation.found
