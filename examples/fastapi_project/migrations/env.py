"""The environment of Alembic: the blocking form of the address that the application uses."""

import sqlalchemy as sa
from alembic import context
from app import URL, Base

from runstate.integrations.alembic import include_name

engine = sa.create_engine(URL.replace("+aiosqlite", ""))
try:
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, include_name=include_name)
        with context.begin_transaction():
            context.run_migrations()
finally:
    engine.dispose()
