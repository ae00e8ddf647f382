"""The doctor finds what is wrong with a store: guards that are gone, runs that cannot be, what nobody looks after."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import psycopg
import pytest
from click.testing import CliRunner

from runstate import ManualClock, RunEvent, use_clock
from runstate.cli import cli
from runstate.errors import InvalidRun, SchemaMismatch, StoreError, StoreUnavailable, StoreUrlError
from runstate.store import Store, doctor, open_store
from runstate.store._api.url import database_at
from runstate.store._sql.dialect import POSTGRES, SQLITE
from runstate.store._sqlite.connection import SqliteConnection, SqliteDatabase
from runstate.store.doctor import Diagnosis, Finding, examine, health, histories, schema
from tests.support.guards import drop_guards, make_guards
from tests.support.lifecycle import CALL, NOW, USED
from tests.support.postgres import postgres_server, postgres_url, wait_until

__all__ = ["postgres_server", "postgres_url"]  # so that tests here can ask for them


UNCHECKED = """\
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = 'runstate_run'::regclass LOOP
        EXECUTE 'ALTER TABLE runstate_run DROP CONSTRAINT ' || name;
    END LOOP;
END $$"""


@attrs.frozen
class Patient:
    """A store, and a way to its database past it."""

    url: str
    store: Store

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    @property
    def path(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    def query(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute statements by hand, and return the rows of the last."""
        if self.is_sqlite:
            with closing(sqlite3.connect(self.path, isolation_level=None, timeout=60)) as connection:
                return [connection.execute(statement) for statement in statements][-1].fetchall()
        with psycopg.connect(self.url, autocommit=True) as server:
            cursors = [server.execute(statement.encode()) for statement in statements]
            return cursors[-1].fetchall() if cursors[-1].description else []

    def unguarded(self, *statements: str) -> None:
        """Execute statements while the guards are away, as somebody with all rights can."""
        words = SQLITE if self.is_sqlite else POSTGRES
        unchecked = ["PRAGMA ignore_check_constraints = 1"] if self.is_sqlite else [UNCHECKED]
        self.query(*unchecked, *drop_guards(words), *statements, *make_guards(words))

    def run(self, *events: str, **given: Any) -> str:
        """Bring a new run along these events, and return its id."""
        asked: dict[str, Callable[[str], object]] = {
            "start": self.store.start,
            "require_action": lambda run_id: self.store.require_action(run_id, [CALL]),
            "submit_tool_outputs": lambda run_id: self.store.submit_tool_outputs(run_id, {"call_1": "sunny"}),
            "request_cancel": self.store.request_cancel,
            "confirm_cancel": self.store.confirm_cancel,
            "complete": lambda run_id: self.store.complete(run_id, USED),
            "mark_incomplete": lambda run_id: self.store.mark_incomplete(run_id, "max_prompt_tokens"),
            "fail": lambda run_id: self.store.fail(run_id, "server_error", "it broke"),
            "expire": self.store.expire,
        }
        names: dict[str, Any] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "m", **given}
        run_id = self.store.create(**names).id
        for event in events:
            asked[event](run_id)
        return run_id

    def examine(self, **how: Any) -> Diagnosis:
        """Examine it as it is."""
        return examine(database_at(self.url), **how)

    def only(self, **how: Any) -> Finding:
        """Examine it, and return the one thing that is found."""
        findings = self.examine(**how).findings
        assert 1 == len(findings), findings
        return findings[0]


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Patient]:
    """A healthy store in an SQLite file."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with open_store(url) as store:
        yield Patient(url, store)


@pytest.fixture
def on_postgres(request: pytest.FixtureRequest) -> Iterator[Patient]:
    """A healthy store in PostgreSQL."""
    url = request.getfixturevalue("postgres_url")
    with open_store(url, migrate=True) as store:
        yield Patient(url, store)


@pytest.fixture(params=["on_sqlite", pytest.param("on_postgres", marks=pytest.mark.slow)])
def patient(request: pytest.FixtureRequest) -> Patient:
    """A healthy store in either."""
    found: Patient = request.getfixturevalue(request.param)
    return found


EVERYWHERE = (
    *((), ("start",), ("start", "require_action"), ("start", "require_action", "submit_tool_outputs")),
    *(("start", "request_cancel"), ("start", "request_cancel", "confirm_cancel"), ("request_cancel",)),
    *(("start", "complete"), ("start", "mark_incomplete"), ("start", "fail"), ("expire",), ("start", "expire")),
)


def test_a_healthy_store_has_no_findings(patient: Patient) -> None:
    """Runs in every status, a worker at work, and a run that was pruned."""
    lease = patient.store.open_lease("worker", lease_s=600)
    patient.run("start", "complete")
    patient.store.prune(0)
    for events in EVERYWHERE:
        patient.run(*events)
    patient.run(queue="other")
    assert patient.store.claim(lease, 1, queues=["other"])
    found = patient.examine(quick_check=True)
    assert ((), ()) == (found.findings, found.unseen)
    assert (len(EVERYWHERE) + 1, {"run": 2, "step": 2, "event": 2, "queue": 1}) == (found.runs, found.schema)
    assert found.entries == patient.query("SELECT count(*) FROM runstate_history")[0][0]
    assert patient.url.split("?")[0].split("@")[-1].split("/")[-1] in found.shown


def test_a_store_may_be_given_itself(patient: Patient) -> None:
    """The doctor takes the store or its database, and one in memory while others use it."""
    patient.run("start")
    assert () == examine(patient.store).findings
    with open_store("sqlite:///:memory:") as store:
        store.create(thread_id="t", assistant_id="a", model="m")
        assert (1, ()) == (examine(store).runs, examine(store).findings)
        store.create(thread_id="t", assistant_id="a", model="m")


def test_it_tells_how_far_it_is(patient: Patient) -> None:
    """Whoever waits for a large store hears of it."""
    patient.run()
    heard: list[tuple[str, int, int]] = []
    patient.examine(progress=lambda *told: heard.append(told))
    assert [("histories", 1, 1), ("newest runs", 1, 1)] == heard


@pytest.mark.parametrize(
    "how",
    [{"stuck_after_s": -1}, {"stuck_after_s": float("nan")}, {"newest": -1}, {"most": 0}, {"old_snapshot_s": "1h"}],
)
def test_impossible_arguments_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(InvalidRun, match=next(iter(how))):
        examine(database_at("sqlite:///:memory:"), **how)


# --- the schema -------------------------------------------------------------------------------------------------------


def test_a_database_without_a_store_is_refused(tmp_path: Path, on_postgres: Patient) -> None:
    """There is nothing to examine where there is no store, or no database."""
    with pytest.raises(StoreUrlError):
        examine(database_at(f"sqlite:///{tmp_path / 'nothing.db'}"))
    assert not (tmp_path / "nothing.db").exists()
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE other (x)").connection.close()
    with pytest.raises(SchemaMismatch, match="runstate migrate"):
        examine(database_at(f"sqlite:///{tmp_path / 'empty.db'}"))
    on_postgres.query("DROP TABLE runstate_migration")
    with pytest.raises(SchemaMismatch, match="has no store in it"):
        on_postgres.examine()


@pytest.mark.parametrize(
    ("change", "sentence", "remedy"),
    [
        (
            "INSERT INTO runstate_migration VALUES ('run', 99, 'of tomorrow', 99, 0)",
            "made by a newer runstate",
            "upgrade",
        ),
        (
            "DELETE FROM runstate_migration WHERE component = 'run' AND number = 2",
            "has schema run 1",
            "runstate migrate",
        ),
    ],
)
def test_another_schema_is_one_error(patient: Patient, change: str, sentence: str, remedy: str) -> None:
    """What it would have to look like nobody knows, so nothing else is said of it."""
    patient.unguarded(change)
    found = patient.only()
    assert ("error", "schema") == (found.severity, found.what)
    assert sentence in found.sentence
    assert remedy in found.remedy


@pytest.mark.slow
def test_every_guard_that_is_gone_is_named(patient: Patient) -> None:
    """One after the other is dropped, found, and put back."""
    if patient.is_sqlite:
        guards = patient.query("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
    else:
        guards = patient.query(
            "SELECT tgname, tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"
        )
    assert len(guards) > 15
    for name, table, definition in guards:
        patient.query(f"DROP TRIGGER {name}" if patient.is_sqlite else f"DROP TRIGGER {name} ON {table}")
        found = patient.only()
        assert ("error", "guard", name) == (found.severity, found.what, found.thing)
        assert f"the guard {name} on {table} is gone" in found.sentence
        assert "runstate ddl --dialect" in found.remedy
        patient.query(definition)
    assert () == patient.examine().findings


def test_a_disabled_guard_is_named(on_postgres: Patient) -> None:
    """Also one that only replication obeys; one that always stands may stay so."""
    for how in ("DISABLE", "ENABLE REPLICA"):
        on_postgres.query(f"ALTER TABLE runstate_run {how} TRIGGER runstate_moved")
        found = on_postgres.only()
        assert ("error", "guard", "runstate_moved") == (found.severity, found.what, found.thing)
        assert "is disabled" in found.sentence
        on_postgres.query(found.remedy.removeprefix("enable it: "))
        assert () == on_postgres.examine().findings
    on_postgres.query("ALTER TABLE runstate_run ENABLE ALWAYS TRIGGER runstate_moved")
    assert () == on_postgres.examine().findings
    on_postgres.query("ALTER TABLE runstate_run DISABLE TRIGGER ALL")
    assert {"guard"} == {finding.what for finding in on_postgres.examine().errors}


def test_a_role_that_obeys_no_guard_is_an_error(on_postgres: Patient) -> None:
    """With another session_replication_role every guard stands there and none is obeyed."""
    name = on_postgres.query("SELECT current_database()")[0][0]
    on_postgres.query(f"ALTER DATABASE {name} SET session_replication_role = replica")
    found = on_postgres.only()
    assert "no guard is obeyed" in found.sentence


def test_an_altered_guard_is_named(patient: Patient) -> None:
    """A guard of the same name that never does anything is found, also by the function it calls."""
    if patient.is_sqlite:
        patient.query(
            "DROP TRIGGER runstate_moved",
            "CREATE TRIGGER runstate_moved AFTER UPDATE ON runstate_run WHEN false BEGIN SELECT 1; END",
        )
        assert ("guard", "runstate_moved") == (patient.only().what, patient.only().thing)
        return
    patient.query(
        "CREATE OR REPLACE TRIGGER runstate_moved AFTER UPDATE ON runstate_run FOR EACH ROW WHEN (false)"
        " EXECUTE FUNCTION runstate_moved()"
    )
    assert ("guard", "runstate_moved") == (patient.only().what, patient.only().thing)
    patient.query("CREATE OR REPLACE FUNCTION runstate_moved() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'")
    found = {(finding.what, finding.thing) for finding in patient.examine().errors}
    assert {("guard", "runstate_moved"), ("function", "runstate_moved")} == found


def test_a_guard_that_calls_another_schema_is_named(on_postgres: Patient) -> None:
    """A function of the same name elsewhere is not the library's."""
    definition = on_postgres.query("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'runstate_moved'")
    head, _, call = definition[0][0].rpartition("EXECUTE FUNCTION ")
    on_postgres.query(
        "CREATE SCHEMA elsewhere",
        "CREATE FUNCTION elsewhere.runstate_moved() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP TRIGGER runstate_moved ON runstate_run",
        f"{head} EXECUTE FUNCTION elsewhere.{call.removeprefix('public.')}",
    )
    assert ("guard", "runstate_moved") == (on_postgres.only().what, on_postgres.only().thing)


