"""The law as conditions on a row before and after a write, in SQL. The dialects' triggers are made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent, RunStatus, Stamp
from runstate.run.validators import YEAR_10000
from runstate.store._sql.columns import FIXED_COLUMNS
from runstate.store._sql.dialect import SQLITE, Dialect
from runstate.store._sql.literals import ENDED, sql_list

__all__ = [
    "CLAIM_COLUMNS",
    "COMMONEST_FIRST",
    "GUARDS_OF_CLAIMS",
    "LEGAL",
    "RARE_COLUMNS",
    "Guard",
    "guards",
    "not_ahead",
    "row_condition",
    "transition_condition",
]

LEGAL: Final = sql_list([f"{row.event} {row.source} {row.target}" for row in RUN_LIFECYCLE.transitions])
"""Every row of the law as `event source target`, as a list of SQL literals."""

_MOST: Final = (RunEvent.START, RunEvent.COMPLETE)
COMMONEST_FIRST: Final = (*_MOST, *(event for event in RUN_LIFECYCLE.events if event not in _MOST))
"""The events, with those first that make up most lives: a guard compares one after another."""

_STAMPS: Final[tuple[Stamp, ...]] = ("started_at", "cancelled_at", "failed_at", "completed_at")
_STARTED: Final = RUN_LIFECYCLE.target_of(RunEvent.START)
_HELD: Final = ("expires_at", "required_action", "last_error", "incomplete_details", "usage")
_ENTRY: Final = ("event", "source", "changed_at_us", "actor", "detail")
# Judged by the time that is written, which is the writer's own and never before that of the last entry. The database's
# clock is none to judge by: the clock of a test may be years from it, that of a client seconds.
_LATE_DAYS: Final = 400
_LATE_US: Final = _LATE_DAYS * 86_400 * 1_000_000
_IN_TIME: Final = "NEW.changed_at_us < OLD.expires_at * 1000000"
_UNTIL_DEADLINE: Final = tuple(event for event in RUN_LIFECYCLE.events if event in RUN_LIFECYCLE.until_deadline)
CLAIM_COLUMNS: Final = ("worker", "attempt", "lost", "failed", "claimable_at_us")
"""The columns that change without a transition."""
GUARDS_OF_CLAIMS: Final = ("transition", "claims")
"""The guards that say what may change without a transition."""
_EMPTY_AT_BIRTH: Final = ("event", "source", *_STAMPS, "worker")
_JSON: Final = frozenset({"detail", "required_action", "last_error", "incomplete_details", "usage"})


@attrs.frozen
class Guard:
    """What must hold of every write of one kind to the run table: a condition on OLD and NEW, and its sentence."""

    name: str
    on: str
    """`INSERT`, `UPDATE` or `DELETE`."""
    holds: str
    sentence: str


def _same(dialect: Dialect, columns: tuple[str, ...]) -> str:
    def text(row: str, column: str) -> str:
        return dialect.comparable(f"{row}.{column}") if column in _JSON else f"{row}.{column}"

    return " AND ".join(f"{text('NEW', column)} {dialect.null_safe_eq} {text('OLD', column)}" for column in columns)


def not_ahead(dialect: Dialect, time: str, deadline: str = "OLD.expires_at") -> str:
    """Return the condition that a time is not far ahead of both the deadline of a run and the database's clock.

    Outcomes and cancels count after the deadline, until the run is expired, and that may be late: the workers may have
    been away for weeks. The clock of a test may be years ahead, but so is the deadline of a run that was created by it.
    The deadline comes first, because most moves come before it.
    """
    return f"({time} < {deadline} * 1000000 + {_LATE_US} OR {time} < {dialect.clock} + {_LATE_US})"


def _by_status(no: str, conditions: Mapping[RunStatus, str]) -> str:
    """Return the condition that NEW meets what its status asks for.

    A CASE, and no IN: SQLite fills a table with an IN's list anew whenever a trigger is entered.
    """
    whens = " ".join(f"WHEN '{status}' THEN {holds}" for status, holds in conditions.items())
    return f"CASE NEW.status {whens} ELSE {no} END"


def _legal(dialect: Dialect) -> str:
    """Return the condition that a row of the law leads from OLD to NEW by NEW's event."""
    whens: list[str] = []
    for event in RUN_LIFECYCLE.events:
        sources = " OR ".join(f"OLD.status = '{source}'" for source in sorted(RUN_LIFECYCLE.sources_of(event)))
        whens.append(f"WHEN '{event}' THEN NEW.status = '{RUN_LIFECYCLE.target_of(event)}' AND ({sources})")
    return f"CASE NEW.event {' '.join(whens)} ELSE {dialect.false} END"


