"""The table of questions, and the tables of the store."""

import sqlalchemy as sa
from alembic import op

from runstate.integrations.alembic import migrate_store

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "questions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("answer", sa.String),
    )
    migrate_store({"run": 2, "event": 2, "queue": 1, "step": 2})
