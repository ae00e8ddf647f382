"""PostgreSQL's trigger functions and triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runstate.store._sql.columns import FIXED_COLUMNS
from runstate.store._sql.dialect import POSTGRES, thread_lock_sql
from runstate.store._sql.schema import TABLES
from runstate.store._sql.triggers.conditions import COMMONEST_FIRST, guards, row_condition
from runstate.store._sql.triggers.entries import (
    CLOSED,
    EMPTIED,
    FIELDS,
    HISTORY,
    LEASED,
    NEW_ENDED,
    PATH,
    REOPENED,
    SETTINGS,
    TAKEN,
    promote,
)

__all__ = ["FUNCTIONS", "postgres_guards"]

_UPDATE: Final = {guard.name: guard for guard in guards(POSTGRES) if guard.on == "UPDATE"}
_IDENTITY: Final = _UPDATE.pop("identity")
_BORN: Final = next(guard for guard in guards(POSTGRES) if guard.on == "INSERT")
_LIVE: Final = next(guard for guard in guards(POSTGRES) if guard.on == "DELETE")
_WHICH: Final = " ".join(
    f"WHEN NOT coalesce({guard.holds}, false) THEN '{guard.sentence}'" for guard in _UPDATE.values()
)
_STILL: Final = " AND ".join(f"({_UPDATE[name].holds})" for name in ("transition", "claims"))
# A CASE of plpgsql, not of SQL: a transaction makes ready only the expressions it comes by.
_BY_EVENT: Final = "\n        ".join(
    f"WHEN '{event}' THEN held := {row_condition(POSTGRES, event)};" for event in COMMONEST_FIRST
)
# Whether the statement under way touched a run without moving it. One name a depth: a trigger's own updates nest.
_TOUCHED: Final = "'runstate.touched' || pg_trigger_depth()"

# Before anything is compared: by another path an operator may be anybody's, and lead back from where it was found.
_RIGHT_PATH: Final = f"""\
IF pg_catalog.strpos(pg_catalog.lower(pg_catalog.current_setting('search_path')), 'pg_catalog')
        OPERATOR(pg_catalog.<>) 0 THEN
        RAISE EXCEPTION 'runstate: {PATH}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;"""

FUNCTIONS: Final = {
    "live": """\
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
        DETAIL = format('run %s is %s', OLD.id, OLD.status);""",
    "refuse": """\
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;""",
    "born": f"""\
    IF EXISTS (SELECT 1 FROM born WHERE NOT coalesce({_BORN.holds.replace("NEW.", "born.")}, false)) THEN
        RAISE EXCEPTION 'runstate: {_BORN.sentence}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    INSERT INTO @schema.runstate_history {FIELDS}
        SELECT seq, version, event, source, status, at, actor, detail FROM born;
    RETURN NULL;""",
    "moved": f"""\
    {_RIGHT_PATH}
    IF NEW.version = OLD.version + 1 THEN
        CASE NEW.event
        {_BY_EVENT}
        ELSE held := false;
        END CASE;
        IF held THEN
            IF {NEW_ENDED} THEN
                PERFORM {thread_lock_sql("NEW.thread_id")};
                {promote("NEW", "@schema.runstate_run", " FOR UPDATE SKIP LOCKED")};
            END IF;
            RETURN NULL;
        END IF;
    ELSIF NEW.version = OLD.version AND {_STILL} THEN
        IF NEW.worker <> 0 AND NEW.worker <> OLD.worker
            AND (SELECT closed FROM @schema.runstate_worker WHERE token = OLD.worker) = 0 THEN
            RAISE EXCEPTION 'runstate: {TAKEN}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
        END IF;
        PERFORM set_config({_TOUCHED}, 'on', true);
        RETURN NULL;
    END IF;
    -- A check_violation, so that programs need not read the sentence; the run and the move are in it for people.
    RAISE EXCEPTION 'runstate: %', CASE
        {_WHICH}
        ELSE '{_UPDATE["transition"].sentence}' END USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
        DETAIL = format('run %s: %s from %s to %s', OLD.id, coalesce(NEW.event, 'nothing'), OLD.status, NEW.status);""",
    "entered": f"""\
    {_RIGHT_PATH}
    IF current_setting({_TOUCHED}, true) = 'on' THEN
        PERFORM set_config({_TOUCHED}, '', true);
        INSERT INTO @schema.runstate_history {FIELDS}
            SELECT seq, version, event, source, status, at, actor, detail FROM moved WHERE NOT EXISTS (
                SELECT 1 FROM @schema.runstate_history AS h WHERE h.run = moved.seq AND h.version = moved.version);
    ELSE
        INSERT INTO @schema.runstate_history {FIELDS}
            SELECT seq, version, event, source, status, at, actor, detail FROM moved;
    END IF;
    RETURN NULL;""",
    "deleted": """\
    DELETE FROM @schema.runstate_history WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_notes WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_settings WHERE id IN (SELECT id FROM gone);
    RETURN NULL;""",
    "kept": f"""\
    IF EXISTS (SELECT 1 FROM erased JOIN @schema.runstate_run ON seq = run) THEN
        RAISE EXCEPTION 'runstate: {HISTORY}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;""",
    "settings": f"""\
    IF EXISTS (SELECT 1 FROM @schema.runstate_run WHERE id = CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END) THEN
        RAISE EXCEPTION 'runstate: {SETTINGS}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN coalesce(NEW, OLD);""",
    "leased": f"""\
    IF OLD.token = 0 OR EXISTS (SELECT 1 FROM @schema.runstate_run WHERE worker = OLD.token) THEN
        RAISE EXCEPTION 'runstate: {LEASED}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN OLD;""",
}