def _timely(dialect: Dialect) -> Guard:
    """Return the guard of the deadline, of the events that end with it."""
    whens = " ".join(f"WHEN '{event}' THEN {_IN_TIME}" for event in _UNTIL_DEADLINE)
    return Guard(
        "deadline",
        "UPDATE",
        f"NEW.version = OLD.version OR CASE NEW.event {whens} ELSE {dialect.true} END",
        f"the deadline of the run has passed, so it cannot {' or '.join(_UNTIL_DEADLINE)} any more",
    )


def _clocked(dialect: Dialect) -> Guard:
    """Return the guard of the time of a transition."""
    return Guard(
        "clock",
        "UPDATE",
        f"NEW.version = OLD.version OR {not_ahead(dialect, 'NEW.changed_at_us')}",
        f"a transition is at most {_LATE_DAYS} days after the deadline of the run or the clock of the database",
    )


def _stamped(dialect: Dialect, status: RunStatus, besides: Collection[str] = ()) -> str:
    """Return the condition that a transition into a status has written its stamp, and no other."""
    own = {row.stamp for row in RUN_LIFECYCLE.transitions if row.target is status and row.stamp}
    kept = _same(dialect, tuple(stamp for stamp in _STAMPS if stamp not in own and stamp not in besides))
    return " AND ".join([kept, *(f"NEW.{stamp} = NEW.changed_at_us / 1000000" for stamp in own)])


def _ownership(dialect: Dialect) -> str:
    """Return who may work on a run after a transition: its starter, then the same one until the run leaves."""
    same = dialect.null_safe_eq
    return f"""CASE
        WHEN NEW.status = '{_STARTED}' THEN {_BEGUN}
        WHEN OLD.status = '{_STARTED}' AND NEW.status = '{_UNENDED}' THEN NEW.worker {same} OLD.worker AND {_COUNTED}
        ELSE NEW.worker IS NULL AND {_COUNTED}
    END"""


_UNENDED: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)  # where a worker still is that has been started on
_COUNTED: Final = "NEW.attempt = OLD.attempt AND NEW.lost = OLD.lost AND NEW.failed = OLD.failed"
"""The condition that the counters of a run's claims have not changed."""
_BEGUN: Final = (
    "NEW.lost = 0 AND NEW.failed = 0"
    " AND CASE WHEN NEW.worker IS NULL THEN NEW.attempt = 0 ELSE NEW.attempt = 1 AND NEW.worker <> 0 END"
)
"""The condition of a run that was just started: by a worker in its first attempt, or by hand."""


def _claims(dialect: Dialect) -> str:
    """Return what may change without a transition.

    A queued run becomes claimable. A claimed run is released, is taken over, or waits for a retry: then it has no
    worker, and becomes claimable at a later time. A worker claims it again.
    """
    same = dialect.null_safe_eq
    untouched = f"NEW.worker {same} OLD.worker AND {_COUNTED}"
    ready = (
        f"OLD.claimable_at_us IS NULL AND NEW.claimable_at_us IS NOT NULL AND OLD.status = '{INITIAL_STATUS}'"
        f" AND {untouched} AND NEW.claimable_at_us >= coalesce(OLD.not_before_us, OLD.changed_at_us)"
        f" AND {not_ahead(dialect, 'NEW.claimable_at_us')}"
    )
    released = f"NEW.worker = 0 AND OLD.worker <> 0 AND {_COUNTED}"
    next_attempt = "NEW.worker <> 0 AND NEW.attempt = OLD.attempt + 1 AND NEW.failed = OLD.failed"
    taken = (
        f"NEW.worker <> OLD.worker AND {next_attempt}"
        " AND NEW.lost = OLD.lost + CASE WHEN OLD.worker = 0 THEN 0 ELSE 1 END"
    )
    retried = (
        f"OLD.worker IS NULL AND OLD.attempt > 0 AND OLD.status = '{_STARTED}' AND NEW.worker IS NOT NULL"
        f" AND {next_attempt} AND NEW.lost = OLD.lost"
    )
    waits = (
        f"OLD.worker <> 0 AND NEW.worker IS NULL AND OLD.status = '{_STARTED}' AND NEW.attempt = OLD.attempt"
        " AND NEW.lost = OLD.lost AND NEW.failed BETWEEN OLD.failed AND OLD.failed + 1"
        " AND NEW.claimable_at_us > OLD.changed_at_us AND NEW.claimable_at_us < OLD.expires_at * 1000000"
    )
    progress = (  # a step was kept: the losses are counted anew
        f"NEW.worker {same} OLD.worker AND NEW.attempt = OLD.attempt AND NEW.failed = OLD.failed AND NEW.lost = 0"
        f" AND OLD.worker <> 0 AND NEW.claimable_at_us {same} OLD.claimable_at_us"
    )
    return f"""({untouched} AND NEW.claimable_at_us {same} OLD.claimable_at_us)
        OR ({progress})
        OR ({ready})
        OR ({waits})
        OR (NEW.claimable_at_us {same} OLD.claimable_at_us AND (({released}) OR ({taken}) OR ({retried})))"""


