-- Tables, indexes and views
-- compatible_from: 1
-- The steps that this database has taken.
CREATE TABLE runstate_migration (
    component TEXT NOT NULL,
    number INTEGER NOT NULL,
    description TEXT NOT NULL,
    compatible_from INTEGER NOT NULL,
    applied_at_us INTEGER NOT NULL,
    PRIMARY KEY (component, number)
) STRICT;
---
-- A run has one small row, which every transition rewrites. What is large or rare stands in other tables. The number of
-- a run that was pruned is not given again.
CREATE TABLE runstate_run (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    thread_id TEXT NOT NULL,
    assistant_id TEXT NOT NULL,
    model TEXT,
    status TEXT NOT NULL,
    version INTEGER NOT NULL,
    event TEXT,
    source TEXT,
    changed_at_us INTEGER NOT NULL,
    actor TEXT,
    detail TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    started_at INTEGER,
    cancelled_at INTEGER,
    failed_at INTEGER,
    completed_at INTEGER,
    required_action TEXT,
    last_error TEXT,
    incomplete_details TEXT,
    usage TEXT,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    not_before_us INTEGER,
    claimable_at_us INTEGER,
    thread_policy TEXT,
    idempotency_key TEXT,
    worker INTEGER,
    attempt INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    repeats TEXT
) STRICT;
---
-- The runs of a thread, as the API lists them.
CREATE INDEX runstate_run_thread ON runstate_run (thread_id, seq);
---
CREATE UNIQUE INDEX runstate_run_key ON runstate_run (idempotency_key) WHERE idempotency_key IS NOT NULL;
---
CREATE INDEX runstate_run_repeats ON runstate_run (repeats) WHERE repeats IS NOT NULL;
---
CREATE INDEX runstate_run_claim ON runstate_run (queue, priority DESC, seq)
    WHERE status = 'queued' AND claimable_at_us IS NOT NULL;
---
CREATE INDEX runstate_run_waiting ON runstate_run (not_before_us) WHERE status = 'queued' AND claimable_at_us IS NULL;
---
CREATE INDEX runstate_run_worker ON runstate_run (worker) WHERE worker IS NOT NULL;
---
-- The runs whose handlers are to be called again, by the time of the retry.
CREATE INDEX runstate_run_retry ON runstate_run (claimable_at_us)
    WHERE status = 'in_progress' AND worker IS NULL AND attempt > 0;
---
CREATE INDEX runstate_run_deadline ON runstate_run (expires_at) WHERE expires_at IS NOT NULL;
---
CREATE UNIQUE INDEX runstate_run_one_live ON runstate_run (thread_id)
    WHERE status IN ('queued', 'in_progress', 'requires_action', 'cancelling')
    AND (thread_policy = 'reject' OR (thread_policy = 'queue' AND claimable_at_us IS NOT NULL));
---
CREATE INDEX runstate_run_behind ON runstate_run (thread_id, seq)
    WHERE thread_policy = 'queue' AND status = 'queued' AND claimable_at_us IS NULL;
---
-- What lists ask for. A run that is queued, held by a worker or completed in its first attempt has no entry in those of
-- status and attempt. (SQLite would make a table of the words of an IN at each update.)
CREATE INDEX runstate_run_queue ON runstate_run (queue, seq);
---
CREATE INDEX runstate_run_created ON runstate_run (created_at);
---
CREATE INDEX runstate_run_status ON runstate_run (status, seq)
    WHERE status <> 'completed' AND status <> 'queued' AND (status <> 'in_progress' OR worker IS NULL);
---
CREATE INDEX runstate_run_ended ON runstate_run (status, changed_at_us) WHERE expires_at IS NULL;
---
CREATE INDEX runstate_run_attempt ON runstate_run (seq) WHERE attempt > 1;
---
-- The entries of the runs. No number is given again: a reader that continues from a place must not miss an entry with
-- the number of a pruned one.
CREATE TABLE runstate_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL,
    version INTEGER NOT NULL,
    event TEXT,
    source TEXT,
    target TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    actor TEXT,
    detail TEXT,
    UNIQUE (run, version)
) STRICT;
---
-- What a run was created with besides its names. Its id has the collation of the run's, or no index would be used.
CREATE TABLE runstate_run_config (
    id TEXT PRIMARY KEY NOT NULL,
    config TEXT NOT NULL CHECK (config IS NULL OR (json_valid(config) AND json_type(config) = 'object')),
    trace_context TEXT
) STRICT;
---
-- What the worker of a run has saved for the next attempt.
CREATE TABLE runstate_checkpoint (
    run INTEGER PRIMARY KEY NOT NULL,
    checkpoint TEXT CHECK (checkpoint IS NULL OR json_valid(checkpoint)),
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    progress TEXT,
    trace_context TEXT,
    CHECK (prompt_tokens >= 0 AND completion_tokens >= 0)
) STRICT;
---
-- The attempts of a run that ended without an outcome.
CREATE TABLE runstate_attempt (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    ended_at_us INTEGER NOT NULL,
    result TEXT NOT NULL CHECK (result IN ('retry', 'lost', 'released')),
    actor TEXT,
    error TEXT CHECK (error IS NULL OR (json_valid(error) AND json_type(error) = 'object')),
    next_at_us INTEGER,
    PRIMARY KEY (run, number)
) STRICT;
---
-- The sessions of workers, with their leases. The session 0 is closed for ever: it has the runs that workers released.
CREATE TABLE runstate_worker_session (
    token INTEGER PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    began_at_us INTEGER NOT NULL,
    lease_until_us INTEGER NOT NULL,
    closed INTEGER NOT NULL CHECK (closed IN (0, 1)),
    CHECK (token >= 0 AND began_at_us >= 0 AND lease_until_us >= began_at_us),
    CHECK (lease_until_us < 253402300800000000)
) STRICT;
---
INSERT INTO runstate_worker_session VALUES (0, 'released', 0, 0, 1);
---
-- What readers may rely on: the same columns in both databases. The tables are private.
CREATE VIEW runstate_runs AS
SELECT r.id, r.thread_id, r.assistant_id, r.model, r.status, r.created_at, r.expires_at, r.started_at, r.cancelled_at,
    r.failed_at, r.completed_at, r.required_action, r.last_error, r.incomplete_details, r.usage, c.config,
    r.version, r.event, r.source, r.changed_at_us, r.actor, r.detail, r.queue, r.priority, r.not_before_us,
    r.claimable_at_us, r.thread_policy, r.idempotency_key, r.repeats, r.attempt, r.lost, r.failed,
    CASE WHEN r.worker <> 0 THEN w.name END AS worker,
    CASE WHEN r.worker <> 0 THEN w.lease_until_us END AS lease_until_us,
    n.progress, n.prompt_tokens, n.completion_tokens
FROM runstate_run AS r
    LEFT JOIN runstate_run_config AS c ON c.id = r.id
    LEFT JOIN runstate_checkpoint AS n ON n.run = r.seq
    LEFT JOIN runstate_worker_session AS w ON w.token = r.worker;
---
CREATE VIEW runstate_entries AS
SELECT r.id AS run_id, h.version, h.event, h.source, h.target, h.at_us, h.actor, h.detail
FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run;
---
CREATE VIEW runstate_attempts AS
SELECT r.id AS run_id, a.number, a.attempt, a.ended_at_us, a.result, a.actor, a.error, a.next_at_us
FROM runstate_attempt AS a JOIN runstate_run AS r ON r.seq = a.run;