def _function(name: str, body: str) -> str:
    """Return the statement that makes a trigger function.

    The tables are named with their schema, written into the function when it is made: a name alone is looked up where
    the caller's session looks, first of all among its temporary tables. Operators are looked up there as well, after
    PostgreSQL's own unless the path names those in another place. `moved` and `entered` refuse that: they are called at
    every move, and a search path of their own would cost more than what they do.
    """
    path = "" if name in ("moved", "entered") else " SET search_path = pg_catalog, pg_temp"
    declared = "DECLARE held boolean; " if name == "moved" else ""
    head = f"CREATE FUNCTION @schema.runstate_{name}() RETURNS trigger LANGUAGE plpgsql{path} AS"
    made = f"{head} $$ {declared}BEGIN\n{body}\nEND $$"
    return f"""\
DO $make$ BEGIN EXECUTE replace($function$
{made}
$function$, '@schema', quote_ident(current_schema())); END $make$"""


def postgres_guards() -> Iterator[str]:
    """Yield the functions and triggers that make PostgreSQL hold the law."""
    for name, body in FUNCTIONS.items():
        yield _function(name, body)

    def guard_by(name: str, when: str, function: str, sentence: str = "") -> str:
        told = f"'{sentence}'" if sentence else ""
        return f"CREATE TRIGGER runstate_{name} {when} EXECUTE FUNCTION runstate_{function}({told})"

    born = "AFTER INSERT ON runstate_run REFERENCING NEW TABLE AS born FOR EACH STATEMENT"
    yield guard_by("born", born, "born")
    # Not in the WHEN of triggers: PostgreSQL reads those anew at every statement, a millisecond for all of them.
    yield guard_by("moved", "AFTER UPDATE ON runstate_run FOR EACH ROW", "moved")
    # All entries of a statement are one insert.
    entered = "AFTER UPDATE ON runstate_run REFERENCING NEW TABLE AS moved FOR EACH STATEMENT"
    yield guard_by("entered", entered, "entered")
    # Not BEFORE: PostgreSQL would lock every row first, whatever is updated.
    changed = f"AFTER UPDATE OF {', '.join(FIXED_COLUMNS)} ON runstate_run FOR EACH ROW WHEN (NOT ({_IDENTITY.holds}))"
    yield guard_by("guard_identity", changed, "refuse", _IDENTITY.sentence)
    live = f"BEFORE DELETE ON runstate_run FOR EACH ROW WHEN (NOT {_LIVE.holds})"
    yield guard_by("guard_live", live, "live", _LIVE.sentence)
    gone = "AFTER DELETE ON runstate_run REFERENCING OLD TABLE AS gone FOR EACH STATEMENT"
    yield guard_by("deleted", gone, "deleted")
    # Of an INSERT it would cost every entry a call to see more than whether it comes from a trigger, whosever that is.
    written = "BEFORE INSERT ON runstate_history FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)"
    yield guard_by("history_insert", written, "refuse", HISTORY)
    yield guard_by("history_update", "BEFORE UPDATE ON runstate_history FOR EACH ROW", "refuse", HISTORY)
    erased = "AFTER DELETE ON runstate_history REFERENCING OLD TABLE AS erased FOR EACH STATEMENT"
    yield guard_by("history_delete", erased, "kept")
    for event in ("INSERT", "DELETE"):
        when = f"BEFORE {event} ON runstate_settings FOR EACH ROW"
        yield guard_by(f"settings_{event.lower()}", when, "settings")
    yield guard_by("settings_update", "BEFORE UPDATE ON runstate_settings FOR EACH ROW", "refuse", SETTINGS)
    reopened = f"BEFORE UPDATE ON runstate_worker FOR EACH ROW WHEN ({REOPENED})"
    yield guard_by("closed", reopened, "refuse", CLOSED)
    yield guard_by("leased", "BEFORE DELETE ON runstate_worker FOR EACH ROW", "leased")
    for table in TABLES:
        when = f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        yield guard_by(f"truncate_{table.removeprefix('runstate_')}", when, "refuse", EMPTIED)
