"""The methods of a store that read: runs, lists of runs, histories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, overload

import attrs

from runstate.lifecycle import RunStatus
from runstate.run import validators
from runstate.run.errors import FieldError
from runstate.run.json_values import json_path
from runstate.run.values import raise_if_invalid
from runstate.store._engine.transport import StoreBase
from runstate.store._sql.connection import Connection
from runstate.store._sql.lists import RunFilter, Span, list_statement, sources, walk_statement
from runstate.store._sql.rows import Row, decode_entry, decode_run
from runstate.store._types import Entry, StoredRun
from runstate.store.errors import RunNotFound

__all__ = ["Order", "Page", "QueryMixin", "entry_position", "read_entries", "row_of", "seq_of"]

Order: TypeAlias = Literal["asc", "desc"]
_MOST: Final = 100  # runs per page, as in the API
_MOST_ENTRIES: Final = 1000
_FIRST_WIDTH: Final = 64  # transactions that are looked at for entries, at first
_MOST_LOOKED_AT: Final = 10_000  # entries, before fewer transactions are looked at
_ENTRIES: Final = validators.integer(least=1)
_VERSION: Final = validators.integer(least=0)
_ATTEMPTS: Final = validators.optional(validators.integer(least=0))
_AGE: Final = validators.optional(validators.number(0, validators.YEAR_10000))


@attrs.frozen
class Page(Sequence[StoredRun]):
    """A page of a list of runs. It is a sequence of the runs; `has_more` is whether there are more after it."""

    data: tuple[StoredRun, ...]
    has_more: bool

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, index: int) -> StoredRun: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[StoredRun, ...]: ...
    def __getitem__(self, index: int | slice) -> StoredRun | tuple[StoredRun, ...]:
        return self.data[index]

    def __iter__(self) -> Iterator[StoredRun]:
        return iter(self.data)

    @property
    def first_id(self) -> str | None:
        """The id of the first run, for `before` of the previous page. None for an empty page."""
        return self.data[0].id if self.data else None

    @property
    def last_id(self) -> str | None:
        """The id of the last run, for `after` of the next page. None for an empty page."""
        return self.data[-1].id if self.data else None


def row_of(session: Connection, run_id: str) -> Row:
    """Return the row of a run. Raises `RunNotFound`."""
    found = session.execute(session.statements.by_id, {"id": run_id})
    if not found:
        raise RunNotFound(run_id)
    return found[0]


def seq_of(session: Connection, run_id: str) -> int:
    """Return the number of a run. Raises `RunNotFound`."""
    seq: int = row_of(session, run_id)[0]
    return seq


class QueryMixin(StoreBase):
    """The methods of a store that read."""

    def get(self, run_id: str) -> StoredRun:
        """Return the current run with this id. Raises `RunNotFound`."""
        raise_if_invalid(validators.identifier("run_id", run_id))
        return self._transport.read(lambda session: decode_run(row_of(session, run_id)))

    def progress(self, run_id: str) -> str | None:
        """Return the last text that the run's handler passed to `ctx.progress`, or None. Raises `RunNotFound`."""
        raise_if_invalid(validators.identifier("run_id", run_id))

        def look(session: Connection) -> str | None:
            found = session.execute(session.statements.progress, {"run": row_of(session, run_id)[0]})
            return found[0][0] if found else None

        return self._transport.read(look)

    def list(
        self,
        *,
        thread_id: str | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        queue: str | None = None,
        metadata: Mapping[str, str] | None = None,
        older_than_s: float | None = None,
        younger_than_s: float | None = None,
        changed_within_s: float | None = None,
        unchanged_for_s: float | None = None,
        ended_within_s: float | None = None,
        attempts_above: int | None = None,
        past_deadline: bool = False,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
    ) -> Page:
        """Return a page of runs, newest first, or oldest first with `order="asc"`.

        All given conditions must hold: `thread_id`, `status` (one or several), `queue`, `metadata` (the run has all
        these pairs), `older_than_s` and `younger_than_s` (seconds since the run was created), `changed_within_s` and
        `unchanged_for_s` (seconds since its last transition), `ended_within_s` (seconds since it ended),
        `attempts_above` (its `attempt` is greater), `past_deadline` (it is live, and its deadline has come). `after`
        and `before` are ids of runs: the page begins after the one, and ends before the other. `limit` is 1 to 100.

            page = store.list(status="failed", limit=100)
            following = store.list(status="failed", limit=100, after=page.last_id)

        Raises `RunNotFound` for an unknown id in `after` or `before`, `ValueError` for an unknown status, and
        `InvalidRun` for other wrong arguments.
        """
        ages = {
            "older_than_s": older_than_s,
            "younger_than_s": younger_than_s,
            "changed_within_s": changed_within_s,
            "unchanged_for_s": unchanged_for_s,
            "ended_within_s": ended_within_s,
        }
        faults = _faults_of_filter(thread_id, queue, metadata, ages)
        faults += _ATTEMPTS("attempts_above", attempts_above) + validators.boolean("past_deadline", past_deadline)
        statuses = None if status is None else [status] if isinstance(status, str) else list(status)
        wanted = None if statuses is None else frozenset(RunStatus(one) for one in statuses)
        faults += [
            fault
            for name, value in (("after", after), ("before", before))
            if value is not None
            for fault in validators.identifier(name, value)
        ]
        if type(limit) is not int or not 1 <= limit <= _MOST:
            faults.append(FieldError("limit", f"expected 1 to {_MOST}, got {validators.preview(limit)}"))
        if order not in ("asc", "desc"):
            faults.append(FieldError("order", f"expected 'asc' or 'desc', got {validators.preview(order)}"))
        raise_if_invalid(faults)

        given = RunFilter(
            thread_id=thread_id,
            statuses=wanted,
            queue=queue,
            metadata=metadata,
            attempts_above=attempts_above,
            past_deadline=past_deadline,
            **ages,
        )
        return self._transport.read(lambda session: _page(session, given, limit, order, after, before))

    def history(self, run_id: str, *, after_version: int = 0) -> tuple[Entry, ...]:
        """Return the entries of a run after a version, oldest first; by default all. Raises `RunNotFound`."""
        raise_if_invalid(validators.identifier("run_id", run_id) + _VERSION("after_version", after_version))

        def look(session: Connection) -> tuple[Entry, ...]:
            seq = row_of(session, run_id)[0]
            found = session.execute(session.statements.history, {"run": seq, "after": after_version})
            return tuple(map(decode_entry, found))

        return self._transport.read(look)

    def entries(self, after: str = "", *, limit: int = 100) -> tuple[Entry, ...]:
        """Return the next entries of all runs after a cursor, in the order of their commits; at most 1000.

        `after` is the `cursor` of an entry, or empty to begin with the first. On PostgreSQL an entry appears only when
        no older transaction can still add an entry before it.
        """
        raise_if_invalid(validators.string("after", after) + _ENTRIES("limit", limit))
        position = entry_position(after)
        return self._transport.read(lambda session: tuple(read_entries(session, position, limit)[0]))

    def latest_cursor(self) -> str:
        """Return the cursor of the last entry, to read only later entries."""
        return self._transport.read(lambda session: str(session.execute(session.statements.latest_cursor, {})[0][0]))

    def counts(self) -> dict[RunStatus, int]:
        """Return the number of runs in each status."""

        def look(session: Connection) -> dict[RunStatus, int]:
            found = session.execute(session.statements.dialect.lookups.counts, {})
            return {**dict.fromkeys(RunStatus, 0), **{RunStatus(status): count for status, count in found if count}}

        return self._transport.read(look)

    def queues(self) -> dict[str, int]:
        """Return the number of queued runs in each queue that has any. A missing name may be misspelled."""

        def look(session: Connection) -> dict[str, int]:
            found = session.execute(session.statements.queued_by_queue, {})
            return {str(queue): count for queue, count in found}

        return self._transport.read(look)


