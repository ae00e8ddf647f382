"""The schema: made in steps or at once it is the same, and a database of another version is left alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runstate.errors import InvalidRun, SchemaMismatch, StoreError, StoreUnavailable
from runstate.store import migrate_within, open_store
from runstate.store._api.url import database_at
from runstate.store._sql import migrations
from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.migrations import LATEST, ddl, migrate, version_of
from runstate.store._sql.migrations.__main__ import generated
from runstate.store._sql.migrations.steps import STEPS
from runstate.store._sql.triggers.ddl import create_guards
from runstate.store.doctor import examine
from tests.store.support import Prompt, names
from tests.support.guards import record

DIALECTS = (SQLITE, POSTGRES)
KNOWN = "this library knows run 2, event 2, queue 1, step 2"
NEWER = rf"was made by a newer runstate \(its schema is run 99, event 2, queue 1, step 2, {KNOWN}\)"
UNRELEASED = "made by a runstate before its first release: make a new database"

Make = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes empty databases, and returns the URL of each."""
    made: list[str] = []

    def sqlite() -> str:
        return f"sqlite:///{tmp_path / f'empty_{len(made)}.db'}"

    def postgres() -> str:
        return str(request.getfixturevalue("postgres_server").create_database())

    def one() -> str:
        made.append(sqlite() if request.param == "sqlite" else postgres())
        return made[-1]

    yield one
    for url in made if request.param == "postgres" else ():
        request.getfixturevalue("postgres_server").drop_database(url)