def test_a_trigger_that_can_undo_a_guard_is_a_warning(on_postgres: Patient) -> None:
    """What runs after the guards can change what they have seen; what only looks on cannot."""
    on_postgres.query(
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER zz AFTER UPDATE ON runstate_run FOR EACH ROW EXECUTE FUNCTION other()",
    )
    assert () == on_postgres.examine().findings
    on_postgres.query("CREATE TRIGGER zzz BEFORE UPDATE ON runstate_run FOR EACH ROW EXECUTE FUNCTION other()")
    assert ("warning", "trigger", "zzz") == (
        on_postgres.only().severity,
        on_postgres.only().what,
        on_postgres.only().thing,
    )


def index_of_claims(patient: Patient) -> str:
    """Return the name of the index by which runs are claimed."""
    return "runstate_run_claim" if patient.store.dialect == "sqlite" else "runstate_claimable_next"


def test_a_small_table_that_lacks_a_run_is_named(on_postgres: Patient) -> None:
    """What was changed with the triggers off is told for each table, with what to do."""
    on_postgres.run("start")
    on_postgres.store.create(thread_id="t", assistant_id="a", model="m")
    on_postgres.query(
        "SET session_replication_role = replica",
        "DELETE FROM runstate_claimable",
        "DELETE FROM runstate_idle",
        "INSERT INTO runstate_thread VALUES ('t', 99)",
        "INSERT INTO runstate_problem VALUES (99, 'failed', 0, 1)",
        "INSERT INTO runstate_count VALUES ('completed', 1), ('failed', -1)",
        "SET session_replication_role = origin",
    )
    found = on_postgres.examine().findings
    assert [
        ("error", "lookup", f"runstate_{name}") for name in ("claimable", "count", "idle", "problem", "thread")
    ] == sorted((one.severity, one.what, one.thing) for one in found)
    (count,) = (one.sentence for one in found if one.thing == "runstate_count")
    assert "a wrong number of runs that are completed or failed" in count
    printed = CliRunner().invoke(cli, ["ddl", "--rebuild"]).stdout
    on_postgres.query(*(statement for statement in printed.split(";\n") if statement))
    assert () == on_postgres.examine().findings


