"""Django: the views of a store as read-only models, and its tables as a step of an application's migrations.

Add `"runstate.integrations.django"` to `INSTALLED_APPS`. Then `runstate.integrations.django.models` has `RunModel`,
`EntryModel`, `AttemptModel`, `StepModel` and `EventModel`, which no migration of Django touches. In a migration of your
application:

    operations = [migrations.RunPython(migrate_store, migrations.RunPython.noop)]

Runs are changed by a store alone, inside your own transaction if you like:

    with transaction.atomic(), store.within(connection) as bound:
        bound.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
"""

from __future__ import annotations

from typing import Any

from runstate.store import migrate_within

__all__ = ["migrate_store"]


def migrate_store(apps: Any, schema_editor: Any) -> None:
    """Create or migrate the tables of a store, in the transaction of a migration. For `migrations.RunPython`."""
    migrate_within(schema_editor.connection)