POSTGRES_CATALOG = """
SELECT 'column', table_name, column_name, data_type, collation_name, column_default, is_nullable, is_identity
    FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename, indexname, indexdef, NULL, NULL, NULL, NULL
    FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL, NULL, NULL
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), NULL, NULL, NULL, NULL
    FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid), NULL, NULL, NULL, NULL, NULL
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'table', relname, reloptions::text, NULL, NULL, NULL, NULL, NULL
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""
SQLITE_CATALOG = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"


def catalog(url: str) -> list[str]:
    """Return all that a database says of its tables, indexes, constraints, triggers and functions."""
    with Prompt(url) as prompt:
        found = prompt.run(SQLITE_CATALOG if prompt.is_sqlite else POSTGRES_CATALOG)
        released = prompt.run("SELECT * FROM runstate_worker_session")
    return sorted(map(repr, found + released))


def by_steps(url: str) -> None:
    database = database_at(url)
    taken: dict[str, int] = {}
    for step in STEPS:
        taken[step.component] = step.number
        assert [step] == migrate(database, upto=taken).steps
        assert [] == migrate(database, upto=taken).steps
    assert [] == migrate(database).steps
    database.close()


def by_hand(url: str) -> None:
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(ddl(SQLITE))
    else:
        with psycopg.connect(url) as connection:
            connection.execute(ddl(POSTGRES).encode())


def by_opening(url: str) -> None:
    open_store(url, migrate=True).close()


def test_all_ways_lead_to_one_schema(make: Make) -> None:
    """At once, step by step, and by executing `ddl` by hand: the catalogs are the same, and the store works."""
    found = {}
    for way in (by_opening, by_steps, by_hand):
        url = make()
        way(url)
        found[way.__name__] = catalog(url)
        with open_store(url) as store:
            run = store.create(**names(metadata={"a": "b"}))
            assert "in_progress" == store.start(run.id).status
    assert found["by_opening"] == found["by_steps"] == found["by_hand"]
    assert len(found["by_hand"]) > 30


def test_nothing_twice(make: Make) -> None:
    """A database that has taken all steps takes none; a dry run tells which it would take and takes none either."""
    url = make()
    database = database_at(url)
    numbers = [("run", 1), ("run", 2), ("event", 1), ("event", 2), ("queue", 1), ("step", 1), ("step", 2)]
    assert numbers == [(step.component, step.number) for step in migrate(database, dry_run=True).steps]
    session = database.open()
    assert {} == version_of(session)
    assert numbers == [(step.component, step.number) for step in migrate(database).steps]
    assert LATEST == version_of(session)
    session.close()
    before = catalog(url)
    assert [] == migrate(database).steps
    assert [] == migrate(database, dry_run=True).statements
    assert before == catalog(url)
    with Prompt(url) as prompt:
        steps = prompt.run("SELECT component, number, description FROM runstate_migration ORDER BY component, number")
    assert sorted(numbers) == [(component, number) for component, number, _ in steps]
    assert all(description for _, _, description in steps)


def test_what_a_newer_library_has_migrated_compatibly(make: Make) -> None:
    """A process that starts after a newer one has migrated works on, and the doctor says what it could not compare."""
    url = make()
    by_opening(url)
    with Prompt(url) as prompt:
        record(prompt, "INSERT INTO runstate_migration VALUES ('run', 99, 'from the future', 2, 0)")
        record(prompt, "INSERT INTO runstate_migration VALUES ('other', 1, 'a part that is not known here', 0, 0)")
        before = catalog(url)
    for ask in (True, False, None):
        with open_store(url, migrate=ask) as store:
            assert "completed" == store.complete(store.start(store.create(**names()).id).id).status
    assert before == catalog(url)
    found = examine(database_at(url))
    assert {"run": 99, "other": 1, "step": 2, "event": 2, "queue": 1} == found.schema
    assert ["a newer runstate has migrated the database, so its tables and guards were not compared"] == [
        finding.sentence for finding in found.findings
    ]


def test_an_unknown_part_that_is_not_compatible(make: Make) -> None:
    url = make()
    by_opening(url)
    with Prompt(url) as prompt:
        record(prompt, "INSERT INTO runstate_migration VALUES ('other', 3, 'what older ones would break', 1, 0)")
    with pytest.raises(
        SchemaMismatch,
        match=f"its schema is run 2, event 2, other 3, queue 1, step 2, {KNOWN}",
    ):
        open_store(url, migrate=True)


def test_a_database_of_a_version_that_was_never_released(make: Make) -> None:
    """One sentence, and nothing is touched."""
    url = make()
    with Prompt(url) as prompt:
        prompt.run("CREATE TABLE runstate_migration (number INTEGER, sentence TEXT, at BIGINT)")
        prompt.run("INSERT INTO runstate_migration VALUES (2, 'the law as triggers', 0)")
        for ask in (True, False, None):
            with pytest.raises(SchemaMismatch, match=UNRELEASED):
                open_store(url, migrate=ask)
        assert [(2, "the law as triggers", 0)] == prompt.run("SELECT * FROM runstate_migration")


def test_migrations_are_recorded_by_a_migration_alone(make: Make) -> None:
    """No client can add, change or delete a row; else every process would refuse the store."""
    url = make()
    by_opening(url)
    with Prompt(url) as prompt:
        before = prompt.run("SELECT * FROM runstate_migration")
        for statement in (
            "INSERT INTO runstate_migration VALUES ('run', 99, 'x', 99, 0)",
            "UPDATE runstate_migration SET compatible_from = 99",
            "UPDATE runstate_migration SET number = number + 1",
            "DELETE FROM runstate_migration",
            *(["INSERT OR REPLACE INTO runstate_migration VALUES ('run', 2, 'x', 99, 0)"] if prompt.is_sqlite else []),
            *([] if prompt.is_sqlite else ["TRUNCATE runstate_migration"]),
        ):
            assert "migrations are recorded by `runstate migrate` alone" in (prompt.refusal(statement) or "accepted")
        assert before == prompt.run("SELECT * FROM runstate_migration")


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRES], ids=lambda dialect: dialect.name)
def test_the_newest_guards_are_those_of_the_table(dialect: Dialect) -> None:
    """A change of the table or of the triggers needs a step: `python -m runstate.store._sql.migrations`."""
    newest = [step for step in STEPS if step.is_guards and step.component == "run"][-1]
    assert newest.text(dialect).endswith(generated(dialect))
    assert [*create_guards(dialect)] == [
        "\n".join(line for line in statement.splitlines() if not line.startswith("-- transition: "))
        for statement in newest.statements(dialect)
    ]


def test_both_dialects_have_the_same_steps() -> None:
    """Each step has a file in both, with the same header."""
    for step in STEPS:
        headers = {step.text(dialect).split("\n", 2)[0] + step.text(dialect).split("\n", 2)[1] for dialect in DIALECTS}
        assert {f"-- {step.description}-- compatible_from: {step.compatible_from}"} == headers
    folder = Path(migrations.__file__).parent
    for dialect in DIALECTS:
        assert {f"{step.name}.sql" for step in STEPS} == {path.name for path in (folder / dialect.name).iterdir()}


def test_a_plan_is_what_a_migration_executes(make: Make) -> None:
    """What `migrate --plan` prints makes the same store when it is executed by hand."""
    url, other = make(), make()
    plan = migrate(database_at(url), dry_run=True)
    migrate(database_at(other))
    with Prompt(url) as prompt:
        for statement in plan.statements:
            prompt.run(statement)
    assert catalog(other) == catalog(url)


def test_a_plan_for_a_store_that_is_in_use(make: Make) -> None:
    """The script is one transaction with its locks: no move is made without its entry while the triggers are away."""
    url = make()
    by_opening(url)
    expected = catalog(url)
    with Prompt(url) as prompt, open_store(url) as store:
        run = store.create(**names())
        record(prompt, "DELETE FROM runstate_migration WHERE component = 'run' AND number = 2")
        plan = migrate(database_at(url), dry_run=True)
        assert plan.script[0].startswith("BEGIN")
        assert prompt.is_sqlite or any(statement.endswith("IN ACCESS EXCLUSIVE MODE") for statement in plan.script)
        moved: list[object] = []

        def move() -> None:
            moved.append(store.start(run.id).status)

        client = threading.Thread(target=move)
        for place, statement in enumerate(plan.script):
            if statement == "COMMIT":
                assert [] == moved
            prompt.run(statement)
            if place == len(plan.script) - 3:
                client.start()
                client.join(0.3)
        client.join()
        assert ["in_progress"] == moved
        assert [None, "start"] == [entry.event for entry in store.history(run.id)]
    assert expected == catalog(url)


@pytest.mark.slow
def test_a_migration_behind_a_long_reader(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL: it waits for a little, lets the clients work, and says what keeps it; later it goes through."""
    url = make()
    if url.startswith("sqlite:"):
        pytest.skip("readers are in nobody's way")
    monkeypatch.setattr(migrations, "_TRIES", 2)
    monkeypatch.setattr(migrations, "_PAUSE_S", 0.1)
    by_opening(url)
    with Prompt(url) as prompt, open_store(url) as store, psycopg.connect(url) as reader:
        record(prompt, "DELETE FROM runstate_migration WHERE component = 'run' AND number = 2")
        reader.execute("SELECT count(*) FROM runstate_run")
        with pytest.raises(StoreUnavailable, match="a transaction that has been open for long keeps the migration"):
            migrate(database_at(url))
        assert store.create(**names()).claimable
        reader.rollback()
        assert ["run_0002_guards"] == [step.name for step in migrate(database_at(url)).steps]


