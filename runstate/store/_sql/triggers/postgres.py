"""PostgreSQL's trigger functions and triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent
from runstate.store._sql.columns import FIXED_COLUMNS
from runstate.store._sql.dialect import POSTGRES, thread_lock_sql
from runstate.store._sql.literals import sql_list
from runstate.store._sql.schema import TABLES
from runstate.store._sql.small_tables import COMPLETED, SUM_UP, problem_rows, small_rows, thread_rows
from runstate.store._sql.triggers.conditions import COMMONEST_FIRST, GUARDS_OF_CLAIMS, guards, not_ahead, row_condition
from runstate.store._sql.triggers.entries import (
    ATTEMPTS,
    CLOSED,
    EMPTIED,
    FIELDS,
    HISTORY,
    LEASED,
    MIGRATIONS,
    NEW_ENTRY,
    PRIVATE,
    REOPENED,
    SETTINGS,
    TAKEN,
)

__all__ = ["FUNCTIONS", "postgres_guards"]

_UPDATE: Final = {guard.name: guard for guard in guards(POSTGRES) if guard.on == "UPDATE"}
_IDENTITY: Final = _UPDATE.pop("identity")
_BORN: Final = next(guard for guard in guards(POSTGRES) if guard.on == "INSERT")
_LIVE: Final = next(guard for guard in guards(POSTGRES) if guard.on == "DELETE")


def _rows(condition: str, old: str = "o", new: str = "n") -> str:
    """Return a condition on OLD and NEW as one on rows by other names, as those of the transition tables."""
    return condition.replace("OLD.", f"{old}.").replace("NEW.", f"{new}.")


_JOINED: Final = "was AS o JOIN moved AS n USING (seq)"
_CHECKS: Final = {event: _rows(row_condition(POSTGRES, event)) for event in COMMONEST_FIRST}
_TOUCH: Final = " AND ".join(f"({_rows(_UPDATE[name].holds)})" for name in GUARDS_OF_CLAIMS)
# A statement moves runs by one event or two. Each event has a query of its own, so that a session prepares only the
# conditions of the events that it meets.
_BY_EVENT: Final = "\n        ".join(
    f"WHEN '{event}' THEN SELECT legal + count(*) INTO legal FROM {_JOINED}"
    f" WHERE n.event = '{event}' AND n.version = o.version + 1 AND {condition};"
    for event, condition in _CHECKS.items()
)
# Of one run the conditions are compared without a query, which costs a third.
_OF_ONE: Final = "\n            ".join(
    f"WHEN '{event}' THEN is_legal := {_rows(row_condition(POSTGRES, event), 'before', 'after')};"
    for event in COMMONEST_FIRST
)
_WHICH: Final = " ".join(
    f"WHEN NOT coalesce({_rows(guard.holds)}, false) THEN '{guard.sentence}'" for guard in _UPDATE.values()
)
_IS_LEGAL: Final = "CASE n.version - o.version WHEN 1 THEN CASE n.event {} ELSE false END WHEN 0 THEN {} END".format(
    " ".join(f"WHEN '{event}' THEN {condition}" for event, condition in _CHECKS.items()), _TOUCH
)
_ENDS: Final = sql_list(
    [event for event in RUN_LIFECYCLE.events if RUN_LIFECYCLE.is_terminal(RUN_LIFECYCLE.target_of(event))]
)
_TARGETS: Final = " ".join(f"WHEN '{event}' THEN '{RUN_LIFECYCLE.target_of(event)}'" for event in RUN_LIFECYCLE.events)
_ENTRIES: Final = f"""INSERT INTO @schema.runstate_history {FIELDS}
            SELECT {_rows(NEW_ENTRY)} FROM"""


_ENDED_NOW: Final = f"(SELECT n.* FROM {_JOINED} WHERE n.version <> o.version) AS ended"
# About one transaction in 256 sums up, by a hash: the numbers of those that end runs may all be odd. In another
# isolation level it could fail for what others summed up.
_SUM_UP: Final = """\
IF hashint8(pg_current_xact_id()::text::bigint) & 255 = 0 THEN PERFORM @schema.runstate_sum_up(); END IF;"""


def _placed(rows: str) -> str:
    """Return the statements that insert the small rows of the live runs of a transition table."""
    return "".join(f"{statement};\n        " for statement in small_rows(rows, "@schema."))


FUNCTIONS: Final = {
    "live": """\
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
        DETAIL = format('run %s is %s', OLD.id, OLD.status);""",
    "refuse": """\
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;""",
    "born": f"""\
    SELECT bool_and(coalesce({_rows(_BORN.holds, new="born")}, false)), bool_or(claimable_at_us IS NULL),
        bool_or(thread_policy IS NOT NULL) INTO holds, waits, alone FROM born;
    IF NOT holds THEN
        RAISE EXCEPTION 'runstate: {_BORN.sentence}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    INSERT INTO @schema.runstate_history {FIELDS}
        SELECT {_rows(NEW_ENTRY, new="born")} FROM born;
    IF waits THEN
        {_placed("born")}
    ELSE
        INSERT INTO @schema.runstate_claimable (run, queue, priority, expires_at, attempt)
            SELECT seq, queue, priority, expires_at, attempt FROM born;
    END IF;
    IF alone THEN
        {thread_rows("born", "@schema.")};
    END IF;
    RETURN NULL;""",
    "moved": f"""\
    SELECT count(*) INTO total FROM moved;
    IF total = 0 THEN
        RETURN NULL;
    END IF;
    IF total = 1 THEN
        SELECT * INTO before FROM was;
        SELECT * INTO after FROM moved;
        IF after.seq = before.seq AND after.version = before.version + 1 THEN
            CASE after.event
            {_OF_ONE}
            ELSE is_legal := false;
            END CASE;
            IF is_legal THEN
                INSERT INTO @schema.runstate_history {FIELDS}
                    VALUES ({_rows(NEW_ENTRY, new="after")});
                IF before.worker IS NOT NULL THEN
                    IF after.worker IS NULL THEN
                        DELETE FROM @schema.runstate_held WHERE run = after.seq;
                    END IF;
                ELSIF before.status = '{INITIAL_STATUS}' AND before.claimable_at_us IS NOT NULL THEN
                    DELETE FROM @schema.runstate_claimable WHERE run = after.seq;
                ELSE
                    DELETE FROM @schema.runstate_idle WHERE run = after.seq;
                END IF;
                IF after.worker IS NOT NULL THEN
                    IF before.worker IS NULL THEN
                        INSERT INTO @schema.runstate_held
                            VALUES (after.seq, after.worker, after.expires_at, after.attempt, after.status);
                    ELSE
                        UPDATE @schema.runstate_held SET status = after.status WHERE run = after.seq;
                    END IF;
                ELSIF after.status = '{INITIAL_STATUS}' AND after.claimable_at_us IS NOT NULL THEN
                    INSERT INTO @schema.runstate_claimable
                        VALUES (after.seq, after.queue, after.priority, after.expires_at, after.attempt);
                ELSIF after.expires_at IS NOT NULL THEN  -- it is live
                    INSERT INTO @schema.runstate_idle
                        VALUES (after.seq, after.queue, after.priority, false, NULL, after.not_before_us,
                            after.expires_at, after.status, after.attempt, NULL);
                ELSE
                    INSERT INTO @schema.runstate_count VALUES (after.status, 1);
                    {_SUM_UP}
                    IF after.status <> '{COMPLETED}' OR after.attempt > 1 THEN
                        INSERT INTO @schema.runstate_problem
                            VALUES (after.seq, after.status, after.changed_at_us, after.attempt);
                    END IF;
                    IF after.thread_policy IS NOT NULL THEN
                        PERFORM @schema.runstate_promote(after.thread_id, after.seq, after.changed_at_us);
                    END IF;
                END IF;
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    FOR kind IN SELECT event, count(*) AS many, bool_and(worker IS NOT NULL) AS owned,
        bool_or(thread_policy IS NOT NULL) AS alone FROM moved GROUP BY event
    LOOP
        alone := alone OR kind.alone;
        CASE kind.event
        {_BY_EVENT}
        ELSE is_simple := false;
        END CASE;
        IF kind.event = '{RunEvent.START}' THEN
            starts := true;
            is_simple := is_simple AND kind.owned;
        ELSIF kind.event IN ({_ENDS}) THEN
            ends := ends + kind.many;
            INSERT INTO @schema.runstate_count VALUES (CASE kind.event {_TARGETS} END, kind.many);
            problem := problem OR kind.event <> '{RunEvent.COMPLETE}';
        ELSE
            is_simple := false;
        END IF;
    END LOOP;
    IF legal = total THEN
        {_ENTRIES} moved AS n;
    ELSE
        is_simple := false;
        SELECT legal + count(*) INTO legal FROM {_JOINED} WHERE n.version = o.version AND {_TOUCH};
        IF legal <> total THEN
            -- A check_violation, so that programs need not read the sentence; the run is named for people.
            SELECT CASE {_WHICH} ELSE '{_UPDATE["transition"].sentence}' END AS sentence, o.id, o.status AS source,
                n.event, n.status AS target
                INTO kind FROM {_JOINED} WHERE NOT coalesce({_IS_LEGAL}, false) LIMIT 1;
            RAISE EXCEPTION 'runstate: %', coalesce(kind.sentence, '{_IDENTITY.sentence}')
                USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME, DETAIL = format(
                    'run %s: %s from %s to %s', kind.id, coalesce(kind.event, 'nothing'), kind.source, kind.target);
        END IF;
        SELECT o.id, w.name INTO kind FROM {_JOINED} JOIN @schema.runstate_worker_session AS w ON w.token = o.worker
            WHERE n.version = o.version AND n.worker <> 0 AND n.worker <> o.worker AND w.closed = 0 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'runstate: {TAKEN}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
                DETAIL = format('run %s is held by %s', kind.id, kind.name);
        END IF;
        {_ENTRIES} {_JOINED} WHERE n.version <> o.version;
        INSERT INTO @schema.runstate_count SELECT n.status, -count(*) FROM {_JOINED}
            WHERE n.version = o.version AND n.event IN ({_ENDS}) GROUP BY n.status;
    END IF;
    IF ends > 0 THEN
        {_SUM_UP}
    END IF;
    -- The small tables. Most statements start runs for a worker, or end runs that a worker held.
    SELECT count(worker), max(attempt) INTO owned, most FROM was;
    is_simple := is_simple AND ends = owned;
    IF is_simple THEN
        IF ends > 0 THEN
            DELETE FROM @schema.runstate_held WHERE run = ANY (ARRAY(SELECT seq FROM was WHERE worker IS NOT NULL));
        END IF;
        IF starts THEN
            DELETE FROM @schema.runstate_claimable WHERE run = ANY (
                ARRAY(SELECT seq FROM moved WHERE event = '{RunEvent.START}'));
            INSERT INTO @schema.runstate_held (run, worker, expires_at, attempt, status)
                SELECT seq, worker, expires_at, attempt, status FROM moved WHERE event = '{RunEvent.START}';
        END IF;
    ELSE
        runs := ARRAY(SELECT seq FROM moved);
        DELETE FROM @schema.runstate_claimable WHERE run = ANY (runs);
        DELETE FROM @schema.runstate_held WHERE run = ANY (runs);
        DELETE FROM @schema.runstate_idle WHERE run = ANY (runs);
        {_placed("moved")}
    END IF;
    IF problem OR (ends > 0 AND most > 1) THEN
        {problem_rows(_ENDED_NOW, "@schema.")};
    END IF;
    IF alone THEN
        INSERT INTO @schema.runstate_thread (thread_id, run) SELECT n.thread_id, n.seq FROM {_JOINED}
            WHERE o.claimable_at_us IS NULL AND n.claimable_at_us IS NOT NULL AND n.thread_policy = 'queue';
        FOR kind IN SELECT thread_id, seq, changed_at_us FROM moved
            WHERE thread_policy IS NOT NULL AND event IN ({_ENDS}) ORDER BY thread_id
        LOOP
            PERFORM @schema.runstate_promote(kind.thread_id, kind.seq, kind.changed_at_us);
        END LOOP;
    END IF;
    RETURN NULL;""",
    "deleted": """\
    DELETE FROM @schema.runstate_history WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_checkpoint WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_attempt WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_run_config WHERE id IN (SELECT id FROM gone);
    DELETE FROM @schema.runstate_problem WHERE run IN (SELECT seq FROM gone);
    INSERT INTO @schema.runstate_count SELECT status, -count(*) FROM gone GROUP BY status;
    RETURN NULL;""",
    "kept": """\
    IF EXISTS (SELECT 1 FROM erased JOIN @schema.runstate_run ON seq = run) THEN
        RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;""",
    "entered": f"""\
    IF NOT EXISTS (SELECT 1 FROM @schema.runstate_run AS n WHERE n.seq = NEW.run AND n.version = NEW.version
        AND n.status = NEW.target AND n.event IS NOT DISTINCT FROM NEW.event
        AND n.source IS NOT DISTINCT FROM NEW.source AND n.changed_at_us = NEW.at_us
        AND n.actor IS NOT DISTINCT FROM NEW.actor AND n.detail::text IS NOT DISTINCT FROM NEW.detail::text) THEN
        RAISE EXCEPTION 'runstate: {HISTORY}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;""",
    "attempted": f"""\
    IF NOT EXISTS (SELECT 1 FROM @schema.runstate_run WHERE seq = NEW.run AND NEW.attempt BETWEEN 1 AND attempt) THEN
        RAISE EXCEPTION 'runstate: {ATTEMPTS}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;""",
    "config": f"""\
    IF EXISTS (SELECT 1 FROM @schema.runstate_run WHERE id = CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END) THEN
        RAISE EXCEPTION 'runstate: {SETTINGS}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN coalesce(NEW, OLD);""",
    "leased": f"""\
    IF OLD.token = 0 OR EXISTS (SELECT 1 FROM @schema.runstate_held WHERE worker = OLD.token) THEN
        RAISE EXCEPTION 'runstate: {LEASED}' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN OLD;""",
}


