"""The views of a store as models. They only read: a store writes, and the database refuses other changes.

Columns that end with `_us` are in microseconds; the stamps and `expires_at` are in Unix seconds.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from django.db import models
from django.db.models.expressions import Col
from django.db.models.fields.json import KeyTransform
from django.db.models.lookups import IsNull

__all__ = ["AttemptModel", "EntryModel", "EventModel", "PauseModel", "RunModel", "StepModel"]


class ReadOnlyQuerySet(models.QuerySet[Any]):
    """A query set that cannot change anything."""

    def create(self, **kwargs: Any) -> NoReturn:
        """Raise `TypeError`."""
        raise _read_only()

    def bulk_create(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `TypeError`."""
        raise _read_only()

    def update(self, **kwargs: Any) -> NoReturn:
        """Raise `TypeError`."""
        raise _read_only()

    def delete(self) -> NoReturn:
        """Raise `TypeError`."""
        raise _read_only()


def _read_only() -> TypeError:
    return TypeError("runs are changed by a store: store.request_cancel(run_id), or `with store.within(connection)`")


class _JsonCol(Col):
    """A column of JSON in a query. On PostgreSQL its type is `json`, and Django's lookups need `jsonb`.

    It is selected as text instead. psycopg decodes `json`, so that Django would decode a string a second time, and a
    NUL in a string has no place in `jsonb`. DISTINCT and GROUP BY can compare text, too.
    """

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        """Return the column as `jsonb`."""
        sql, params = self.as_sql(compiler, connection)
        return f"{sql}::jsonb", params

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        """Return the column as text, for SELECT and GROUP BY."""
        if compiler.connection.vendor != "postgresql":
            return sql, params
        sql, params = self.as_sql(compiler, compiler.connection)
        return f"{sql}::text", params


class JsonColumn(models.JSONField):
    """A column of JSON, in a view."""

    def get_col(self, alias: str, output_field: Any = None) -> Col:
        """Return the column of a table in a query."""
        return _JsonCol(alias, self, output_field)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """Return the value of a column. The driver decodes `json` in a raw query."""
        return super().from_db_value(value, expression, connection) if isinstance(value, str) else value


class EventData(JsonColumn):
    """The value of an event. The view in SQLite hands out a string as it is, and no JSON.

    There a string that is itself an object or a list in JSON is decoded too, and true and false are 1 and 0.
    """

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """Return the value of an event."""
        is_value = connection.vendor == "sqlite" and not isinstance(expression, KeyTransform)
        if is_value and isinstance(value, str) and not value.startswith(("{", "[")):
            return value
        return super().from_db_value(value, expression, connection)


@JsonColumn.register_lookup
class _IsNull(IsNull):
    """Whether a column of JSON is NULL. It does not look into the value, in which `jsonb` allows less than `json`."""

    def process_lhs(self, compiler: Any, connection: Any, lhs: Any = None) -> tuple[str, Any]:
        """Return the column as it is."""
        column = lhs or self.lhs
        if isinstance(column, _JsonCol):
            return column.as_sql(compiler, connection)
        return super().process_lhs(compiler, connection, lhs)


class _View(models.Model):
    """A view of a store."""

    objects: ClassVar[models.Manager[Any]] = ReadOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `TypeError`."""
        raise _read_only()

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `TypeError`."""
        raise _read_only()


class RunModel(_View):
    """A run, with what the store knows of it."""

    id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=500)
    thread_id: models.CharField[str, str] = models.CharField(max_length=500)
    assistant_id: models.CharField[str, str] = models.CharField(max_length=500)
    model: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    status: models.CharField[str, str] = models.CharField(max_length=20)
    created_at: models.BigIntegerField[int, int] = models.BigIntegerField()
    expires_at: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    started_at: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    cancelled_at: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    failed_at: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    completed_at: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    required_action: JsonColumn = JsonColumn(null=True)
    last_error: JsonColumn = JsonColumn(null=True)
    incomplete_details: JsonColumn = JsonColumn(null=True)
    usage: JsonColumn = JsonColumn(null=True)
    config: JsonColumn = JsonColumn(null=True)
    version: models.BigIntegerField[int, int] = models.BigIntegerField()
    event: models.CharField[str | None, str | None] = models.CharField(max_length=30, null=True)
    source: models.CharField[str | None, str | None] = models.CharField(max_length=20, null=True)
    changed_at_us: models.BigIntegerField[int, int] = models.BigIntegerField()
    actor: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    detail: JsonColumn = JsonColumn(null=True)
    queue: models.CharField[str, str] = models.CharField(max_length=500)
    priority: models.BigIntegerField[int, int] = models.BigIntegerField()
    not_before_us: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    claimable_at_us: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    thread_policy: models.CharField[str | None, str | None] = models.CharField(max_length=10, null=True)
    idempotency_key: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    repeats: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    attempt: models.BigIntegerField[int, int] = models.BigIntegerField()
    lost: models.BigIntegerField[int, int] = models.BigIntegerField()
    failed: models.BigIntegerField[int, int] = models.BigIntegerField()
    worker: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    lease_until_us: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    progress: models.TextField[str | None, str | None] = models.TextField(null=True)
    prompt_tokens: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    completion_tokens: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)

    class Meta(_View.Meta):
        managed = False
        db_table = "runstate_runs"

    def __str__(self) -> str:
        return f"{self.id} {self.status}"


