"""The law as the database holds it: triggers that refuse what `lifecycle.py` does not allow, from whoever writes.

A guard is a condition on the row before and the row after. On both dialects it stands in the WHEN of a trigger that
only refuses, so a legal write pays for comparing and calls nothing: measured inside the group commit, rule rows with
foreign keys cost PostgreSQL a quarter of its peak, these conditions nothing that shows.

The history is written by the database too: whoever moves a run writes event, source, version and time into its row,
and a trigger appends the entry. So no row moves without its entry, and none is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from runstate.lifecycle import BIRTH, LAW, RunEvent, RunStatus, Stamp
from runstate.store.tables import SQLITE, TABLES, Words, quoted

__all__ = ["LEGAL", "Guard", "create_guards", "drop_guards", "stamped_by"]

LEGAL: Final = quoted([f"{row.event} {row.source} {row.target}" for row in LAW.transitions])
"""Every row of the law as `event source target`, as a list of SQL literals."""

_STAMPS: Final[tuple[Stamp, ...]] = ("started_at", "cancelled_at", "failed_at", "completed_at")
_STARTED: Final = LAW.target_of(RunEvent.START)
_HELD: Final = ("expires_at", "required_action", "last_error", "incomplete_details", "usage")
_FOR_EVER: Final = (
    *("seq", "id", "thread_id", "assistant_id", "model", "created_at"),
    *("queue", "priority", "not_before", "exclusive", "idempotency_key"),
)
_ENTRY: Final = ("event", "source", "at", "actor", "detail")
_EMPTY_AT_BIRTH: Final = ("event", "source", *_STAMPS, "worker")
_JSON: Final = frozenset({"detail", "required_action", "last_error", "incomplete_details", "usage"})


def stamped_by(stamp: Stamp) -> str:
    """Return the statuses whose entry writes `stamp`, as a list of SQL literals."""
    return quoted(sorted({row.target for row in LAW.transitions if row.stamp == stamp}))


@attrs.frozen
class Guard:
    """What must hold of every write of one kind to the run table: a condition on OLD and NEW, and its sentence."""

    name: str
    on: str
    """`INSERT`, `UPDATE` or `DELETE`."""
    holds: str
    sentence: str


def _same(words: Words, columns: tuple[str, ...]) -> str:
    def text(row: str, column: str) -> str:
        # PostgreSQL cannot compare two values of type json, but their texts.
        return f"{row}.{column}::text" if words is not SQLITE and column in _JSON else f"{row}.{column}"

    return " AND ".join(f"{text('NEW', column)} {words.same} {text('OLD', column)}" for column in columns)


def _stamps(words: Words) -> Iterator[str]:
    for stamp in _STAMPS:
        here = f"NEW.status IN ({stamped_by(stamp)})"
        yield f"NEW.{stamp} {words.same} (CASE WHEN {here} THEN NEW.at / 1000000 ELSE OLD.{stamp} END)"
    yield "(NEW.expires_at IS NULL OR NEW.expires_at = OLD.expires_at)"


def _ownership(words: Words) -> str:
    """Return who may work on a run after a transition: its starter, then the same one until the run leaves."""
    same = words.same
    return f"""CASE
        WHEN NEW.status = '{_STARTED}' THEN (NEW.worker IS NULL AND NEW.attempt = 0)
            OR (NEW.worker IS NOT NULL AND NEW.worker <> 0 AND NEW.attempt = 1)
        WHEN OLD.status = '{_STARTED}' AND NEW.status IN ({quoted(_UNENDED)})
            THEN NEW.worker {same} OLD.worker AND NEW.attempt = OLD.attempt
        ELSE NEW.worker IS NULL AND NEW.attempt = OLD.attempt
    END"""


_UNENDED: Final = tuple(  # where a worker still is, after it has been started on: today only cancelling
    status
    for status in RunStatus
    if not LAW.is_terminal(status)
    and LAW.find(_STARTED, RunEvent.REQUEST_CANCEL) is not None
    and status is LAW.target_of(RunEvent.REQUEST_CANCEL)
)


def _claims(words: Words) -> str:
    """Return what may change without a transition: a run gets ready, is released, or is taken over."""
    same = words.same
    untouched = f"NEW.worker {same} OLD.worker AND NEW.attempt = OLD.attempt"
    ready = (
        f"OLD.ready_at IS NULL AND NEW.ready_at IS NOT NULL AND OLD.status = '{BIRTH}' AND {untouched}"
        " AND NEW.ready_at >= coalesce(OLD.not_before, OLD.at)"
    )
    released = "NEW.worker = 0 AND OLD.worker <> 0 AND NEW.attempt = OLD.attempt - 1"
    taken = "NEW.worker <> OLD.worker AND NEW.worker <> 0 AND NEW.attempt = OLD.attempt + 1"
    return f"""({untouched} AND NEW.ready_at {same} OLD.ready_at)
        OR ({ready})
        OR (NEW.ready_at {same} OLD.ready_at AND (({released}) OR ({taken})))"""


def _guards(words: Words) -> Iterator[Guard]:
    empty = " AND ".join(f"NEW.{column} IS NULL" for column in _EMPTY_AT_BIRTH)
    yield Guard(
        "birth",
        "INSERT",
        f"NEW.status = '{BIRTH}' AND NEW.version = 1 AND NEW.attempt = 0 AND {empty}"
        " AND NEW.created_at = NEW.at / 1000000 AND (NEW.ready_at IS NULL OR NEW.not_before IS NULL)",
        f"a run is born {BIRTH}, at version 1, with no stamp but its birth",
    )
    yield Guard(
        "identity",
        "UPDATE",
        _same(words, _FOR_EVER),
        "what a run was created with never changes",
    )
    yield Guard(
        "transition",
        "UPDATE",
        f"""CASE NEW.version - OLD.version
        WHEN 1 THEN (NEW.event || ' ' || OLD.status || ' ' || NEW.status) IN ({LEGAL})
            AND NEW.source = OLD.status AND NEW.at >= OLD.at
        WHEN 0 THEN NEW.status = OLD.status AND {_same(words, (*_ENTRY, *_STAMPS, *_HELD))}
        ELSE {"0" if words is SQLITE else "false"}
    END""",
        "no row of the law allows this transition; it also writes event, source, version + 1 and at",
    )
    yield Guard(
        "stamps",
        "UPDATE",
        f"NEW.version = OLD.version OR ({' AND '.join(_stamps(words))})",
        "a transition writes its own stamp with its own time, and no other",
    )
    yield Guard(
        "claims",
        "UPDATE",
        f"""CASE WHEN NEW.version <> OLD.version
        THEN NEW.ready_at {words.same} OLD.ready_at AND {_ownership(words)}
        ELSE {_claims(words)}
    END""",
        "a run is claimed at its start, released or taken over with its attempt counted, and gets ready once",
    )
    yield Guard(
        "live",
        "DELETE",
        f"OLD.status IN ({quoted([status for status in RunStatus if LAW.is_terminal(status)])})",
        "only a run that has ended may be deleted",
    )


_FIELDS: Final = "(run, version, event, source, target, at, actor, detail)"
_NEW_ENTRY: Final = "NEW.seq, NEW.version, NEW.event, NEW.source, NEW.status, NEW.at, NEW.actor, NEW.detail"
_HISTORY: Final = "the history is written by the database alone, and never changed"
_SETTINGS: Final = "what a run was created with never changes"
_TAKEN: Final = "a run is taken over only from a worker whose lease has been closed"
_REPLACED: Final = "a run that is there is never replaced"
_BUSY: Final = "the thread has another live run, and this one waits behind it"
_CLOSED: Final = "a lease that was closed stays closed"
_LEASED: Final = "a lease is kept while a run belongs to it"
_LIVE: Final = quoted([status for status in RunStatus if not LAW.is_terminal(status)])


def _busy(row: str, table: str = "runstate_run") -> str:
    """Return the condition that the thread of a row has a live run that is to be its only one."""
    return (
        f"EXISTS (SELECT 1 FROM {table} WHERE thread_id = {row}.thread_id AND status IN ({_LIVE})"
        " AND (exclusive = 'reject' OR (exclusive = 'queue' AND ready_at IS NOT NULL)))"
    )


def _promote(row: str, table: str = "runstate_run") -> str:
    """Return the statement that lets the next run of an exclusive thread be claimed, as one of them has ended."""
    return f"""\
