"""PostgreSQL's trigger functions and triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runstate.store.conditions import guards
from runstate.store.entries import (
    CLOSED,
    EMPTIED,
    FIELDS,
    HISTORY,
    LEASED,
    NEW_ENDED,
    NEW_ENTRY,
    PATH,
    REOPENED,
    SETTINGS,
    TAKEN,
    promote,
)
from runstate.store.tables import POSTGRES, TABLES

__all__ = ["FUNCTIONS", "postgres_guards"]

_UPDATE: Final = tuple(guard for guard in guards(POSTGRES) if guard.on == "UPDATE")
_BORN: Final = next(guard for guard in guards(POSTGRES) if guard.on == "INSERT")
_LIVE: Final = next(guard for guard in guards(POSTGRES) if guard.on == "DELETE")
_HELD: Final = f"coalesce({' AND '.join(f'({guard.holds})' for guard in _UPDATE)}, false)"
_WHICH: Final = " ".join(f"WHEN NOT coalesce({guard.holds}, false) THEN '{guard.sentence}'" for guard in _UPDATE)

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
    IF pg_catalog.strpos(pg_catalog.current_setting('search_path'), 'pg_catalog') OPERATOR(pg_catalog.<>) 0 THEN
        RAISE EXCEPTION 'runstate: {PATH}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    IF {_HELD} THEN
        IF NEW.version <> OLD.version THEN
            INSERT INTO @schema.runstate_history {FIELDS} VALUES ({NEW_ENTRY});
            IF {NEW_ENDED} THEN
                PERFORM pg_advisory_xact_lock(hashtextextended('runstate ' || NEW.thread_id, 0));
                {promote("NEW", "@schema.runstate_run", " FOR UPDATE SKIP LOCKED")};
            END IF;
        ELSIF NEW.worker <> 0 AND NEW.worker <> OLD.worker
            AND (SELECT closed FROM @schema.runstate_worker WHERE token = OLD.worker) = 0 THEN
            RAISE EXCEPTION 'runstate: {TAKEN}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
        END IF;
        RETURN NULL;
    END IF;
    -- A check_violation, so that programs need not read the sentence; the run and the move are in it for people.
    RAISE EXCEPTION 'runstate: %', CASE
        {_WHICH}
        END USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
        DETAIL = format('run %s: %s from %s to %s', OLD.id, coalesce(NEW.event, 'nothing'), OLD.status, NEW.status);""",
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
    PostgreSQL's own unless the path names those in another place. `moved` refuses that: it is called for every entry,
    and a search path of its own would cost it more than the insert does.
    """
    path = "" if name == "moved" else " SET search_path = pg_catalog, pg_temp"
    head = f"CREATE FUNCTION @schema.runstate_{name}() RETURNS trigger LANGUAGE plpgsql{path} AS"
    made = f"{head} $$ BEGIN\n{body}\nEND $$"
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
    live = f"BEFORE DELETE ON runstate_run FOR EACH ROW WHEN (NOT {_LIVE.holds})"
    yield guard_by("guard_live", live, "live", _LIVE.sentence)
    gone = "AFTER DELETE ON runstate_run REFERENCING OLD TABLE AS gone FOR EACH STATEMENT"
    yield guard_by("deleted", gone, "deleted")
    # Of an INSERT it would cost every entry a call to see more than whether it comes from a trigger, whosever that is.
    for event, when in (("INSERT", " WHEN (pg_trigger_depth() = 0)"), ("UPDATE", "")):
        name = f"history_{event.lower()}"
        yield guard_by(name, f"BEFORE {event} ON runstate_history FOR EACH ROW{when}", "refuse", HISTORY)
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
