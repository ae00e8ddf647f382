"""The views of a store as models of Django, its tables in a migration, and runs in a transaction of Django."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Server, postgres_server

__all__ = ["postgres_server"]

ROOT = Path(__file__).parents[2]

SCENE = """
import sys
import django
from django.conf import settings

url = sys.argv[1]
sqlite = url.startswith("sqlite")
if sqlite:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": url.removeprefix("sqlite:///")}
else:
    from psycopg.conninfo import conninfo_to_dict

    told = {name.upper(): value for name, value in conninfo_to_dict(url).items()}
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": told.pop("DBNAME"), **told}
settings.configure(
    INSTALLED_APPS=["runstate.integrations.django", "shop"],
    DATABASES={"default": database},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()
from django.core.management import call_command
from django.db import connection, transaction
from runstate.integrations.django.models import AttemptModel, EntryModel, EventModel, RunModel, StepModel
from runstate.store import open_store
from runstate.worker import Worker
"""

SHOP_MIGRATION = """
from django.db import migrations
from runstate.integrations.django import migrate_store


class Migration(migrations.Migration):
    operations = [migrations.RunPython(migrate_store, migrations.RunPython.noop)]
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'app.db'}"
        return
    server: Server = request.getfixturevalue("postgres_server")
    made = server.create_database()
    yield made
    server.drop_database(made)


def play(tmp_path: Path, url: str, scene: str) -> str:
    """Play a scene in a project of Django, which is configured once a process; return what it prints."""
    migrations = tmp_path / "shop" / "migrations"
    migrations.mkdir(parents=True, exist_ok=True)
    for folder in (migrations.parent, migrations):
        (folder / "__init__.py").touch()
    (migrations / "0001_runs.py").write_text(SHOP_MIGRATION)
    program = tmp_path / "scene.py"
    program.write_text(SCENE + textwrap.dedent(scene))
    done = subprocess.run(
        [sys.executable, str(program), url],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_a_migration_makes_the_store_and_the_models_read_it(tmp_path: Path, url: str) -> None:
    """No migration of Django touches them, and its checks find nothing."""
    told = play(
        tmp_path,
        url,
        """
        call_command("migrate", verbosity=0)
        call_command("check", verbosity=0)
        call_command("makemigrations", "--check", "--dry-run", verbosity=0)
        with open_store(url, migrate=False) as store:
            run = store.create(thread_id="t1", assistant_id="a", model="m", metadata={"user": "ada"})

            def answer(ctx):
                ctx.emit({"text": "hi"})
                ctx.step("one", lambda: {"a": 1})

            Worker(store, answer, name="w1").run(until_idle=True)
        found = RunModel.objects.get(id=run.id)
        count = RunModel.objects.filter(status="completed").count()
        print(found, found.config["metadata"], found.usage["total_tokens"], count)
        entries = EntryModel.objects.filter(run_id=run.id).order_by("version")
        print(list(entries.values_list("version", "event", "target")))
        print(list(StepModel.objects.filter(run_id=run.id).values_list("name", "result")))
        events = EventModel.objects.filter(run_id=run.id)
        print(list(events.values_list("number", "data")), AttemptModel.objects.count())
        """,
    ).splitlines()[-4:]
    assert told[0].endswith(" completed {'user': 'ada'} 0 1")
    assert "[(1, None, 'queued'), (2, 'start', 'in_progress'), (3, 'complete', 'completed')]" == told[1]
    assert "[('one', {'a': 1})]" == told[2]
    assert "[(1, {'text': 'hi'})] 0" == told[3]


def test_a_run_is_created_in_a_transaction_of_django_or_not_at_all(tmp_path: Path, url: str) -> None:
    told = play(
        tmp_path,
        url,
        """
        call_command("migrate", verbosity=0)
        with open_store(url, migrate=False) as store:
            try:
                with transaction.atomic(), store.within(connection) as bound:
                    bound.create(thread_id="t1", assistant_id="a", model="m")
                    print(RunModel.objects.count())
                    raise ConnectionAbortedError
            except ConnectionAbortedError:
                print(RunModel.objects.count())
            with transaction.atomic(), store.within(connection) as bound:
                bound.create(thread_id="t1", assistant_id="a", model="m")
            print(RunModel.objects.count(), len(store.list().data))
        """,
    )
    assert ["1", "0", "1 1"] == told.splitlines()


def test_the_models_change_nothing(tmp_path: Path, url: str) -> None:
    told = play(
        tmp_path,
        url,
        """
        call_command("migrate", verbosity=0)
        with open_store(url, migrate=False) as store:
            run = store.create(thread_id="t1", assistant_id="a", model="m")
        found = RunModel.objects.get(id=run.id)
        found.status = "completed"
        for change in (
            found.save,
            found.delete,
            lambda: RunModel.objects.create(id="x"),
            lambda: RunModel.objects.update(status="completed"),
            lambda: RunModel.objects.all().delete(),
            lambda: RunModel.objects.bulk_create([RunModel(id="x")]),
        ):
            try:
                change()
            except TypeError as error:
                print(error)
        print(RunModel.objects.get(id=run.id).status)
        """,
    ).splitlines()
    assert [
        "runs are changed by a store: store.request_cancel(run_id), or `with store.within(connection)`"
    ] * 6 == told[:6]
    assert ["queued"] == told[6:]
