-- Triggers that guard the steps of handlers
-- compatible_from: 0
DO $make$ BEGIN EXECUTE replace($function$
CREATE FUNCTION @schema.runstate_step_kept() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (OLD.ended_at_us IS NOT NULL OR NEW.ended_at_us IS NULL OR NEW.run <> OLD.run
        OR NEW.name <> OLD.name OR NEW.key <> OLD.key OR NEW.number <> OLD.number OR NEW.began_at_us <> OLD.began_at_us)
        OR NOT EXISTS (
            SELECT 1 FROM @schema.runstate_run AS r JOIN @schema.runstate_worker_session AS w ON w.token = r.worker
            WHERE r.seq = NEW.run AND r.status IN ('in_progress', 'cancelling') AND w.closed = 0
                AND r.attempt = NEW.attempt AND NEW.version BETWEEN r.version - 1 AND r.version)
    THEN
        RAISE EXCEPTION 'runstate: a step is kept once, by the worker that has the run'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$
$function$, '@schema', quote_ident(current_schema())); END $make$;
---
DO $make$ BEGIN EXECUTE replace($function$
CREATE FUNCTION @schema.runstate_step_erased() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM erased JOIN @schema.runstate_run ON seq = run) THEN
        RAISE EXCEPTION 'runstate: the steps of a run are kept as long as the run'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())); END $make$;
---
DO $make$ BEGIN EXECUTE replace($function$
CREATE FUNCTION @schema.runstate_step_pruned() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM @schema.runstate_step WHERE run IN (SELECT seq FROM gone);
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())); END $make$;
---
CREATE TRIGGER runstate_step_kept BEFORE INSERT OR UPDATE ON runstate_step FOR EACH ROW
    EXECUTE FUNCTION runstate_step_kept();
---
CREATE TRIGGER runstate_step_erased AFTER DELETE ON runstate_step REFERENCING OLD TABLE AS erased FOR EACH STATEMENT
    EXECUTE FUNCTION runstate_step_erased();
---
CREATE TRIGGER runstate_step_pruned AFTER DELETE ON runstate_run REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION runstate_step_pruned();
---
CREATE TRIGGER runstate_truncate_step BEFORE TRUNCATE ON runstate_step FOR EACH STATEMENT
    EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