def _held(status: RunStatus, besides: Collection[str] = ()) -> str:
    """Return the condition that a row has just the fields which the law gives its status."""
    return " AND ".join(
        f"NEW.{field} IS {'NOT ' if RUN_LIFECYCLE.is_present(field, status) else ''}NULL"
        for field in _HELD
        if field not in besides
    )


def _fields(dialect: Dialect) -> str:
    """Return what the law says of a row by itself: which fields have a value in which status."""
    held = _by_status(dialect.false, {status: _held(status) for status in RunStatus})
    # The JSON null is not NULL, and says as little.
    objects = [f"(NEW.{c} IS NULL OR ({_is_some_object(dialect, c)}))" for c in sorted(_JSON)]
    bounds = [
        f"NEW.changed_at_us BETWEEN 0 AND {YEAR_10000 * 1_000_000 - 1}",
        f"(NEW.expires_at IS NULL OR (NEW.expires_at > NEW.created_at AND NEW.expires_at < {YEAR_10000}))",
    ]
    begun = "(NEW.claimable_at_us IS NOT NULL OR NEW.started_at IS NULL)"  # what is not ready is not begun
    return " AND ".join([held, *objects, *bounds, begun])


def _is_some_object(dialect: Dialect, column: str) -> str:
    """Return the same condition in plain words, for guards that are asked after the sentence of a refusal."""
    return f"{dialect.valid_json(f'NEW.{column}')}{dialect.json_type}(NEW.{column}) = 'object'"


def _is_object(dialect: Dialect, column: str) -> str:
    """Return the condition that a column, which is not null, holds a JSON object."""
    return dialect.is_object(f"NEW.{column}")


def row_condition(dialect: Dialect, event: RunEvent, untouched: Collection[str] = ()) -> str:
    """Return what the guards of a transition come to where its event is known: a fifth of it all to compare.

    A deadline, where it does not go, is the one that was checked at birth. What is `untouched` by the statement is as
    it was, and was checked when it was written.
    """
    target = RUN_LIFECYCLE.target_of(event)
    sources = " OR ".join(f"OLD.status = '{source}'" for source in sorted(RUN_LIFECYCLE.sources_of(event)))
    objects = [field for field in _HELD if field in _JSON and RUN_LIFECYCLE.is_present(field, target)]
    late = [f"NEW.changed_at_us < {YEAR_10000 * 1_000_000}", not_ahead(dialect, "NEW.changed_at_us")]
    same = f"{_COUNTED} AND NEW.worker {dialect.null_safe_eq} OLD.worker"
    gone = f"{_COUNTED} AND NEW.worker IS NULL"
    if target == _STARTED:
        owned = _BEGUN
    elif target == _UNENDED:
        owned = f"CASE WHEN OLD.status = '{_STARTED}' THEN {same} ELSE {gone} END"
    else:
        owned = gone
    conditions = [
        f"NEW.status = '{target}' AND ({sources}) AND NEW.source = OLD.status",
        "NEW.changed_at_us >= OLD.changed_at_us",
        _stamped(dialect, target, untouched),
        _held(target, untouched),
        *(["NEW.expires_at = OLD.expires_at"] if RUN_LIFECYCLE.is_present("expires_at", target) else []),
        *([_IN_TIME] if event in RUN_LIFECYCLE.until_deadline else []),
        *([] if event in RUN_LIFECYCLE.until_deadline else late),
        *(_is_object(dialect, field) for field in objects),
        f"(NEW.detail IS NULL OR {_is_object(dialect, 'detail')})",
        *([] if "claimable_at_us" in untouched else [_same(dialect, ("claimable_at_us",))]),
        *(["NEW.claimable_at_us IS NOT NULL"] if target == _STARTED else []),
        owned,
    ]
    return " AND ".join(conditions)


