-- Tables, indexes and views
-- compatible_from: 1
-- The steps that this database has taken.
CREATE TABLE runstate_migration (
    component TEXT NOT NULL,
    number bigint NOT NULL,
    description TEXT NOT NULL,
    compatible_from bigint NOT NULL,
    applied_at_us bigint NOT NULL,
    PRIMARY KEY (component, number)
);
---
-- A run has one small row, which every transition rewrites. What is large or rare stands in other tables.
-- What a row must be is checked by triggers: PostgreSQL would read every CHECK anew at each statement. Every transition
-- leaves a dead row: the page has room for some, and they are vacuumed often. The columns of indexes come first: each
-- update compares them, and PostgreSQL finds a column by reading those before it.
CREATE TABLE runstate_run (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at bigint NOT NULL,
    id text COLLATE "C" NOT NULL UNIQUE,
    thread_id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C",
    repeats text COLLATE "C",
    assistant_id text COLLATE "C" NOT NULL,
    model text COLLATE "C",
    status text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event text COLLATE "C",
    source text COLLATE "C",
    changed_at_us bigint NOT NULL,
    actor text COLLATE "C",
    detail json,
    expires_at bigint,
    started_at bigint,
    cancelled_at bigint,
    failed_at bigint,
    completed_at bigint,
    required_action json,
    last_error json,
    incomplete_details json,
    usage json,
    priority bigint NOT NULL,
    not_before_us bigint,
    claimable_at_us bigint,
    thread_policy text COLLATE "C",
    worker bigint,
    attempt bigint NOT NULL,
    lost bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
---
-- The runs of a thread, as the API lists them.
CREATE INDEX runstate_run_thread ON runstate_run (thread_id, seq);
---
CREATE UNIQUE INDEX runstate_run_key ON runstate_run (idempotency_key) WHERE idempotency_key IS NOT NULL;
---
CREATE INDEX runstate_run_repeats ON runstate_run (repeats) WHERE repeats IS NOT NULL;
---
-- The runs of a queue, and those of an age, as lists ask for them.
CREATE INDEX runstate_run_queue ON runstate_run (queue, seq);
---
CREATE INDEX runstate_run_created ON runstate_run USING brin (created_at) WITH (autosummarize = on);
---
-- Small tables: a row for each live run, kept by the triggers. No index of the run table names a column that changes,
-- or every update of a run would write to all indexes. Rows come and go with every run, so they are vacuumed often.
-- Of each run that can be claimed now.
CREATE TABLE runstate_claimable (
    run bigint PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    priority bigint NOT NULL,
    expires_at bigint NOT NULL,
    attempt bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
---
CREATE INDEX runstate_claimable_next ON runstate_claimable (queue, priority DESC, run);
---
CREATE INDEX runstate_claimable_deadline ON runstate_claimable (expires_at);
---
-- Of each run that a worker holds; 0 is the session of those that were released.
CREATE TABLE runstate_held (
    run bigint PRIMARY KEY,
    worker bigint NOT NULL,
    expires_at bigint NOT NULL,
    attempt bigint NOT NULL,
    status text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
---
CREATE INDEX runstate_held_worker ON runstate_held (worker);
---
-- Of each other live run. It waits if it is queued for later, or for its thread, which is named then. A run whose
-- handler is to be called again has the time of its retry.
CREATE TABLE runstate_idle (
    run bigint PRIMARY KEY,
    queue text COLLATE "C" NOT NULL,
    priority bigint NOT NULL,
    waits boolean NOT NULL,
    thread_id text COLLATE "C",
    not_before_us bigint,
    expires_at bigint NOT NULL,
    status text COLLATE "C" NOT NULL,
    attempt bigint NOT NULL,
    retry_at_us bigint
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
---
CREATE INDEX runstate_idle_waiting ON runstate_idle (not_before_us) WHERE waits;
---
CREATE INDEX runstate_idle_retry ON runstate_idle (retry_at_us) WHERE retry_at_us IS NOT NULL;
---
CREATE INDEX runstate_idle_thread ON runstate_idle (thread_id, run) WHERE thread_id IS NOT NULL;
---
CREATE INDEX runstate_idle_deadline ON runstate_idle (expires_at);
---
-- Of each thread that has its one live run.
CREATE TABLE runstate_thread (
    thread_id text COLLATE "C" PRIMARY KEY,
    run bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
---
-- Of each run that ended otherwise than completed, or after several attempts.
CREATE TABLE runstate_problem (
    run bigint PRIMARY KEY,
    status text COLLATE "C" NOT NULL,
    ended_at_us bigint NOT NULL,
    attempt bigint NOT NULL
);
---
CREATE INDEX runstate_problem_status ON runstate_problem (status, run);
---
CREATE INDEX runstate_problem_ended ON runstate_problem (ended_at_us);
---
CREATE INDEX runstate_problem_attempt ON runstate_problem (run) WHERE attempt > 1;
---
-- How many runs ended in a status. Each statement adds a row, and the triggers sum them up now and then.
CREATE TABLE runstate_count (
    status text COLLATE "C" NOT NULL,
    runs bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
---
-- The entries of the runs. Transactions commit in another order than they began: a reader that continues from a place
-- in the history of all runs needs the transaction of an entry.
CREATE TABLE runstate_history (
    run bigint NOT NULL,
    version bigint NOT NULL,
    event TEXT,
    source TEXT,
    target TEXT NOT NULL,
    at_us bigint NOT NULL,
    actor TEXT,
    detail json,
    tx bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    PRIMARY KEY (run, version)
);
---
CREATE INDEX runstate_history_tx ON runstate_history USING brin (tx, at_us)
    WITH (autosummarize = on, pages_per_range = 32);
---
-- What a run was created with besides its names. Its id has the collation of the run's, or no index would be used.
CREATE TABLE runstate_run_config (
    id text COLLATE "C" PRIMARY KEY NOT NULL,
    config json NOT NULL CHECK (json_typeof(config) = 'object'),
    trace_context TEXT
);
---
-- What the worker of a run has saved for the next attempt.
CREATE TABLE runstate_checkpoint (
    run bigint PRIMARY KEY NOT NULL,
    checkpoint json,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    progress TEXT,
    trace_context TEXT,
    CHECK (prompt_tokens >= 0 AND completion_tokens >= 0)
);
---
-- The attempts of a run that ended without an outcome.
CREATE TABLE runstate_attempt (
    run bigint NOT NULL,
    number bigint NOT NULL,
    attempt bigint NOT NULL,
    ended_at_us bigint NOT NULL,
    result TEXT NOT NULL CHECK (result IN ('retry', 'lost', 'released')),
    actor TEXT,
    error json CHECK (json_typeof(error) = 'object'),
    next_at_us bigint,
    PRIMARY KEY (run, number)
);
---
-- The sessions of workers, with their leases. The session 0 is closed for ever: it has the runs that workers released.
CREATE TABLE runstate_worker_session (
    token bigint PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    began_at_us bigint NOT NULL,
    lease_until_us bigint NOT NULL,
    closed bigint NOT NULL CHECK (closed IN (0, 1)),
    CHECK (token >= 0 AND began_at_us >= 0 AND lease_until_us >= began_at_us),
    CHECK (lease_until_us < 253402300800000000)
);
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