def _faults_of_filter(
    thread_id: str | None, queue: str | None, metadata: Mapping[str, str] | None, ages: Mapping[str, float | None]
) -> list[FieldError]:
    texts = {"thread_id": thread_id, "queue": queue}
    faults = [
        fault for name, value in texts.items() if value is not None for fault in validators.identifier(name, value)
    ]
    if metadata is not None:
        faults += validators.metadata("metadata", metadata)
        for key, value in () if faults else metadata.items():
            at = json_path("metadata", key)
            faults += validators.plain_text(at, key) + validators.plain_text(at, value)
    for name, seconds in ages.items():
        faults += _AGE(name, seconds)
    return faults


def entry_position(cursor: str) -> tuple[int, int, int]:
    """Return a cursor as numbers that increase from entry to entry: transaction (or entry), run, version."""
    parts = cursor.split(".") if cursor else ["0"]
    numbers = [int(part) for part in parts if part.isdecimal() and part.isascii() and len(part) < 20]
    if len(numbers) < len(parts) or len(parts) > 3 or max(numbers) > validators.INT64_MAX:
        raise_if_invalid(
            [FieldError("after", f"expected a cursor that an entry came with, got {validators.preview(cursor)}")]
        )
    first, second, third = (*numbers, 0, 0)[:3]
    return first, second, third


