-- Events of handlers
-- compatible_from: 0
-- The events that handlers have emitted. A row has those that were emitted within a moment: `number` is the first, and
-- `data` a list.
CREATE TABLE runstate_event (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    count INTEGER NOT NULL,
    version INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    data TEXT NOT NULL CHECK (json_valid(data) AND json_type(data) = 'array'),
    at_us INTEGER NOT NULL,
    PRIMARY KEY (run, number),
    CHECK (number > 0 AND count > 0 AND json_array_length(data) = count)
) STRICT, WITHOUT ROWID;
---
CREATE VIEW runstate_events AS
SELECT r.id AS run_id, e.number + d.key AS number, e.attempt, json_extract(e.data, '$[' || d.key || ']') AS data, e.at_us
FROM runstate_event AS e JOIN runstate_run AS r ON r.seq = e.run, json_each(e.data) AS d;
