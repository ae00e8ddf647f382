-- Events of handlers
-- compatible_from: 0
-- The events that handlers have emitted. A row has those that were emitted within a moment: `number` is the first, and
-- `data` a list.
CREATE TABLE runstate_event (
    run bigint NOT NULL,
    number bigint NOT NULL,
    count bigint NOT NULL,
    version bigint NOT NULL,
    attempt bigint NOT NULL,
    data json NOT NULL,
    at_us bigint NOT NULL,
    PRIMARY KEY (run, number),
    CHECK (number > 0 AND count > 0 AND json_array_length(data) = count)
);
---
CREATE VIEW runstate_events AS
SELECT r.id AS run_id, e.number + d.place - 1 AS number, e.attempt, d.data, e.at_us
FROM runstate_event AS e JOIN runstate_run AS r ON r.seq = e.run
    CROSS JOIN LATERAL json_array_elements(e.data) WITH ORDINALITY AS d(data, place);