_DECLARED: Final = {
    "born": "holds boolean; waits boolean; alone boolean;",
    "moved": "before record; after record; is_legal boolean; kind record; total bigint; legal bigint := 0;"
    " ends bigint := 0; starts boolean := false; alone boolean := false; is_simple boolean := true;"
    " problem boolean := false; owned bigint; most bigint; runs bigint[];",
}
_SETTINGS: Final = {
    # The rows of a transition table have no index, and a plan is made once for few rows and for many.
    "moved": " SET enable_nestloop = off SET enable_hashjoin = on",
}
# What lets the next run of a thread be claimed, as the one before it has ended. By a clock that went back that may have
# been before the next was born. A run that another transaction is ending is passed by: that one waits for the thread.
_PROMOTE: Final = f"""\
CREATE FUNCTION @schema.runstate_promote(thread text, ended bigint, ended_at bigint) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET enable_nestloop = on AS $$ BEGIN
    PERFORM {thread_lock_sql("thread")};
    DELETE FROM @schema.runstate_thread WHERE thread_id = thread AND run = ended;
    UPDATE @schema.runstate_run SET claimable_at_us = greatest(changed_at_us, ended_at) WHERE seq = (
        SELECT q.seq FROM @schema.runstate_idle AS i JOIN @schema.runstate_run AS q ON q.seq = i.run
        WHERE i.thread_id = thread AND (i.not_before_us IS NULL OR i.not_before_us <= ended_at)
            AND q.claimable_at_us IS NULL AND q.status = '{INITIAL_STATUS}'
        ORDER BY i.run LIMIT 1 FOR UPDATE OF q SKIP LOCKED)
        AND NOT EXISTS (SELECT 1 FROM @schema.runstate_thread WHERE thread_id = thread)
        AND {not_ahead(POSTGRES, "greatest(changed_at_us, ended_at)", "expires_at")};
END $$"""