def _birth(dialect: Dialect) -> Guard:
    """Return the guard of what is inserted."""
    empty = " AND ".join(f"NEW.{column} IS NULL" for column in _EMPTY_AT_BIRTH)
    return Guard(
        "birth",
        "INSERT",
        f"NEW.status = '{INITIAL_STATUS}' AND NEW.version = 1 AND NEW.attempt = 0"
        f" AND NEW.lost = 0 AND NEW.failed = 0 AND {empty}"
        f" AND {_held(INITIAL_STATUS)}"
        f" AND NEW.changed_at_us BETWEEN 0 AND {YEAR_10000 * 1_000_000 - 1}"
        " AND NEW.created_at = NEW.changed_at_us / 1000000"
        f" AND NEW.expires_at > NEW.created_at AND NEW.expires_at < {YEAR_10000}"
        " AND (NEW.claimable_at_us IS NULL OR NEW.not_before_us IS NULL)"
        " AND NEW.id <> '' AND NEW.thread_id <> '' AND NEW.assistant_id <> '' AND NEW.queue <> ''"
        " AND (NEW.idempotency_key IS NULL OR NEW.idempotency_key <> '')"
        " AND (NEW.thread_policy IS NULL OR NEW.thread_policy = 'reject' OR NEW.thread_policy = 'queue')"
        f" AND (NEW.detail IS NULL OR ({_is_some_object(dialect, 'detail')}))",
        f"a run is born {INITIAL_STATUS}, at version 1, with no stamp but its birth",
    )


RARE_COLUMNS: Final = (
    *("cancelled_at", "failed_at", "required_action", "last_error", "incomplete_details", "claimable_at_us"),
)
"""Columns that the commonest transitions leave as they are."""


def transition_condition(*, touches_rare: bool) -> str:
    """Return, for SQLite, the condition that a transition meets all guards of an update but that of the identity.

    A statement that does not touch `RARE_COLUMNS` need not compare them where the event leaves them as they are.
    """
    untouched = {event: () if touches_rare or event not in _MOST else RARE_COLUMNS for event in COMMONEST_FIRST}
    whens = " ".join(f"WHEN '{event}' THEN {row_condition(SQLITE, event, untouched[event])}" for event in untouched)
    return f"NEW.version = OLD.version + 1 AND CASE NEW.event {whens} ELSE 0 END"


def guards(dialect: Dialect) -> Iterator[Guard]:
    """Yield every guard of the run table, the likeliest mistake first."""
    yield _birth(dialect)
    yield Guard(
        "identity",
        "UPDATE",
        _same(dialect, FIXED_COLUMNS),
        "what a run was created with never changes",
    )
    yield Guard(
        "transition",
        "UPDATE",
        f"""CASE NEW.version - OLD.version
        WHEN 1 THEN {_legal(dialect)}
            AND NEW.source = OLD.status AND NEW.changed_at_us >= OLD.changed_at_us
        WHEN 0 THEN NEW.status = OLD.status AND {_same(dialect, (*_ENTRY, *_STAMPS, *_HELD))}
        ELSE {dialect.false}
    END""",
        "illegal transition. Change runs through runstate; a direct UPDATE must also set event, source, "
        "version = version + 1 and changed_at_us",
    )
    yield _timely(dialect)
    yield _clocked(dialect)
    yield Guard(
        "stamps",
        "UPDATE",
        f"NEW.version = OLD.version OR ({_by_status(dialect.false, {s: _stamped(dialect, s) for s in RunStatus})}"
        " AND (NEW.expires_at IS NULL OR NEW.expires_at = OLD.expires_at))",
        "a transition writes its own stamp with its own time, and no other",
    )
    yield Guard(
        "fields",
        "UPDATE",
        f"NEW.version = OLD.version OR ({_fields(dialect)})",
        "a status has the fields that the law gives it, as JSON objects, and no other",
    )
    yield Guard(
        "claims",
        "UPDATE",
        f"""CASE WHEN NEW.version <> OLD.version
        THEN NEW.claimable_at_us {dialect.null_safe_eq} OLD.claimable_at_us AND {_ownership(dialect)}
        ELSE {_claims(dialect)}
    END""",
        "a run is claimed at its start, and again with its attempt counted: after a release, a loss or a retry",
    )
    yield Guard(
        "live",
        "DELETE",
        f"OLD.status IN ({ENDED})",
        "only a run that has ended may be deleted",
    )