def test_a_lost_index_is_as_bad_as_what_it_does(patient: Patient) -> None:
    """Without a unique one the law has a hole; without another it is slow."""
    patient.query("DROP INDEX runstate_run_key")
    assert ("error", "runstate_run_key") == (patient.only().severity, patient.only().thing)
    patient.query("CREATE INDEX runstate_run_key ON runstate_run (idempotency_key)")
    assert "not as this library makes it" in patient.only().sentence
    patient.query(
        "DROP INDEX runstate_run_key",
        "CREATE UNIQUE INDEX runstate_run_key ON runstate_run (idempotency_key) WHERE idempotency_key IS NOT NULL",
        f"DROP INDEX {index_of_claims(patient)}",
    )
    assert ("warning", index_of_claims(patient)) == (patient.only().severity, patient.only().thing)


def test_an_index_that_is_not_used_is_named(on_postgres: Patient) -> None:
    """One that was being made when somebody interrupted it stands there, and keeps nothing unique."""
    on_postgres.query("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'runstate_run_key'::regclass")
    found = on_postgres.only()
    assert ("error", "index", "runstate_run_key") == (found.severity, found.what, found.thing)
    on_postgres.query(found.remedy.removeprefix("enable it: "))
    assert () == on_postgres.examine().findings


def test_altered_tables_are_named(patient: Patient) -> None:
    """A column, a check, a whole table."""
    patient.query("ALTER TABLE runstate_checkpoint DROP COLUMN trace_context")
    assert ("error", "trace_context" if not patient.is_sqlite else "runstate_checkpoint") == (
        patient.only().severity,
        patient.only().thing,
    )
    patient.query("DROP VIEW runstate_runs", "DROP TABLE runstate_checkpoint")
    view, table = sorted(patient.examine().findings, key=lambda finding: finding.severity, reverse=True)
    assert ("warning", "view", "runstate_runs") == (view.severity, view.what, view.thing)
    assert "the view runstate_runs is gone: clients that read it fail" == view.sentence
    assert ("error", "table", "runstate_checkpoint") == (table.severity, table.what, table.thing)
    assert "the table runstate_checkpoint is gone" in table.sentence