_SUMMING: Final = f"""\
CREATE FUNCTION @schema.runstate_sum_up() RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    IF current_setting('transaction_isolation') = 'read committed' THEN
        {SUM_UP};
    END IF;
END $$"""


# Any trigger may write an entry, also one of a client's own. So the entries of a role that does not own the tables are
# compared with their runs: what is left to forge is a copy of the entry that is there. The owner could drop the
# triggers, and pays nothing: its name is written into the condition.
_ENTERED: Final = """\
CREATE TRIGGER runstate_history_entry BEFORE INSERT ON @schema.runstate_history FOR EACH ROW
    WHEN (current_user <> @owner) EXECUTE FUNCTION @schema.runstate_entered()"""


def _made(function: str) -> str:
    """Return the statement that makes a function whose tables are named with their schema.

    The schema is written into the function when it is made: a name alone is looked up where the caller's session looks,
    first of all among its temporary tables. Operators are looked up there as well; so the functions have a path of
    their own.
    """
    return f"""\
DO $make$ BEGIN EXECUTE replace(replace($function$
{function}
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$"""


def _function(name: str, body: str) -> str:
    head = (
        f"CREATE FUNCTION @schema.runstate_{name}() RETURNS trigger LANGUAGE plpgsql"
        f" SET search_path = pg_catalog, pg_temp{_SETTINGS.get(name, '')} AS"
    )
    declared = f"DECLARE {_DECLARED[name]} " if name in _DECLARED else ""
    return _made(f"{head} $$ {declared}BEGIN\n{body}\nEND $$")