def test_what_only_begins_like_the_library_is_left_alone(make: Make) -> None:
    """A trigger on a table of the user's own, and functions that no trigger of the library uses."""
    url = make()
    by_opening(url)
    with Prompt(url) as prompt:
        prompt.run("CREATE TABLE mine (id int)")
        if prompt.is_sqlite:
            prompt.run("CREATE TRIGGER runstate_mirror AFTER INSERT ON mine BEGIN SELECT 1; END")
        else:
            prompt.run(
                "CREATE FUNCTION runstate_mirror() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
            )
            prompt.run(
                "CREATE TRIGGER own AFTER INSERT ON runstate_run FOR EACH ROW EXECUTE FUNCTION runstate_mirror()"
            )
        before = catalog(url)
        record(prompt, "DELETE FROM runstate_migration WHERE component = 'run' AND number = 2")
    migrate(database_at(url))
    assert before == catalog(url)


def test_old_guards_are_dropped_whatever_they_are_called(make: Make) -> None:
    """By the catalogue: a name that this library never knew goes too; a trigger of the user's own stays."""
    url = make()
    by_opening(url)
    expected = catalog(url)
    with Prompt(url) as prompt:
        body = "BEGIN SELECT 1; END" if prompt.is_sqlite else "FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('x')"
        prompt.run(f"CREATE TRIGGER runstate_of_yesterday BEFORE DELETE ON runstate_checkpoint {body}")
        drops = [row[0] for row in prompt.run((SQLITE if prompt.is_sqlite else POSTGRES).drop_guards)]
        assert any("runstate_of_yesterday" in drop for drop in drops)
        own = "BEGIN SELECT 1; END" if prompt.is_sqlite else "FOR EACH ROW EXECUTE FUNCTION own()"
        if not prompt.is_sqlite:
            prompt.run("CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$")
        prompt.run(f"CREATE TRIGGER own_audit BEFORE DELETE ON runstate_checkpoint {own}")
        for drop in (*drops, "DELETE FROM runstate_migration WHERE component = 'run' AND number = 2"):
            prompt.run(drop)
    migrate(database_at(url))
    assert {entry for entry in catalog(url) if "own_audit" not in entry and "own()" not in entry} == {*expected}
    assert any("own_audit" in entry for entry in catalog(url))