def test_a_view_that_was_changed_is_named(patient: Patient) -> None:
    """What it is made of is compared, not only that it is there."""
    patient.query("DROP VIEW runstate_entries", "CREATE VIEW runstate_entries AS SELECT 1 AS x")
    found = patient.only()
    assert ("warning", "view", "runstate_entries") == (found.severity, found.what, found.thing)
    assert "is not as this library makes it" in found.sentence


@pytest.mark.parametrize(
    ("change", "thing"),
    [
        ("ALTER TABLE runstate_run DROP CONSTRAINT runstate_run_pkey", "runstate_run_pkey"),
        ("ALTER TABLE runstate_run ALTER queue DROP NOT NULL", "queue"),
        ("ALTER TABLE runstate_checkpoint ALTER prompt_tokens DROP DEFAULT", "prompt_tokens"),
        ("ALTER TABLE runstate_checkpoint ALTER trace_context TYPE varchar", "trace_context"),
        ("ALTER TABLE runstate_history SET UNLOGGED", "runstate_history"),
        ("ALTER TABLE runstate_run ENABLE ROW LEVEL SECURITY", "runstate_run"),
    ],
)
def test_what_else_can_be_altered(on_postgres: Patient, change: str, thing: str) -> None:
    on_postgres.query(change)
    assert thing in {finding.thing for finding in on_postgres.examine().errors}