def read_entries(
    session: Connection, after: tuple[int, ...], limit: int = _MOST_ENTRIES
) -> tuple[list[Entry], bool, tuple[int, ...]]:
    """Return the next entries of all runs after a position, whether there may be more now, and where these may begin.

    It looks at some transactions at a time, so that a page costs the same however many entries follow.
    """
    (at, run, version), width, growth = after, _FIRST_WIDTH, 8
    found, left = list[Entry](), min(limit, _MOST_ENTRIES)
    while True:
        most = _MOST_LOOKED_AT if width > 1 else None  # one transaction can have any number of entries
        params = {"tx": at, "run": run, "version": version, "most": most, "limit": left}
        width = min(width, validators.INT64_MAX - at)
        rows = session.execute(session.statements.all_entries, {**params, "width": width})
        *_, looked_at, following = rows[0] if rows else (0, None)
        if most is not None and looked_at >= most:
            width, growth = max(1, min(width // 2, 2 * width * left // looked_at)), 2
            continue
        entries = [decode_entry(row[:-2]) for row in rows if row[0] is not None]
        found += entries
        left -= len(entries)
        if not left or following is None:
            return found, not left, (at, run, version)
        at, run, version, width = following, 0, 0, width * growth


def _page(
    session: Connection, wanted: RunFilter, limit: int, order: Order, after: str | None, before: str | None
) -> Page:
    speak = session.statements
    now = session.execute(speak.moment, {})[0][0] if wanted.needs_time else 0
    params = {**wanted.params(now), "limit": limit + 1}
    for name, place in (("after", after), ("before", before)):
        if place is not None:
            params[name] = row_of(session, place)[0]
    ahead, behind = ("<", ">") if order == "desc" else (">", "<")
    backwards = before is not None and after is None  # a page that ends before a run is read from its end
    falls = (order == "desc") is not backwards
    span = Span(falls, ahead if after is not None else "", behind if before is not None else "")
    read = _rows(session, wanted, span, params)
    runs = [decode_run(row) for row in read[:limit]]
    return Page(tuple(reversed(runs) if backwards else runs), len(read) > limit)


def _rows(session: Connection, wanted: RunFilter, span: Span, params: Mapping[str, Any]) -> Sequence[Row]:
    """Return the rows of a page, and one more if there are more."""
    speak = session.statements
    found = sources(speak, wanted)
    if found is None:
        return session.execute(walk_statement(speak, wanted, span), params)
    if not all(source.is_ordered for source in found):
        # Such a source is read as a whole, and may be large. Then many runs match, and a short walk fills the page.
        read = session.execute(walk_statement(speak, wanted, span, most=True), params)
        if len(read) == params["limit"]:
            return read
    return session.execute(list_statement(speak, wanted, span, found), params)
