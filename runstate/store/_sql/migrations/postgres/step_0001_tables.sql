-- Steps of handlers
-- compatible_from: 0
-- The steps that the handler of a run has completed. A step without an end is a mark: it was begun, and may have happened.
CREATE TABLE runstate_step (
    run bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    version bigint NOT NULL,
    attempt bigint NOT NULL,
    result json,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    began_at_us bigint NOT NULL,
    ended_at_us bigint,
    PRIMARY KEY (run, name, key),
    CHECK (prompt_tokens >= 0 AND completion_tokens >= 0 AND number > 0 AND name <> ''),
    CHECK ((ended_at_us IS NULL) = (result IS NULL))
);
---
CREATE VIEW runstate_steps AS
SELECT r.id AS run_id, s.name, s.key, s.number, s.attempt, s.result, s.prompt_tokens, s.completion_tokens,
    s.began_at_us, s.ended_at_us
FROM runstate_step AS s JOIN runstate_run AS r ON r.seq = s.run;