@pytest.mark.slow
def test_a_check_that_is_gone_is_named(on_postgres: Patient) -> None:
    checks = (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'"
    )
    found = on_postgres.query(f"{checks} AND conrelid::regclass::text LIKE 'runstate_%'")
    assert found
    for table, name, definition in found:
        on_postgres.query(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        assert ("error", "constraint", name) == (lambda f: (f.severity, f.what, f.thing))(on_postgres.only())
        on_postgres.query(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID")
        assert name == on_postgres.only().thing
        on_postgres.query(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
    assert () == on_postgres.examine().findings


def test_it_works_in_a_schema_of_its_own(on_postgres: Patient) -> None:
    """Tables that stand elsewhere than in public are compared all the same, and a name with quotes is one."""
    on_postgres.query('CREATE SCHEMA "Our Runs"')
    path = quote('-csearch_path="Our\\ Runs"')
    with open_store(f"{on_postgres.url}&options={path}", migrate=True) as store:
        store.create(thread_id="t", assistant_id="a", model="m")
        assert () == examine(store).findings


def test_without_the_right_to_compare_it_says_so(on_postgres: Patient) -> None:
    """A role that may make no temporary table, and a database that takes no writes, are told; the rest is examined."""
    on_postgres.run()
    for options, remedy in (("-crole=pg_read_all_data", "GRANT"), ("-cdefault_transaction_read_only=on", "primary")):
        name = on_postgres.query("SELECT current_database()")[0][0]
        on_postgres.query(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
        found = examine(database_at(f"{on_postgres.url}&options={quote(options)}"))
        assert (1, ["schema"]) == (found.runs, [finding.what for finding in found.warnings])
        assert remedy in found.findings[0].remedy


def test_what_hinders_comparing_is_told(on_postgres: Patient) -> None:
    """A role that may not make functions can examine everything else."""
    on_postgres.query("REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
    found = examine(database_at(f"{on_postgres.url}&options={quote('-crole=pg_read_all_data')}")).findings
    assert [("warning", "schema")] == [(finding.severity, finding.what) for finding in found]
    assert "no right to this" in found[0].sentence


@pytest.mark.parametrize("part", ["schema.compare", "examine_waiting"])
def test_a_database_that_goes_away_is_no_finding(
    on_sqlite: Patient, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking again can help then, so it is raised."""

    def away(*_: object) -> None:
        raise StoreUnavailable("it went away")

    module, _, name = part.rpartition(".")
    monkeypatch.setattr(schema if module else doctor, name, away)
    with pytest.raises(StoreUnavailable):
        on_sqlite.examine()


def test_comparing_leaves_nothing(on_postgres: Patient) -> None:
    """What is made to compare with is gone afterwards."""
    count = "SELECT count(*) FROM pg_class WHERE relname LIKE 'runstate%'"
    before = on_postgres.query(count)
    on_postgres.examine()
    assert before == on_postgres.query(count)


# --- broken runs ------------------------------------------------------------------------------------------------------

SEQ = "(SELECT seq FROM runstate_run WHERE id = '{id}')"
ENTRY = "INSERT INTO runstate_history (run, version, event, source, target, at_us) VALUES "
BROKEN = {
    "is failed, but the last entry": "UPDATE runstate_run SET status = 'failed', usage = '{{}}', expires_at = NULL,"
    " worker = NULL, failed_at = changed_at_us / 1000000, last_error = '{{}}' WHERE id = '{id}'",
    "has another move or time": "UPDATE runstate_run SET source = 'cancelling' WHERE id = '{id}'",
    "has no such entry": f"DELETE FROM runstate_history WHERE version = 2 AND run = {SEQ}",
    "gap in its history before version 2": f"DELETE FROM runstate_history WHERE version = 1 AND run = {SEQ}",
    "a first entry that is not its creation": (
        f"UPDATE runstate_history SET event = 'start' WHERE version = 1 AND run = {SEQ}"
    ),
    "not in the table of transitions, at version 2: complete from queued to in_progress": (
        f"UPDATE runstate_history SET event = 'complete' WHERE version = 2 AND run = {SEQ}"
    ),
    "begins where the one before did not end": (
        f"UPDATE runstate_history SET event = 'fail', source = 'cancelling', target = 'failed' WHERE version = 2"
        f" AND run = {SEQ}"
    ),
    "older than the one before it": f"UPDATE runstate_history SET at_us = 5 WHERE version = 2 AND run = {SEQ}",
    "its history continues with version 3": f"{ENTRY}({SEQ}, 3, 'complete', 'in_progress', 'completed', 9e15)",
}


@pytest.mark.slow
@pytest.mark.parametrize("sentence", BROKEN)
def test_a_broken_run_is_found(patient: Patient, sentence: str) -> None:
    """Rows written past the guards are errors with the run's id; its neighbours are not."""
    patient.run("start", "complete")
    run_id = patient.run("start")
    patient.run("request_cancel")
    patient.unguarded(BROKEN[sentence].format(id=run_id).replace("9e15", "9000000000000000"))
    found = patient.examine().errors
    found = tuple(finding for finding in found if finding.what != "lookup")  # PostgreSQL's, which name a table
    assert {"broken"} >= {finding.what for finding in found if finding.what != "implausible"}
    assert {run_id} == {finding.run_id for finding in found}
    assert [finding for finding in found if sentence in finding.sentence], found


def test_batches_have_no_seams(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is looked at once, wherever a batch begins and ends, and what lies between runs too."""
    ids = [patient.run("start") for _ in range(9)]
    patient.unguarded(f"DELETE FROM runstate_run WHERE id IN ('{ids[2]}', '{ids[5]}', '{ids[8]}')")
    patient.unguarded(f"DELETE FROM runstate_history WHERE version = 1 AND run IN {SEQ.format(id=ids[3])}")
    for batch in range(1, 9):
        monkeypatch.setattr(histories, "_BATCH", batch)
        heard: list[int] = []
        found = patient.examine(progress=lambda what, seen, _, heard=heard: heard.append(seen))
        assert (6, 6, 6) == (found.runs, *heard[-2:])
        assert 4 == len([finding for finding in found.errors if finding.what != "lookup"])
        assert [ids[3]] == [finding.run_id for finding in found.errors if finding.run_id]


def test_a_history_without_a_run_is_found(patient: Patient) -> None:
    """Before the first run, between, and after the last."""
    ids = [patient.run("start", "complete") for _ in range(4)]
    (first, middle, last) = (
        patient.query(f"SELECT seq FROM runstate_run WHERE id = '{ids[n]}'")[0][0] for n in (0, 2, 3)
    )
    patient.unguarded(f"DELETE FROM runstate_run WHERE seq IN ({first}, {middle}, {last})")
    sentences = [f"run number {seq} has a history, but there is no such run" for seq in sorted((first, middle, last))]
    assert sentences == [finding.sentence for finding in patient.examine().errors if finding.what != "lookup"]


IMPLAUSIBLE = {
    "completed_at is set, but no path": "UPDATE runstate_run SET completed_at = 1800000000 WHERE id = '{id}'",
    "started_at is null, but every path": "UPDATE runstate_run SET started_at = NULL WHERE id = '{id}'",
    "is before created_at": "UPDATE runstate_run SET created_at = created_at + 100 WHERE id = '{id}'",
}


@pytest.mark.parametrize("sentence", IMPLAUSIBLE)
def test_an_implausible_run_is_judged(patient: Patient, sentence: str) -> None:
    """However old it is, and however many are newer."""
    run_id = patient.run("start")
    for _ in range(3):
        patient.run()
    patient.unguarded(IMPLAUSIBLE[sentence].format(id=run_id))
    found = [finding for finding in patient.examine(newest=0).findings if finding.what == "implausible"]
    assert [run_id] == [finding.run_id for finding in found]
    assert sentence in found[0].sentence
    again = [finding for finding in patient.examine().findings if finding.what == "implausible"]
    assert found == again  # and not told twice


def test_a_run_that_cannot_be_read_is_an_error(patient: Patient) -> None:
    """A status that is none, and values that no run can hold: told, not raised."""
    unknown, unreadable = patient.run(), patient.run("start", "complete")
    patient.unguarded(
        f"UPDATE runstate_run SET usage = '{{\"prompt_tokens\": -1}}' WHERE id = '{unreadable}'",
        f"UPDATE runstate_run SET status = 'paused' WHERE id = '{unknown}'",
    )
    found = {finding.run_id: finding for finding in patient.examine().errors if finding.what == "implausible"}
    assert "cannot be read" in found[unreadable].sentence
    assert "cannot be read" in found[unknown].sentence
    assert "paused" in found[unknown].sentence


def test_many_findings_of_a_kind_are_counted(patient: Patient) -> None:
    """So many are told one by one, and how many more there are."""
    for _ in range(7):
        patient.run("start")
    patient.unguarded("DELETE FROM runstate_history WHERE version = 2")
    found = patient.examine(most=3).findings
    assert 4 == len(found)
    assert "4 more of the kind 'broken'" == found[-1].sentence
    found = patient.examine(most=3, stuck_after_s=0).findings
    assert ["broken"] * 4 + ["stuck"] * 4 == [finding.what for finding in found]
    assert "4 more of the kind 'stuck'" == found[-1].sentence


def test_errors_come_before_warnings(patient: Patient) -> None:
    """Whichever was found first."""
    patient.run("start")
    patient.query(f"DROP INDEX {index_of_claims(patient)}")
    patient.unguarded("DELETE FROM runstate_history WHERE version = 2")
    assert ["error", "warning"] == [finding.severity for finding in patient.examine().findings]


# --- runs that wait ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    """A clock that the test moves, also for PostgreSQL."""
    with use_clock(ManualClock(float(NOW))) as manual:
        yield manual


def test_a_live_run_that_nobody_moves_is_stuck(clock: ManualClock, patient: Patient) -> None:
    """For as long as the caller says, in whichever live status; an ended one never is."""
    runs = {patient.run(*events, expires_in_s=10**6): events for events in EVERYWHERE}
    patient.run(not_before=NOW + 7000, expires_in_s=10**6)
    clock.advance(200)
    assert () == patient.examine(stuck_after_s=3600).findings
    clock.advance(7000)
    lease = patient.store.open_lease("busy", lease_s=60)
    runs[patient.run(queue="other", expires_in_s=10**6)] = ()
    (claimed,) = patient.store.claim(lease, 1, queues=["other"])
    found = patient.examine(stuck_after_s=3600, most=100).findings
    live = {run_id for run_id in runs if not patient.store.get(run_id).is_terminal} - {claimed.run.id}
    assert live == {finding.run_id for finding in found}
    assert {"stuck", "unowned"} == {finding.what for finding in found}
    clock.advance(50)
    queued = next(f for f in found if f.run_id and patient.store.get(f.run_id).status == "queued")
    assert "has been queued for 2h" in queued.sentence
    assert "workers of the queue 'default'" in queued.remedy
    busy = next(f for f in patient.examine(stuck_after_s=10, most=100).findings if f.run_id == claimed.run.id)
    assert busy.sentence.endswith("has been in_progress for 50s, and worker busy has it")


def test_a_run_that_is_not_ready_says_so(clock: ManualClock, patient: Patient) -> None:
    """One that waits behind its thread's live run is as stuck as that."""
    for _ in range(2):
        patient.run(one_live_run_per_thread="queue", expires_in_s=10**6)
    clock.advance(4000)
    first, second = patient.examine().findings
    assert "behind its thread's live run" not in first.sentence
    assert "behind its thread's live run" in second.sentence


def test_a_passed_deadline_that_nobody_sweeps(clock: ManualClock, patient: Patient) -> None:
    """A minute later it is told; a sweep mends it."""
    run_id = patient.run(expires_in_s=600)
    clock.advance(650)
    assert () == patient.examine().findings
    clock.advance(75)
    found = patient.only()
    assert ("warning", "overdue", run_id) == (found.severity, found.what, found.run_id)
    assert "its deadline passed 2m 5s ago" in found.sentence
    patient.store.sweep()
    assert () == patient.examine().findings


def test_runs_of_a_dead_worker(clock: ManualClock, patient: Patient) -> None:
    """First its lease is lapsed and nobody has closed it, then its run is adrift, then somebody takes over."""
    run_id = patient.run(expires_in_s=10**6)
    lease = patient.store.open_lease("dead", lease_s=30)
    patient.store.claim(lease)
    clock.advance(85)
    assert () == patient.examine().findings  # somebody may be about to sweep
    clock.advance(15)
    found = patient.only()
    assert ("warning", "lapsed", "dead") == (found.severity, found.what, found.thing)
    assert str(lease.token) not in str(found)
    patient.store.sweep()
    found = patient.only()
    assert ("warning", "adrift", run_id) == (found.severity, found.what, found.run_id)
    assert "its worker dead is gone" in found.sentence
    assert str(lease.token) not in str(found)
    other = patient.store.open_lease("other", lease_s=30)
    assert patient.store.take_over(other)
    assert () == patient.examine().findings
    patient.store.release(other, patient.store.get(run_id))
    clock.advance(20)
    patient.store.close_lease(other)
    clock.advance(100)
    assert "its worker released it, and no worker has taken it over" in patient.only().sentence


def test_a_worker_that_went_has_a_moment(clock: ManualClock, patient: Patient) -> None:
    """What it left is taken over by the next, if there is one; it is told when there is none."""
    patient.run(expires_in_s=10**6)
    lease = patient.store.open_lease("gone", lease_s=30)
    patient.store.claim(lease)
    clock.advance(10)
    patient.store.close_lease(lease)
    clock.advance(79)
    assert () == patient.examine().findings
    clock.advance(2)
    assert "adrift" == patient.only().what


def test_a_run_of_an_unknown_session(patient: Patient) -> None:
    """A session that was deleted by hand strands its runs, and so does nobody's."""
    run_id = patient.run()
    lease = patient.store.open_lease("deleted", lease_s=30)
    patient.store.claim(lease)
    patient.unguarded("DELETE FROM runstate_worker_session")
    stranded, nobody = patient.examine().errors
    assert ("stranded", run_id) == (stranded.what, stranded.run_id)
    assert ("row", "runstate_worker_session") == (nobody.what, nobody.thing)
    patient.unguarded("INSERT INTO runstate_worker_session VALUES (0, 'released', 0, 0, 0)")
    assert "runstate_worker_session" in {finding.thing for finding in patient.examine().errors}


def test_a_part_that_cannot_be_read_is_told(patient: Patient) -> None:
    """Where a table is gone, what stands on it is not examined, and the rest is."""
    patient.run()
    patient.query("DROP VIEW runstate_runs", "DROP TABLE runstate_worker_session")
    found = patient.examine()
    assert {"table", "unreadable"} == {finding.what for finding in found.errors}
    assert 1 == found.runs


# --- the database -----------------------------------------------------------------------------------------------------


def test_an_old_snapshot_is_told(on_postgres: Patient) -> None:
    """A transaction that has seen something and stays open holds back cleaning."""
    with psycopg.connect(f"{on_postgres.url}&application_name=reporting") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM runstate_run")
        found = on_postgres.only(old_snapshot_s=0)
        assert ("warning", "snapshot") == (found.severity, found.what)
        assert str(reader.info.backend_pid) == found.thing
        assert "reporting" in found.sentence
        assert () == on_postgres.examine(old_snapshot_s=60).findings
    assert () == on_postgres.examine(old_snapshot_s=0).findings


def test_what_it_may_not_see_is_told(on_postgres: Patient) -> None:
    """Sessions of other roles are hidden from a plain one, and it says so."""
    with psycopg.connect(on_postgres.url):
        found = examine(database_at(f"{on_postgres.url}&options={quote('-crole=pg_read_all_data')}"))
    assert "sessions of other roles" in found.unseen[0]


def test_an_abandoned_slot_is_told(on_postgres: Patient) -> None:
    """A replication slot that nobody reads."""
    name = on_postgres.query("SELECT current_database()")[0][0]
    on_postgres.query(f"SELECT pg_create_physical_replication_slot('{name}', true)")
    try:
        found = [finding for finding in on_postgres.examine().findings if finding.thing == name]
        assert [("warning", "slot")] == [(finding.severity, finding.what) for finding in found]
    finally:
        on_postgres.query(f"SELECT pg_drop_replication_slot('{name}')")


def test_an_abandoned_prepared_transaction_is_told(on_postgres: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives its session, on a server that is configured for them, which this one is not."""
    monkeypatch.setattr(health, "_PREPARED", "SELECT 'forgotten', 7200000000 WHERE %(seconds)s::float8 >= 0")
    found = on_postgres.only()
    assert ("warning", "prepared", "forgotten") == (found.severity, found.what, found.thing)
    assert "left for 2h" in found.sentence


def test_entries_of_another_server_are_told(on_postgres: Patient) -> None:
    """After a dump was restored where fewer transactions have been; what the documentation says then mends it."""
    first = on_postgres.run()
    renumbered = "UPDATE runstate_history SET tx = tx + 1000000000"
    off, on = (f"ALTER TABLE runstate_history {what} TRIGGER USER" for what in ("DISABLE", "ENABLE"))
    for statement in (off, renumbered, on):
        on_postgres.query(statement)
    found = on_postgres.only()
    assert ("error", "restored") == (found.severity, found.what)
    assert () == on_postgres.store.entries()
    backups = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8").partition("## Backups")[2]
    for statement in backups.partition("```sql\n")[2].partition("```")[0].splitlines():
        on_postgres.query(statement)
    assert () == on_postgres.examine().findings
    second = on_postgres.run()
    assert [first, second] == [entry.run_id for entry in on_postgres.store.entries()]


def test_autovacuum_that_is_off_is_told(on_postgres: Patient) -> None:
    """For the table; and dead rows that pile up."""
    on_postgres.query("ALTER TABLE runstate_run SET (autovacuum_enabled = off)")
    found = on_postgres.only()
    assert ("warning", "autovacuum", "runstate_run") == (found.severity, found.what, found.thing)
    on_postgres.query("ALTER TABLE runstate_run SET (autovacuum_enabled = true)")
    assert () == on_postgres.examine().findings


def test_dead_rows_are_told(on_postgres: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are many, and many beside the living."""
    monkeypatch.setattr(health, "_DEAD_MOST", 5)
    on_postgres.query("ALTER TABLE runstate_run SET (autovacuum_enabled = off)")
    on_postgres.store.create_many([{"thread_id": "t", "assistant_id": "a", "model": "m"} for _ in range(10)])
    on_postgres.query("UPDATE runstate_run SET priority = priority", "SELECT pg_stat_force_next_flush()")
    wait_until(
        lambda: "dead rows" in {finding.what for finding in on_postgres.examine(old_snapshot_s=0).findings},
        "the statistics to come",
    )
    assert "dead rows" not in {finding.what for finding in on_postgres.examine().findings}


def test_another_journal_mode_is_told(on_sqlite: Patient) -> None:
    """Without WAL readers and the writer are in each other's way."""
    on_sqlite.store.close()
    on_sqlite.query("PRAGMA journal_mode = DELETE")
    found = on_sqlite.only()
    assert ("warning", "journal") == (found.severity, found.what)
    assert "delete" in found.sentence


def test_a_starved_checkpoint_is_told(on_sqlite: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stays lets the WAL grow; a large one that is moved over is no trouble."""
    monkeypatch.setattr(health, "_WAL_MOST", 100_000)
    reader = sqlite3.connect(on_sqlite.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runstate_run").fetchall()
    on_sqlite.store.create_many([{"thread_id": "t", "assistant_id": "a", "model": "m"} for _ in range(2000)])
    found = on_sqlite.only()
    assert ("warning", "wal", "runs.db-wal") == (found.severity, found.what, found.thing)
    reader.execute("COMMIT")
    assert () == on_sqlite.examine().findings
    reader.close()


class Careless(SqliteDatabase):
    """An SQLite that does not take synchronous = FULL."""

    def open(self, *, reading: bool = False) -> SqliteConnection:
        session = super().open(reading=reading)
        session.execute("PRAGMA synchronous = 1", {})
        return session


class Sealed(SqliteDatabase):
    """One that nobody can write to."""

    def open(self, *, reading: bool = False) -> SqliteConnection:
        if not reading:
            raise StoreError("cannot write to it: it is read-only")
        return super().open(reading=reading)


def test_a_careless_sqlite_is_told(on_sqlite: Patient) -> None:
    """What was acknowledged must be on the disk; who cannot write has nothing to lose."""
    (found,) = examine(Careless(str(on_sqlite.path))).findings
    assert ("error", "journal") == (found.severity, found.what)
    assert () == examine(Sealed(str(on_sqlite.path))).findings
    on_sqlite.store.close()
    assert () == on_sqlite.examine().findings  # without a WAL


def test_a_damaged_file_is_told(on_sqlite: Patient) -> None:
    """When every page is read, and where another part meets it."""
    on_sqlite.store.create_many([{"thread_id": "t", "assistant_id": "a", "model": "m"} for _ in range(3000)])
    on_sqlite.store.close()
    content = bytearray(on_sqlite.path.read_bytes())
    root = on_sqlite.query("SELECT rootpage FROM sqlite_master WHERE name = 'runstate_run_thread'")[0][0]
    content[(root - 1) * 4096 : root * 4096] = bytes(4096)
    on_sqlite.path.write_bytes(content)
    assert () == on_sqlite.examine().findings
    assert {"corrupt"} == {finding.what for finding in on_sqlite.examine(quick_check=True).errors}


def test_a_finding_speaks_for_itself() -> None:
    """Its kind, its sentence and what to do."""
    found = Finding("warning", "stuck", "run_1", None, "run run_1 is queued for 2h", "let more workers run")
    assert "warning: run run_1 is queued for 2h (let more workers run)" == str(found)


def test_every_event_is_examined() -> None:
    """The histories of these tests pass through all nine events."""
    assert set(RunEvent) == {RunEvent(event) for events in EVERYWHERE for event in events}