UPDATE {table} SET ready_at = {row}.at WHERE seq = (
        SELECT min(seq) FROM {table}
        WHERE thread_id = {row}.thread_id AND exclusive = 'queue' AND ready_at IS NULL AND status = '{BIRTH}'
            AND coalesce(not_before, at) <= {row}.at)
        AND NOT {_busy(row, table)}"""


_ENDED: Final = f"NEW.exclusive IS NOT NULL AND NEW.status IN ({quoted([s for s in RunStatus if LAW.is_terminal(s)])})"


def _sqlite() -> Iterator[str]:
    def refuse(sentence: str) -> str:
        return f"BEGIN SELECT raise(ABORT, 'runstate: {sentence}'); END"

    def guard_by(name: str, when: str, body: str) -> str:
        return f"CREATE TRIGGER runstate_{name} {when} {body}"

    for guard in _guards(SQLITE):
        when = f"BEFORE {guard.on} ON runstate_run WHEN NOT coalesce({guard.holds}, 0)"
        yield guard_by(f"guard_{guard.name}", when, refuse(guard.sentence))
    insert = f"BEGIN INSERT INTO runstate_history {_FIELDS} VALUES ({_NEW_ENTRY}); END"
    yield guard_by("born", "AFTER INSERT ON runstate_run", insert)
    yield guard_by("moved", "AFTER UPDATE ON runstate_run WHEN NEW.version <> OLD.version", insert)
    yield guard_by("ended", f"AFTER UPDATE OF status ON runstate_run WHEN {_ENDED}", f"BEGIN {_promote('NEW')}; END")
    lapsed = "(SELECT closed FROM runstate_worker WHERE token = OLD.worker)"
    yield guard_by(
        "taken",
        "BEFORE UPDATE OF worker ON runstate_run WHEN NEW.version = OLD.version AND NEW.worker <> 0"
        f" AND NEW.worker <> OLD.worker AND coalesce({lapsed}, 1) = 0",
        refuse(_TAKEN),
    )
    # Deleting a run deletes what stands beside it. Only then may the history lose rows.
    gone = "DELETE FROM runstate_history WHERE run = OLD.seq; DELETE FROM runstate_notes WHERE run = OLD.seq;"
    yield guard_by(
        "deleted",
        "AFTER DELETE ON runstate_run",
        f"BEGIN {gone} DELETE FROM runstate_settings WHERE id = OLD.id; END",
    )
    entry = (
        "seq = NEW.run AND version = NEW.version AND status = NEW.target AND at = NEW.at AND event IS NEW.event"
        " AND source IS NEW.source AND actor IS NEW.actor AND detail IS NEW.detail"
    )
    yield guard_by(
        "history_insert",
        f"BEFORE INSERT ON runstate_history WHEN NOT EXISTS (SELECT 1 FROM runstate_run WHERE {entry})"
        " OR EXISTS (SELECT 1 FROM runstate_history WHERE run = NEW.run AND version = NEW.version)",
        refuse(_HISTORY),
    )
    yield guard_by("history_update", "BEFORE UPDATE ON runstate_history", refuse(_HISTORY))
    yield guard_by(
        "history_delete",
        "BEFORE DELETE ON runstate_history WHEN EXISTS (SELECT 1 FROM runstate_run WHERE seq = OLD.run)",
        refuse(_HISTORY),
    )
    yield from _never_replaced(guard_by, refuse)
    exists = "WHEN EXISTS (SELECT 1 FROM runstate_run WHERE id = {}.id)"
    yield guard_by("settings_insert", f"BEFORE INSERT ON runstate_settings {exists.format('NEW')}", refuse(_SETTINGS))
    yield guard_by("settings_update", "BEFORE UPDATE ON runstate_settings", refuse(_SETTINGS))
    yield guard_by("settings_delete", f"BEFORE DELETE ON runstate_settings {exists.format('OLD')}", refuse(_SETTINGS))
    yield guard_by("closed", f"BEFORE UPDATE ON runstate_worker WHEN {_REOPENED}", refuse(_CLOSED))
    belongs = "OLD.token = 0 OR EXISTS (SELECT 1 FROM runstate_run WHERE worker = OLD.token)"
    yield guard_by("leased", f"BEFORE DELETE ON runstate_worker WHEN {belongs}", refuse(_LEASED))


def _never_replaced(guard_by: Callable[[str, str, str], str], refuse: Callable[[str], str]) -> Iterator[str]:
    """Yield what stops OR REPLACE, with which SQLite deletes what is in the way past every trigger on deletion."""
    in_the_way = (
        "EXISTS (SELECT 1 FROM runstate_run WHERE id = NEW.id OR seq = NEW.seq)"
        " OR (NEW.idempotency_key IS NOT NULL"
        " AND EXISTS (SELECT 1 FROM runstate_run WHERE idempotency_key = NEW.idempotency_key))"
        f" OR (NEW.exclusive IS NOT NULL AND {_busy('NEW')})"
    )
    # What a statement does about conflicts, its triggers' statements do too, whatever they say themselves. So this one
    # does nothing and lets the unique indexes decide, unless somebody replaces.
    probe = "BEGIN INSERT OR IGNORE INTO runstate_worker VALUES (0, 'nobody', 0, 0, 1); END"
    yield guard_by("guard_replace", f"BEFORE INSERT ON runstate_run WHEN {in_the_way}", probe)
    yield guard_by("replaced", "AFTER INSERT ON runstate_worker WHEN NEW.token = 0", refuse(_REPLACED))
    yield guard_by(
        "guard_ready",
        "BEFORE UPDATE OF ready_at ON runstate_run WHEN OLD.ready_at IS NULL AND NEW.ready_at IS NOT NULL"
        f" AND NEW.exclusive = 'queue' AND {_busy('NEW')}",
        refuse(_BUSY),
    )


_EMPTIED: Final = "runs are pruned when they have ended, and nothing is emptied"
_REOPENED: Final = "NEW.token <> OLD.token OR NEW.closed < OLD.closed"


_FUNCTIONS: Final = {
    # A check_violation, so that programs need not read the sentence; the run and the move are in it for people.
    "refuse_run": """\
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
        DETAIL = CASE TG_OP
            WHEN 'INSERT' THEN format('run %s', NEW.id)
            WHEN 'DELETE' THEN format('run %s is %s', OLD.id, OLD.status)
            ELSE format('run %s: %s from %s to %s', OLD.id, coalesce(NEW.event, 'nothing'), OLD.status, NEW.status)
        END;""",
    "refuse": """\
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;""",
    "born": f"""\
    INSERT INTO @schema.runstate_history {_FIELDS}
        SELECT seq, version, event, source, status, at, actor, detail FROM born;
    RETURN NULL;""",
    "moved": f"""\
    INSERT INTO @schema.runstate_history {_FIELDS} VALUES ({_NEW_ENTRY});
    RETURN NULL;""",
    "ended": f"""\
    PERFORM pg_advisory_xact_lock(hashtextextended('runstate ' || NEW.thread_id, 0));
    {_promote("NEW", "@schema.runstate_run")};
    RETURN NULL;""",
    "taken": f"""\
    IF (SELECT closed FROM @schema.runstate_worker WHERE token = OLD.worker) = 0 THEN
        RAISE EXCEPTION 'runstate: {_TAKEN}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;""",
    "deleted": """\
    DELETE FROM @schema.runstate_history WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_notes WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_settings WHERE id IN (SELECT id FROM gone);
    RETURN NULL;""",
    "settings": f"""\
    IF EXISTS (SELECT 1 FROM @schema.runstate_run WHERE id = CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END) THEN
        RAISE EXCEPTION 'runstate: {_SETTINGS}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN coalesce(NEW, OLD);""",
    "leased": f"""\
    IF OLD.token = 0 OR EXISTS (SELECT 1 FROM @schema.runstate_run WHERE worker = OLD.token) THEN
        RAISE EXCEPTION 'runstate: {_LEASED}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN OLD;""",
}


