-- Triggers that guard the events of handlers
-- compatible_from: 0
DO $make$ BEGIN EXECUTE replace($function$
CREATE FUNCTION @schema.runstate_event_added() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A row that is there already is not added again: the key refuses it, or ON CONFLICT leaves it.
    IF TG_OP = 'INSERT' AND EXISTS (
        SELECT 1 FROM @schema.runstate_event AS e WHERE e.run = NEW.run AND e.number = NEW.number)
    THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' OR NEW.number <> coalesce((
            SELECT e.number + e.count FROM @schema.runstate_event AS e
            WHERE e.run = NEW.run ORDER BY e.number DESC LIMIT 1), 1)
        OR NOT EXISTS (
            SELECT 1 FROM @schema.runstate_run AS r JOIN @schema.runstate_worker_session AS w ON w.token = r.worker
            WHERE r.seq = NEW.run AND r.status IN ('in_progress', 'cancelling') AND w.closed = 0
                AND r.attempt = NEW.attempt AND NEW.version BETWEEN r.version - 1 AND r.version)
    THEN
        RAISE EXCEPTION 'runstate: events are added one after the other, by the worker that has the run'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$
$function$, '@schema', quote_ident(current_schema())); END $make$;
---
DO $make$ BEGIN EXECUTE replace($function$
CREATE FUNCTION @schema.runstate_event_erased() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM erased JOIN @schema.runstate_run AS r ON r.seq = erased.run
        WHERE r.status NOT IN ('cancelled', 'failed', 'completed', 'incomplete', 'expired'))
    THEN
        RAISE EXCEPTION 'runstate: the events of a run that has not ended are kept'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())); END $make$;
---
DO $make$ BEGIN EXECUTE replace($function$
CREATE FUNCTION @schema.runstate_event_pruned() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @schema.runstate_event WHERE run IN (SELECT seq FROM gone);
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())); END $make$;
---
CREATE TRIGGER runstate_event_added BEFORE INSERT OR UPDATE ON runstate_event FOR EACH ROW
    EXECUTE FUNCTION runstate_event_added();
---
CREATE TRIGGER runstate_event_erased AFTER DELETE ON runstate_event REFERENCING OLD TABLE AS erased FOR EACH STATEMENT
    EXECUTE FUNCTION runstate_event_erased();
---
CREATE TRIGGER runstate_event_pruned AFTER DELETE ON runstate_run REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION runstate_event_pruned();
---
CREATE TRIGGER runstate_truncate_event BEFORE TRUNCATE ON runstate_event FOR EACH STATEMENT
    EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