def postgres_guards() -> Iterator[str]:
    """Yield the functions and triggers that make PostgreSQL hold the law."""
    yield _made(_PROMOTE)
    yield _made(_SUMMING)
    for name, body in FUNCTIONS.items():
        yield _function(name, body)
        # Or a client could give a table of its own a trigger that executes it.
        yield _made(f"REVOKE EXECUTE ON FUNCTION @schema.runstate_{name}() FROM PUBLIC")

    def guard_by(name: str, when: str, function: str, sentence: str = "") -> str:
        told = f"'{sentence}'" if sentence else ""
        return f"CREATE TRIGGER runstate_{name} {when} EXECUTE FUNCTION runstate_{function}({told})"

    born = "AFTER INSERT ON runstate_run REFERENCING NEW TABLE AS born FOR EACH STATEMENT"
    yield guard_by("born", born, "born")
    moved = "AFTER UPDATE ON runstate_run REFERENCING OLD TABLE AS was NEW TABLE AS moved FOR EACH STATEMENT"
    yield guard_by("moved", moved, "moved")
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
    yield _made(_ENTERED)
    yield guard_by("history_update", "BEFORE UPDATE ON runstate_history FOR EACH ROW", "refuse", HISTORY)
    erased = "AFTER DELETE ON runstate_history REFERENCING OLD TABLE AS erased FOR EACH STATEMENT"
    yield guard_by("history_delete", erased, "kept", HISTORY)
    yield guard_by("attempt_insert", "BEFORE INSERT ON runstate_attempt FOR EACH ROW", "attempted")
    yield guard_by("attempt_update", "BEFORE UPDATE ON runstate_attempt FOR EACH ROW", "refuse", ATTEMPTS)
    erased = "AFTER DELETE ON runstate_attempt REFERENCING OLD TABLE AS erased FOR EACH STATEMENT"
    yield guard_by("attempt_delete", erased, "kept", ATTEMPTS)
    for event in ("INSERT", "DELETE"):
        when = f"BEFORE {event} ON runstate_run_config FOR EACH ROW"
        yield guard_by(f"config_{event.lower()}", when, "config")
    yield guard_by("config_update", "BEFORE UPDATE ON runstate_run_config FOR EACH ROW", "refuse", SETTINGS)
    reopened = f"BEFORE UPDATE ON runstate_worker_session FOR EACH ROW WHEN ({REOPENED})"
    yield guard_by("closed", reopened, "refuse", CLOSED)
    yield guard_by("leased", "BEFORE DELETE ON runstate_worker_session FOR EACH ROW", "leased")
    for table in POSTGRES.lookups.tables:
        when = f"BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)"
        yield guard_by(f"private_{table.removeprefix('runstate_')}", when, "refuse", PRIVATE)
    # A migration drops the triggers first, which only the owner of the tables can.
    written = "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON runstate_migration FOR EACH STATEMENT"
    yield guard_by("migration_write", written, "refuse", MIGRATIONS)
    for table in (*TABLES, *POSTGRES.lookups.tables):
        when = f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        yield guard_by(f"truncate_{table.removeprefix('runstate_')}", when, "refuse", EMPTIED)
