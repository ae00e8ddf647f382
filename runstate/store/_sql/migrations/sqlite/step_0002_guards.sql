-- Triggers that guard the steps of handlers
-- compatible_from: 0
CREATE TRIGGER runstate_step_insert BEFORE INSERT ON runstate_step WHEN NOT EXISTS (
    SELECT 1 FROM runstate_run AS r JOIN runstate_worker_session AS w ON w.token = r.worker
    WHERE r.seq = NEW.run AND r.status IN ('in_progress', 'cancelling') AND w.closed = 0 AND r.attempt = NEW.attempt
        AND NEW.version BETWEEN r.version - 1 AND r.version
)
BEGIN SELECT raise(ABORT, 'runstate: a step is kept once, by the worker that has the run'); END;
---
-- OR REPLACE reaches the statement of a trigger, and replaces the session 0, which is refused. An upsert does not.
CREATE TRIGGER runstate_step_replace BEFORE INSERT ON runstate_step
    WHEN EXISTS (SELECT 1 FROM runstate_step WHERE run = NEW.run AND name = NEW.name AND key = NEW.key)
BEGIN INSERT OR IGNORE INTO runstate_worker_session VALUES (0, 'released', 0, 0, 1); END;
---
CREATE TRIGGER runstate_step_update BEFORE UPDATE ON runstate_step WHEN OLD.ended_at_us IS NOT NULL
    OR NEW.ended_at_us IS NULL OR NEW.run <> OLD.run OR NEW.name <> OLD.name OR NEW.key <> OLD.key
    OR NEW.number <> OLD.number OR NEW.began_at_us <> OLD.began_at_us OR NOT EXISTS (
    SELECT 1 FROM runstate_run AS r JOIN runstate_worker_session AS w ON w.token = r.worker
    WHERE r.seq = NEW.run AND r.status IN ('in_progress', 'cancelling') AND w.closed = 0 AND r.attempt = NEW.attempt
        AND NEW.version BETWEEN r.version - 1 AND r.version
)
BEGIN SELECT raise(ABORT, 'runstate: a step is kept once, by the worker that has the run'); END;
---
CREATE TRIGGER runstate_step_delete BEFORE DELETE ON runstate_step
    WHEN EXISTS (SELECT 1 FROM runstate_run WHERE seq = OLD.run)
BEGIN SELECT raise(ABORT, 'runstate: the steps of a run are kept as long as the run'); END;
---
CREATE TRIGGER runstate_step_pruned AFTER DELETE ON runstate_run
BEGIN DELETE FROM runstate_step WHERE run = OLD.seq; END;