def _function(name: str, body: str) -> str:
    """Return the statement that makes a trigger function.

    The tables are named with their schema, written into the function when it is made: a name alone is looked up where
    the caller's session looks, first of all among its temporary tables. Operators are looked up there as well, but
    `moved` has none, and is called for every entry: a search path of its own would cost it more than the insert does.
    """
    path = "" if name == "moved" else " SET search_path = pg_catalog, pg_temp"
    head = f"CREATE FUNCTION @schema.runstate_{name}() RETURNS trigger LANGUAGE plpgsql{path} AS"
    made = f"{head} $$ BEGIN\n{body}\nEND $$"
    return f"""\
DO $make$ BEGIN EXECUTE replace($function$
{made}
$function$, '@schema', quote_ident(current_schema())); END $make$"""


def _postgres(words: Words) -> Iterator[str]:
    for name, body in _FUNCTIONS.items():
        yield _function(name, body)

    def guard_by(name: str, when: str, function: str, sentence: str = "") -> str:
        told = f"'{sentence}'" if sentence else ""
        return f"CREATE TRIGGER runstate_{name} {when} EXECUTE FUNCTION runstate_{function}({told})"

    for guard in _guards(words):
        when = f"BEFORE {guard.on} ON runstate_run FOR EACH ROW WHEN (NOT coalesce({guard.holds}, false))"
        yield guard_by(f"guard_{guard.name}", when, "refuse_run", guard.sentence)
    born = "AFTER INSERT ON runstate_run REFERENCING NEW TABLE AS born FOR EACH STATEMENT"
    yield guard_by("born", born, "born")
    moved = "AFTER UPDATE ON runstate_run FOR EACH ROW WHEN (NEW.version <> OLD.version)"
    yield guard_by("moved", moved, "moved")
    yield guard_by("ended", f"AFTER UPDATE OF status ON runstate_run FOR EACH ROW WHEN ({_ENDED})", "ended")
    yield guard_by(
        "taken",
        "BEFORE UPDATE OF worker ON runstate_run FOR EACH ROW WHEN (NEW.version = OLD.version AND NEW.worker <> 0"
        " AND NEW.worker <> OLD.worker)",
        "taken",
    )
    gone = "AFTER DELETE ON runstate_run REFERENCING OLD TABLE AS gone FOR EACH STATEMENT"
    yield guard_by("deleted", gone, "deleted")
    by_hand = "FOR EACH ROW WHEN (pg_trigger_depth() = 0)"
    for event, when in (("INSERT", by_hand), ("UPDATE", "FOR EACH ROW"), ("DELETE", by_hand)):
        name = f"history_{event.lower()}"
        yield guard_by(name, f"BEFORE {event} ON runstate_history {when}", "refuse", _HISTORY)
    for event in ("INSERT", "DELETE"):
        when = f"BEFORE {event} ON runstate_settings FOR EACH ROW"
        yield guard_by(f"settings_{event.lower()}", when, "settings")
    yield guard_by("settings_update", "BEFORE UPDATE ON runstate_settings FOR EACH ROW", "refuse", _SETTINGS)
    reopened = f"BEFORE UPDATE ON runstate_worker FOR EACH ROW WHEN ({_REOPENED})"
    yield guard_by("closed", reopened, "refuse", _CLOSED)
    yield guard_by("leased", "BEFORE DELETE ON runstate_worker FOR EACH ROW", "leased")
    for table in TABLES:
        when = f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        yield guard_by(f"truncate_{table.removeprefix('runstate_')}", when, "refuse", _EMPTIED)


def create_guards(words: Words) -> tuple[str, ...]:
    """Return the statements that make the database hold the law."""
    return tuple(_sqlite() if words is SQLITE else _postgres(words))


def drop_guards(words: Words) -> tuple[str, ...]:
    """Return the statements that take the guards away again, before those of a newer law are made."""
    names = [statement.split()[2] for statement in create_guards(words) if statement.startswith("CREATE TRIGGER")]
    if words is SQLITE:
        return tuple(f"DROP TRIGGER IF EXISTS {name}" for name in names)
    return tuple(f"DROP FUNCTION IF EXISTS runstate_{name}() CASCADE" for name in _FUNCTIONS)
