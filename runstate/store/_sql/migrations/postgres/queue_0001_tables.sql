-- Pauses of queues
-- compatible_from: 0
-- A row for each pause of a queue: who paused it, when and why, and who resumed it. While a row is not resumed, no run of
-- the queue is claimed.
CREATE TABLE runstate_pause (
    queue text COLLATE "C" NOT NULL,
    paused_at_us bigint NOT NULL,
    paused_by TEXT,
    reason TEXT,
    resumed_at_us bigint,
    resumed_by TEXT,
    PRIMARY KEY (queue, paused_at_us),
    CHECK (queue <> '' AND resumed_at_us >= paused_at_us)
);
---
CREATE UNIQUE INDEX runstate_pause_current ON runstate_pause (queue) WHERE resumed_at_us IS NULL;
---
CREATE VIEW runstate_pauses AS
SELECT queue, paused_at_us, paused_by, reason, resumed_at_us, resumed_by FROM runstate_pause;
