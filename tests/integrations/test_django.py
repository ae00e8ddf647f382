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

pytestmark = pytest.mark.slow  # a process for each scene

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
from django.db import NotSupportedError
from django.db.models import Count, F, OuterRef, Subquery
from django.db.models.fields.json import KT
from runstate.integrations.django.models import (
    AttemptModel, EntryModel, EventModel, PauseModel, RunModel, StepModel
)
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


def test_json_is_decoded_once(tmp_path: Path, url: str) -> None:
    """By every way to select it, also a string that looks like JSON. PostgreSQL cannot look into a value with a NUL."""
    told = play(
        tmp_path,
        url,
        """
        call_command("migrate", verbosity=0)
        sent = ["42", "true", "null", "hello", 7, 1.5, None, {"b": "x", "a": [None, "2"]}, [], "", "[draft] {}"]
        if connection.vendor == "postgresql":  # the view in SQLite hands out other values for these
            sent += ['{"a":1}', "[]", "a\\0b", "\\ud800", True]
        kept = ["42", "null", '{"a": 1}', True, {"a": False}, "a\\0b"]
        with open_store(url, migrate=False) as store:
            run = store.create(thread_id="t1", assistant_id="a", model="m")

            def answer(ctx):
                for data in sent:
                    ctx.emit(data)
                for number, result in enumerate(kept):
                    ctx.step(f"step {number}", lambda: result)

            Worker(store, answer, name="w1").run(until_idle=True)
        events = EventModel.objects.filter(run_id=run.id).order_by("number")
        steps = StepModel.objects.filter(run_id=run.id).order_by("number")
        for model, field, expected in ((events, "data", sent), (steps, "result", kept)):
            same = model.annotate(same=F(field))
            first = Subquery(model.filter(run_id=OuterRef("id"), number=1).values(field))
            for found in (
                [getattr(each, field) for each in model],
                [*model.values_list(field, flat=True)],
                [data for _, data in model.values_list("number", field).distinct()],
                [data for _, data, _ in model.values_list("number", field).annotate(n=Count("*"))],
                [each.same for each in same],
                [*same.values_list("same", flat=True)],
            ):
                print("ok" if list(map(repr, found)) == list(map(repr, expected)) else found)
            print([each.first for each in RunModel.objects.annotate(first=first)])
        print(steps.filter(result__isnull=False).count() == len(kept), steps.filter(result__isnull=True).count())
        print(events.filter(number=8).values_list("data__a", "data__b").get())
        """,
    ).splitlines()
    assert [*["ok"] * 6, "['42']"] * 2 == told[:14]
    assert ["True 0", "([None, '2'], 'x')"] == told[14:]


def test_lookups_into_json_find_the_same_in_both_databases(tmp_path: Path, url: str) -> None:
    told = play(
        tmp_path,
        url,
        """
        call_command("migrate", verbosity=0)
        with open_store(url, migrate=False) as store:
            ada = store.create(thread_id="t1", assistant_id="a", model="m", metadata={"user": "ada"})
            bob = store.create(thread_id="t2", assistant_id="a", model="m", metadata={"user": "bob"})
            store.fail(ada.id, "server_error", "boom 50%")
        who = {ada.id: "ada", bob.id: "bob"}
        for found in (
            dict(last_error__code="server_error"),
            dict(last_error__code__in=["server_error", "invalid_prompt"]),
            dict(last_error__message__icontains="BOOM"),
            dict(last_error__message__startswith="boom"),
            dict(last_error__icontains="50%"),
            dict(last_error__isnull=True),
            dict(last_error__isnull=False),
            dict(last_error__code__isnull=False),
            dict(last_error__has_key="code"),
            dict(last_error__has_keys=["code", "message"]),
            dict(last_error__has_any_keys=["code", "x"]),
            dict(usage__isnull=True),
            dict(config__metadata__user="ada"),
            dict(config__metadata__has_key="user"),
            dict(config__metadata__user__in=["ada", "bob"]),
            dict(config__metadata={"user": "bob"}),
        ):
            ids = RunModel.objects.filter(**found).values_list("id", flat=True)
            print(sorted(who[each] for each in ids))
        runs = RunModel.objects.order_by("config__metadata__user")
        print([found.config["metadata"]["user"] for found in runs])
        print([found.user for found in runs.annotate(user=KT("config__metadata__user"))])
        print([*runs.values_list("config__metadata__user", flat=True)])
        print(len(RunModel.objects.exclude(last_error__code="server_error").filter(config__metadata__user="bob")))
        print([*RunModel.objects.values_list("model", flat=True).distinct()], RunModel.objects.distinct().count())
        print([*RunModel.objects.values("status").annotate(n=Count("*")).order_by("status").values_list("status", "n")])
        print([*RunModel.objects.filter(status="failed").values("last_error").annotate(n=Count("*")).values_list("n")])
        print(RunModel.objects.annotate(n=Count("thread_id")).get(id=ada.id).last_error["code"])
        print(sorted(RunModel.objects.values_list("config__metadata__user").annotate(n=Count("*"))))
        contains = RunModel.objects.filter(config__contains={"metadata": {"user": "ada"}})
        try:
            print([who[found.id] for found in contains])
        except NotSupportedError:
            print("no contains")
        """,
    ).splitlines()
    ada, bob, both = "['ada']", "['bob']", "['ada', 'bob']"
    assert [*[ada] * 5, bob, *[ada] * 5] == told[:11]
    assert [bob, ada, both, both, bob] == told[11:16]
    assert [both] * 3 == told[16:19]
    assert ["1", "['m'] 2", "[('failed', 1), ('queued', 1)]", "[(1,)]", "server_error"] == told[19:24]
    assert ["[('ada', 1), ('bob', 1)]", "no contains" if url.startswith("sqlite") else ada] == told[24:]


def test_the_pauses_of_queues_are_a_model(tmp_path: Path, url: str) -> None:
    told = play(
        tmp_path,
        url,
        """
        call_command("migrate", verbosity=0)
        with open_store(url, migrate=False) as store:
            store.pause("mail", reason="the provider is away", actor="ada")
            store.pause("other")
            store.resume("other", actor="bob")
        lasting = PauseModel.objects.filter(resumed_at_us__isnull=True)
        print(list(lasting.values_list("queue", "reason", "paused_by", "resumed_by")), lasting.get())
        print(list(PauseModel.objects.filter(queue="other").values_list("resumed_by", flat=True)))
        print(PauseModel.objects.get(queue="other").resumed_at_us >= PauseModel.objects.get(queue="other").paused_at_us)
        """,
    ).splitlines()
    assert ["[('mail', 'the provider is away', 'ada', None)] mail", "['bob']", "True"] == told


def test_each_view_has_a_model_with_its_columns(tmp_path: Path, url: str) -> None:
    told = play(
        tmp_path,
        url,
        """
        call_command("migrate", verbosity=0)
        from django.apps import apps
        models = {model._meta.db_table: model for model in apps.get_app_config("runstate").get_models()}
        with connection.cursor() as cursor:
            introspection = connection.introspection
            tables = introspection.get_table_list(cursor)
            views = sorted(table.name for table in tables if table.type == "v" and table.name.startswith("runstate_"))
            print(views == sorted(models))
            for view in views:
                columns = [column.name for column in introspection.get_table_description(cursor, view)]
                print(view, columns == [field.column for field in models[view]._meta.concrete_fields])
        """,
    ).splitlines()
    views = ("attempts", "entries", "events", "pauses", "runs", "steps")
    assert ["True", *(f"runstate_{view} True" for view in views)] == told