class _OfRun(_View):
    """What belongs to a run. Its rows have no key of one column: read them by `values()`, or filtered by run."""

    run_id: models.CharField[str, str] = models.CharField(primary_key=True, max_length=500)

    class Meta(_View.Meta):
        abstract = True


class EntryModel(_OfRun):
    """An entry of a run's history: `EntryModel.objects.filter(run_id=run_id).order_by("version")`."""

    version: models.BigIntegerField[int, int] = models.BigIntegerField()
    event: models.CharField[str | None, str | None] = models.CharField(max_length=30, null=True)
    source: models.CharField[str | None, str | None] = models.CharField(max_length=20, null=True)
    target: models.CharField[str, str] = models.CharField(max_length=20)
    at_us: models.BigIntegerField[int, int] = models.BigIntegerField()
    actor: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    detail: JsonColumn = JsonColumn(null=True)

    class Meta(_OfRun.Meta):
        managed = False
        db_table = "runstate_entries"


class AttemptModel(_OfRun):
    """An attempt that ended without an outcome."""

    number: models.BigIntegerField[int, int] = models.BigIntegerField()
    attempt: models.BigIntegerField[int, int] = models.BigIntegerField()
    ended_at_us: models.BigIntegerField[int, int] = models.BigIntegerField()
    result: models.CharField[str, str] = models.CharField(max_length=10)
    actor: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    error: JsonColumn = JsonColumn(null=True)
    next_at_us: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)

    class Meta(_OfRun.Meta):
        managed = False
        db_table = "runstate_attempts"


class StepModel(_OfRun):
    """A step that a handler has kept."""

    name: models.CharField[str, str] = models.CharField(max_length=500)
    key: models.CharField[str, str] = models.CharField(max_length=500)
    number: models.BigIntegerField[int, int] = models.BigIntegerField()
    attempt: models.BigIntegerField[int, int] = models.BigIntegerField()
    result: JsonColumn = JsonColumn(null=True)
    prompt_tokens: models.BigIntegerField[int, int] = models.BigIntegerField()
    completion_tokens: models.BigIntegerField[int, int] = models.BigIntegerField()
    began_at_us: models.BigIntegerField[int, int] = models.BigIntegerField()
    ended_at_us: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)

    class Meta(_OfRun.Meta):
        managed = False
        db_table = "runstate_steps"


class EventModel(_OfRun):
    """An output event of a handler."""

    number: models.BigIntegerField[int, int] = models.BigIntegerField()
    attempt: models.BigIntegerField[int, int] = models.BigIntegerField()
    data: EventData = EventData()
    at_us: models.BigIntegerField[int, int] = models.BigIntegerField()

    class Meta(_OfRun.Meta):
        managed = False
        db_table = "runstate_events"


class PauseModel(_View):
    """A pause of a queue, which lasts while `resumed_at_us` is None. A queue may have several: they have no key."""

    queue: models.CharField[str, str] = models.CharField(primary_key=True, max_length=500)
    paused_at_us: models.BigIntegerField[int, int] = models.BigIntegerField()
    paused_by: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)
    reason: models.TextField[str | None, str | None] = models.TextField(null=True)
    resumed_at_us: models.BigIntegerField[int | None, int | None] = models.BigIntegerField(null=True)
    resumed_by: models.CharField[str | None, str | None] = models.CharField(max_length=500, null=True)

    class Meta(_View.Meta):
        managed = False
        db_table = "runstate_pauses"

    def __str__(self) -> str:
        return self.queue
