"""The tables of a store as a revision of Alembic, and an autogenerate that leaves them alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from runstate.errors import StoreError
from runstate.store import open_store
from runstate.store.doctor import examine
from tests.store.support import names
from tests.support.postgres import Server, postgres_server

__all__ = ["postgres_server"]

ENV = """
from alembic import context
import sqlalchemy as sa
from runstate.integrations.alembic import include_name

metadata = sa.MetaData()
sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))

if context.is_offline_mode():
    context.configure(url=context.config.get_main_option("sqlalchemy.url"), target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"))
    try:
        with engine.connect() as connection:
            context.configure(connection=connection, target_metadata=metadata, include_name=include_name)
            with context.begin_transaction():
                context.run_migrations()
    finally:
        engine.dispose()
"""

REVISION = """
from alembic import op
import sqlalchemy as sa
from runstate.integrations.alembic import migrate_store

revision, down_revision = "1", None


def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))
    migrate_store({given})
    {after}
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


def project(tmp_path: Path, url: str, *, given: str = "", after: str = "") -> Config:
    """Make a project with one revision; return its configuration."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV)
    (folder / "script.py.mako").write_text("")
    (folder / "versions" / "1.py").write_text(REVISION.format(given=given, after=after))
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("sqlalchemy.url", url.replace("postgresql:", "postgresql+psycopg:").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def test_a_revision_makes_the_store_and_the_check_finds_nothing(tmp_path: Path, url: str) -> None:
    config = project(tmp_path, url)
    command.upgrade(config, "head")
    with open_store(url, migrate=False) as store:
        store.create(**names())
        assert [] == [finding for finding in examine(store).findings if finding.severity == "error"]
    command.check(config)  # this raises if autogenerate would do something


def test_without_the_filter_autogenerate_would_drop_the_tables(tmp_path: Path, url: str) -> None:
    """So the check above can fail."""
    config = project(tmp_path, url)
    command.upgrade(config, "head")
    env = tmp_path / "migrations" / "env.py"
    env.write_text(ENV.replace(", include_name=include_name", ""))
    with pytest.raises(CommandError, match="remove_table"):
        command.check(config)


def test_a_revision_may_name_the_steps(tmp_path: Path, url: str) -> None:
    command.upgrade(project(tmp_path, url, given="{'run': 2, 'event': 2, 'queue': 1, 'step': 2}"), "head")
    with open_store(url, migrate=False) as store:
        assert () == store.list().data


def test_an_unknown_component_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="upto: has no component 'runs'"):
        command.upgrade(project(tmp_path, url, given="{'runs': 2}"), "head")


def test_a_revision_that_fails_leaves_no_store_on_postgresql(tmp_path: Path, url: str) -> None:
    """There, Alembic has a transaction. On SQLite it has none, and the store stays, whole."""
    with pytest.raises(ZeroDivisionError):
        command.upgrade(project(tmp_path, url, after="1 / 0"), "head")
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    found = {name for name in sa.inspect(engine).get_table_names() if name.startswith("runstate_")}
    engine.dispose()
    if url.startswith("sqlite"):
        with open_store(url, migrate=False) as store:
            assert () == store.list().data
    else:
        assert set() == found


def test_offline_mode_is_told_what_to_do(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError, match="runstate ddl"):
        command.upgrade(project(tmp_path, url), "head", sql=True)