def test_a_newer_schema(make: Make) -> None:
    """A database of a newer library is refused with a sentence, and not touched; once it is our version, it opens."""
    url = make()
    by_opening(url)
    with Prompt(url) as prompt:
        record(prompt, "INSERT INTO runstate_migration VALUES ('run', 99, 'from the future', 99, 0)")
        before = catalog(url), prompt.everything(), prompt.run("SELECT * FROM runstate_migration")
        for ask in (True, False, None):
            with pytest.raises(SchemaMismatch, match=NEWER) as newer:
                open_store(url, migrate=ask)
            assert "upgrade the library, nothing was changed" in str(newer.value)
        with pytest.raises(SchemaMismatch):
            migrate(database_at(url))
        assert before == (catalog(url), prompt.everything(), prompt.run("SELECT * FROM runstate_migration"))
        record(prompt, "DELETE FROM runstate_migration WHERE number = 99")
    open_store(url).close()


def test_no_schema(make: Make) -> None:
    """Where nobody has made a store, the sentence says how; SQLite's file is made one if nobody says otherwise."""
    url = make()
    if url.startswith("sqlite:"):
        open_store(make()).close()
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("CREATE TABLE mine (id)")
        with pytest.raises(SchemaMismatch, match="has no store in it: `runstate migrate`"):
            open_store(url, migrate=False)
    else:
        for ask in (None, False):
            with pytest.raises(SchemaMismatch, match="has no store in it: `runstate migrate`"):
                open_store(url, migrate=ask)
    open_store(url, migrate=True).close()


def test_half_a_schema(make: Make) -> None:
    """A database that has taken some of the steps is said to be of that version, and is brought on."""
    url = make()
    database = database_at(url)
    migrate(database, upto={"run": 1})
    database.close()
    with pytest.raises(
        SchemaMismatch, match="has schema run 1, this library needs run 2, event 2, queue 1, step 2: `runstate migrate`"
    ):
        open_store(url, migrate=False)
    open_store(url, migrate=True).close()
    with open_store(url) as store:
        assert store.create(**names()).claimable


def test_a_step_that_fails_leaves_nothing(make: Make) -> None:
    """All steps are taken or none: what stands in the way of one undoes those before it."""
    url = make()
    with Prompt(url) as prompt:
        prompt.run("CREATE TABLE runstate_checkpoint (mine text)")
        before = prompt.run(SQLITE_CATALOG if prompt.is_sqlite else POSTGRES_CATALOG)
        with pytest.raises(StoreError) as refused:
            open_store(url, migrate=True)
        assert (StoreError, True) == (type(refused.value), "runstate_checkpoint" in str(refused.value))
        assert before == prompt.run(SQLITE_CATALOG if prompt.is_sqlite else POSTGRES_CATALOG)
        prompt.run("DROP TABLE runstate_checkpoint")
    open_store(url, migrate=True).close()


