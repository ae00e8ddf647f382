-- Triggers that guard the events of handlers
-- compatible_from: 0
CREATE TRIGGER runstate_event_insert BEFORE INSERT ON runstate_event
    WHEN NOT EXISTS (SELECT 1 FROM runstate_event WHERE run = NEW.run AND number = NEW.number) AND (
    NEW.number <> coalesce(
        (SELECT number + count FROM runstate_event WHERE run = NEW.run ORDER BY number DESC LIMIT 1), 1)
    OR NOT EXISTS (
    SELECT 1 FROM runstate_run AS r JOIN runstate_worker_session AS w ON w.token = r.worker
    WHERE r.seq = NEW.run AND r.status IN ('in_progress', 'cancelling') AND w.closed = 0 AND r.attempt = NEW.attempt
        AND NEW.version BETWEEN r.version - 1 AND r.version
))
BEGIN SELECT raise(ABORT, 'runstate: events are added one after the other, by the worker that has the run'); END;
---
-- OR REPLACE reaches the statement of a trigger, and replaces the session 0, which is refused. ON CONFLICT does not.
CREATE TRIGGER runstate_event_replace BEFORE INSERT ON runstate_event
    WHEN EXISTS (SELECT 1 FROM runstate_event WHERE run = NEW.run AND number = NEW.number)
BEGIN INSERT OR IGNORE INTO runstate_worker_session VALUES (0, 'released', 0, 0, 1); END;
---
CREATE TRIGGER runstate_event_update BEFORE UPDATE ON runstate_event
BEGIN SELECT raise(ABORT, 'runstate: events are added one after the other, by the worker that has the run'); END;
---
CREATE TRIGGER runstate_event_delete BEFORE DELETE ON runstate_event WHEN EXISTS (
    SELECT 1 FROM runstate_run WHERE seq = OLD.run
        AND status NOT IN ('cancelled', 'failed', 'completed', 'incomplete', 'expired')
)
BEGIN SELECT raise(ABORT, 'runstate: the events of a run that has not ended are kept'); END;
---
CREATE TRIGGER runstate_event_pruned AFTER DELETE ON runstate_run
BEGIN DELETE FROM runstate_event WHERE run = OLD.seq; END;