def test_eight_threads_migrate_at_once(make: Make) -> None:
    """One of them makes the store, the others wait and find it made."""
    url = make()
    taken: list[Any] = []
    barrier = threading.Barrier(8)

    def go() -> None:
        database = database_at(url)
        barrier.wait()
        try:
            taken.append(len(migrate(database).steps))
        except Exception as error:
            taken.append(error)
        database.close()

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [0] * 7 + [len(STEPS)] == sorted(taken, key=repr)
    open_store(url).close()


@pytest.mark.slow
def test_four_processes_open_at_once(make: Make) -> None:
    """The same of processes, each of which opens the store and creates a run."""
    url = make()
    code = (
        "import sys; from runstate.store import open_store\n"
        "sys.stdin.readline()\n"
        "with open_store(sys.argv[1], migrate=True) as store:\n"
        "    store.create(thread_id='t', assistant_id='a', model='m')\n"
    )
    command = [sys.executable, "-c", code, url]
    place = Path(__file__).parents[2]
    some = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place, text=True) for _ in range(4)
    ]
    for process in some:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[1] for process in some]
    assert [""] * 4 == told
    with open_store(url) as store:
        assert 4 == len(store.list().data)


def test_beside_tables_of_ones_own(make: Make) -> None:
    """A store lives in a database of the user's own, beside other tables, and leaves them alone."""
    url = make()
    with Prompt(url) as prompt:
        prompt.run("CREATE TABLE mine (id text)")
        prompt.run("INSERT INTO mine VALUES ('a')")
        by_opening(url)
        assert [("a",)] == prompt.run("SELECT id FROM mine")


def test_in_a_schema_of_its_own(make: Make) -> None:
    """PostgreSQL: by `search_path` a store lives in a schema, whatever the path of others who write there."""
    url = make()
    if url.startswith("sqlite:"):
        pytest.skip("it has no schemas")
    with Prompt(url) as prompt:
        prompt.run('CREATE SCHEMA "MyRuns"')
        inside = f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D%22MyRuns%22"
        with open_store(inside, migrate=True) as store:
            run = store.create(**names(metadata={"a": "b"}, one_live_run_per_thread="queue"))
            behind = store.create(**names(one_live_run_per_thread="queue"))
            columns = "status = 'expired', version = 2, event = 'expire', source = 'queued'"
            ended = "expires_at = NULL, completed_at = (changed_at_us + 1) / 1000000, usage = '{}'"
            moved = f"SET {columns}, changed_at_us = changed_at_us + 1, {ended}"
            prompt.run(f"UPDATE \"MyRuns\".runstate_run {moved} WHERE id = '{run.id}'")
            assert [None, "expire"] == [entry.event for entry in store.history(run.id)]
            assert store.get(behind.id).claimable
            assert [("MyRuns",)] == prompt.run("SELECT schemaname FROM pg_tables WHERE tablename = 'runstate_run'")


@pytest.mark.parametrize(
    ("upto", "sentence"),
    [
        ({"run": 99}, r"upto\['run'\]: expected 1 to \d+, the last step of this version, got 99"),
        ({"run": 0}, "expected 1 to .*, got 0"),
        ({"run": "2"}, "expected 1 to .*, got '2'"),
        ({"run": True}, "expected 1 to .*, got True"),
        ({"walk": 1}, "has no component 'walk'"),
    ],
    ids=str,
)
def test_a_step_that_this_version_does_not_have(upto: Any, sentence: str) -> None:
    """A revision for a newer library is not recorded as done by an older one."""
    with closing(sqlite3.connect(":memory:")) as connection:
        with pytest.raises(InvalidRun, match=sentence):
            migrate_within(connection, upto)
        assert [] == connection.execute("SELECT name FROM sqlite_master").fetchall()
