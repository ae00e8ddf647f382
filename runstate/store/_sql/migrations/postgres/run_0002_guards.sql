-- Triggers that hold the table of transitions
-- compatible_from: 1
-- transition: start queued -> in_progress stamps started_at until the deadline
-- transition: require_action in_progress -> requires_action
-- transition: submit_tool_outputs requires_action -> queued until the deadline
-- transition: request_cancel in_progress -> cancelling
-- transition: request_cancel queued -> cancelling
-- transition: request_cancel requires_action -> cancelling
-- transition: confirm_cancel cancelling -> cancelled stamps cancelled_at
-- transition: complete in_progress -> completed stamps completed_at
-- transition: complete cancelling -> completed stamps completed_at
-- transition: mark_incomplete in_progress -> incomplete stamps completed_at
-- transition: mark_incomplete cancelling -> incomplete stamps completed_at
-- transition: fail in_progress -> failed stamps failed_at
-- transition: fail queued -> failed stamps failed_at
-- transition: fail requires_action -> failed stamps failed_at
-- transition: fail cancelling -> failed stamps failed_at
-- transition: expire queued -> expired stamps completed_at
-- transition: expire in_progress -> expired stamps completed_at
-- transition: expire requires_action -> expired stamps completed_at
-- transition: expire cancelling -> expired stamps completed_at
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_promote(thread text, ended bigint, ended_at bigint) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET enable_nestloop = on AS $$ BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('runstate ' || thread, 0));
    DELETE FROM @schema.runstate_thread WHERE thread_id = thread AND run = ended;
    UPDATE @schema.runstate_run SET claimable_at_us = greatest(changed_at_us, ended_at) WHERE seq = (
        SELECT q.seq FROM @schema.runstate_idle AS i JOIN @schema.runstate_run AS q ON q.seq = i.run
        WHERE i.thread_id = thread AND (i.not_before_us IS NULL OR i.not_before_us <= ended_at)
            AND q.claimable_at_us IS NULL AND q.status = 'queued'
        ORDER BY i.run LIMIT 1 FOR UPDATE OF q SKIP LOCKED)
        AND NOT EXISTS (SELECT 1 FROM @schema.runstate_thread WHERE thread_id = thread)
        AND (greatest(changed_at_us, ended_at) < expires_at * 1000000 + 34560000000000 OR greatest(changed_at_us, ended_at) < extract(epoch FROM now()) * 1000000 + 34560000000000);
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_sum_up() RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    IF current_setting('transaction_isolation') = 'read committed' THEN
        WITH gone AS (DELETE FROM @schema.runstate_count
            WHERE ctid = ANY (ARRAY(SELECT ctid FROM @schema.runstate_count FOR UPDATE SKIP LOCKED))
            RETURNING status, runs)
        INSERT INTO @schema.runstate_count SELECT status, sum(runs) FROM gone GROUP BY status HAVING sum(runs) <> 0;
    END IF;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_live() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
        DETAIL = format('run %s is %s', OLD.id, OLD.status);
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_live() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_refuse() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_born() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ DECLARE holds boolean; waits boolean; alone boolean; BEGIN
    SELECT bool_and(coalesce(born.status = 'queued' AND born.version = 1 AND born.attempt = 0 AND born.lost = 0 AND born.failed = 0 AND born.event IS NULL AND born.source IS NULL AND born.started_at IS NULL AND born.cancelled_at IS NULL AND born.failed_at IS NULL AND born.completed_at IS NULL AND born.worker IS NULL AND born.expires_at IS NOT NULL AND born.required_action IS NULL AND born.last_error IS NULL AND born.incomplete_details IS NULL AND born.usage IS NULL AND born.changed_at_us BETWEEN 0 AND 253402300799999999 AND born.created_at = born.changed_at_us / 1000000 AND born.expires_at > born.created_at AND born.expires_at < 253402300800 AND (born.claimable_at_us IS NULL OR born.not_before_us IS NULL) AND born.id <> '' AND born.thread_id <> '' AND born.assistant_id <> '' AND born.queue <> '' AND (born.idempotency_key IS NULL OR born.idempotency_key <> '') AND (born.thread_policy IS NULL OR born.thread_policy = 'reject' OR born.thread_policy = 'queue') AND (born.detail IS NULL OR (json_typeof(born.detail) = 'object')), false)), bool_or(claimable_at_us IS NULL),
        bool_or(thread_policy IS NOT NULL) INTO holds, waits, alone FROM born;
    IF NOT holds THEN
        RAISE EXCEPTION 'runstate: a run is born queued, at version 1, with no stamp but its birth' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    INSERT INTO @schema.runstate_history (run, version, event, source, target, at_us, actor, detail)
        SELECT born.seq, born.version, born.event, born.source, born.status, born.changed_at_us, born.actor, born.detail FROM born;
    IF waits THEN
        INSERT INTO @schema.runstate_claimable (run, queue, priority, expires_at, attempt) SELECT seq, queue, priority, expires_at, attempt FROM born WHERE status = 'queued' AND claimable_at_us IS NOT NULL;
        INSERT INTO @schema.runstate_held (run, worker, expires_at, attempt, status) SELECT seq, worker, expires_at, attempt, status FROM born WHERE worker IS NOT NULL AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling');
        INSERT INTO @schema.runstate_idle (run, queue, priority, waits, thread_id, not_before_us, expires_at, status, attempt, retry_at_us) SELECT seq, queue, priority, status = 'queued', CASE WHEN status = 'queued' AND thread_policy = 'queue' THEN thread_id END, not_before_us, expires_at, status, attempt, CASE WHEN status = 'in_progress' AND worker IS NULL AND attempt > 0 THEN claimable_at_us END FROM born WHERE status IN ('queued', 'in_progress', 'requires_action', 'cancelling') AND NOT (status = 'queued' AND claimable_at_us IS NOT NULL) AND NOT (worker IS NOT NULL AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling'));
        
    ELSE
        INSERT INTO @schema.runstate_claimable (run, queue, priority, expires_at, attempt)
            SELECT seq, queue, priority, expires_at, attempt FROM born;
    END IF;
    IF alone THEN
        INSERT INTO @schema.runstate_thread (thread_id, run) SELECT thread_id, seq FROM born WHERE status IN ('queued', 'in_progress', 'requires_action', 'cancelling') AND (thread_policy = 'reject' OR (thread_policy = 'queue' AND claimable_at_us IS NOT NULL));
    END IF;
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_born() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_moved() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_hashjoin = on AS $$ DECLARE before record; after record; is_legal boolean; kind record; total bigint; legal bigint := 0; ends bigint := 0; starts boolean := false; alone boolean := false; is_simple boolean := true; problem boolean := false; owned bigint; most bigint; runs bigint[]; BEGIN
    SELECT count(*) INTO total FROM moved;
    IF total = 0 THEN
        RETURN NULL;
    END IF;
    IF total = 1 THEN
        SELECT * INTO before FROM was;
        SELECT * INTO after FROM moved;
        IF after.seq = before.seq AND after.version = before.version + 1 THEN
            CASE after.event
            WHEN 'start' THEN is_legal := after.status = 'in_progress' AND (before.status = 'queued') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at IS NOT DISTINCT FROM before.completed_at AND after.started_at = after.changed_at_us / 1000000 AND after.expires_at IS NOT NULL AND after.required_action IS NULL AND after.last_error IS NULL AND after.incomplete_details IS NULL AND after.usage IS NULL AND after.expires_at = before.expires_at AND after.changed_at_us < before.expires_at * 1000000 AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.claimable_at_us IS NOT NULL AND after.lost = 0 AND after.failed = 0 AND CASE WHEN after.worker IS NULL THEN after.attempt = 0 ELSE after.attempt = 1 AND after.worker <> 0 END;
            WHEN 'complete' THEN is_legal := after.status = 'completed' AND (before.status = 'cancelling' OR before.status = 'in_progress') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at = after.changed_at_us / 1000000 AND after.expires_at IS NULL AND after.required_action IS NULL AND after.last_error IS NULL AND after.incomplete_details IS NULL AND after.usage IS NOT NULL AND after.changed_at_us < 253402300800000000 AND (after.changed_at_us < before.expires_at * 1000000 + 34560000000000 OR after.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(after.usage) = 'object' AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL;
            WHEN 'require_action' THEN is_legal := after.status = 'requires_action' AND (before.status = 'in_progress') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at IS NOT DISTINCT FROM before.completed_at AND after.expires_at IS NOT NULL AND after.required_action IS NOT NULL AND after.last_error IS NULL AND after.incomplete_details IS NULL AND after.usage IS NULL AND after.expires_at = before.expires_at AND after.changed_at_us < 253402300800000000 AND (after.changed_at_us < before.expires_at * 1000000 + 34560000000000 OR after.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(after.required_action) = 'object' AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL;
            WHEN 'submit_tool_outputs' THEN is_legal := after.status = 'queued' AND (before.status = 'requires_action') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at IS NOT DISTINCT FROM before.completed_at AND after.expires_at IS NOT NULL AND after.required_action IS NULL AND after.last_error IS NULL AND after.incomplete_details IS NULL AND after.usage IS NULL AND after.expires_at = before.expires_at AND after.changed_at_us < before.expires_at * 1000000 AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL;
            WHEN 'request_cancel' THEN is_legal := after.status = 'cancelling' AND (before.status = 'in_progress' OR before.status = 'queued' OR before.status = 'requires_action') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at IS NOT DISTINCT FROM before.completed_at AND after.expires_at IS NOT NULL AND after.required_action IS NULL AND after.last_error IS NULL AND after.incomplete_details IS NULL AND after.usage IS NULL AND after.expires_at = before.expires_at AND after.changed_at_us < 253402300800000000 AND (after.changed_at_us < before.expires_at * 1000000 + 34560000000000 OR after.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND CASE WHEN before.status = 'in_progress' THEN after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NOT DISTINCT FROM before.worker ELSE after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL END;
            WHEN 'confirm_cancel' THEN is_legal := after.status = 'cancelled' AND (before.status = 'cancelling') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at IS NOT DISTINCT FROM before.completed_at AND after.cancelled_at = after.changed_at_us / 1000000 AND after.expires_at IS NULL AND after.required_action IS NULL AND after.last_error IS NULL AND after.incomplete_details IS NULL AND after.usage IS NOT NULL AND after.changed_at_us < 253402300800000000 AND (after.changed_at_us < before.expires_at * 1000000 + 34560000000000 OR after.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(after.usage) = 'object' AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL;
            WHEN 'mark_incomplete' THEN is_legal := after.status = 'incomplete' AND (before.status = 'cancelling' OR before.status = 'in_progress') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at = after.changed_at_us / 1000000 AND after.expires_at IS NULL AND after.required_action IS NULL AND after.last_error IS NULL AND after.incomplete_details IS NOT NULL AND after.usage IS NOT NULL AND after.changed_at_us < 253402300800000000 AND (after.changed_at_us < before.expires_at * 1000000 + 34560000000000 OR after.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(after.incomplete_details) = 'object' AND json_typeof(after.usage) = 'object' AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL;
            WHEN 'fail' THEN is_legal := after.status = 'failed' AND (before.status = 'cancelling' OR before.status = 'in_progress' OR before.status = 'queued' OR before.status = 'requires_action') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.completed_at IS NOT DISTINCT FROM before.completed_at AND after.failed_at = after.changed_at_us / 1000000 AND after.expires_at IS NULL AND after.required_action IS NULL AND after.last_error IS NOT NULL AND after.incomplete_details IS NULL AND after.usage IS NOT NULL AND after.changed_at_us < 253402300800000000 AND (after.changed_at_us < before.expires_at * 1000000 + 34560000000000 OR after.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(after.last_error) = 'object' AND json_typeof(after.usage) = 'object' AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL;
            WHEN 'expire' THEN is_legal := after.status = 'expired' AND (before.status = 'cancelling' OR before.status = 'in_progress' OR before.status = 'queued' OR before.status = 'requires_action') AND after.source = before.status AND after.changed_at_us >= before.changed_at_us AND after.started_at IS NOT DISTINCT FROM before.started_at AND after.cancelled_at IS NOT DISTINCT FROM before.cancelled_at AND after.failed_at IS NOT DISTINCT FROM before.failed_at AND after.completed_at = after.changed_at_us / 1000000 AND after.expires_at IS NULL AND after.required_action IS NULL AND after.last_error IS NULL AND after.incomplete_details IS NULL AND after.usage IS NOT NULL AND after.changed_at_us < 253402300800000000 AND (after.changed_at_us < before.expires_at * 1000000 + 34560000000000 OR after.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(after.usage) = 'object' AND (after.detail IS NULL OR json_typeof(after.detail) = 'object') AND after.claimable_at_us IS NOT DISTINCT FROM before.claimable_at_us AND after.attempt = before.attempt AND after.lost = before.lost AND after.failed = before.failed AND after.worker IS NULL;
            ELSE is_legal := false;
            END CASE;
            IF is_legal THEN
                INSERT INTO @schema.runstate_history (run, version, event, source, target, at_us, actor, detail)
                    VALUES (after.seq, after.version, after.event, after.source, after.status, after.changed_at_us, after.actor, after.detail);
                IF before.worker IS NOT NULL THEN
                    IF after.worker IS NULL THEN
                        DELETE FROM @schema.runstate_held WHERE run = after.seq;
                    END IF;
                ELSIF before.status = 'queued' AND before.claimable_at_us IS NOT NULL THEN
                    DELETE FROM @schema.runstate_claimable WHERE run = after.seq;
                ELSE
                    DELETE FROM @schema.runstate_idle WHERE run = after.seq;
                END IF;
                IF after.worker IS NOT NULL THEN
                    IF before.worker IS NULL THEN
                        INSERT INTO @schema.runstate_held
                            VALUES (after.seq, after.worker, after.expires_at, after.attempt, after.status);
                    ELSE
                        UPDATE @schema.runstate_held SET status = after.status WHERE run = after.seq;
                    END IF;
                ELSIF after.status = 'queued' AND after.claimable_at_us IS NOT NULL THEN
                    INSERT INTO @schema.runstate_claimable
                        VALUES (after.seq, after.queue, after.priority, after.expires_at, after.attempt);
                ELSIF after.expires_at IS NOT NULL THEN  -- it is live
                    INSERT INTO @schema.runstate_idle
                        VALUES (after.seq, after.queue, after.priority, false, NULL, after.not_before_us,
                            after.expires_at, after.status, after.attempt, NULL);
                ELSE
                    INSERT INTO @schema.runstate_count VALUES (after.status, 1);
                    IF hashint8(pg_current_xact_id()::text::bigint) & 255 = 0 THEN PERFORM @schema.runstate_sum_up(); END IF;
                    IF after.status <> 'completed' OR after.attempt > 1 THEN
                        INSERT INTO @schema.runstate_problem
                            VALUES (after.seq, after.status, after.changed_at_us, after.attempt);
                    END IF;
                    IF after.thread_policy IS NOT NULL THEN
                        PERFORM @schema.runstate_promote(after.thread_id, after.seq, after.changed_at_us);
                    END IF;
                END IF;
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    FOR kind IN SELECT event, count(*) AS many, bool_and(worker IS NOT NULL) AS owned,
        bool_or(thread_policy IS NOT NULL) AS alone FROM moved GROUP BY event
    LOOP
        alone := alone OR kind.alone;
        CASE kind.event
        WHEN 'start' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'start' AND n.version = o.version + 1 AND n.status = 'in_progress' AND (o.status = 'queued') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.started_at = n.changed_at_us / 1000000 AND n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < o.expires_at * 1000000 AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.claimable_at_us IS NOT NULL AND n.lost = 0 AND n.failed = 0 AND CASE WHEN n.worker IS NULL THEN n.attempt = 0 ELSE n.attempt = 1 AND n.worker <> 0 END;
        WHEN 'complete' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'complete' AND n.version = o.version + 1 AND n.status = 'completed' AND (o.status = 'cancelling' OR o.status = 'in_progress') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL;
        WHEN 'require_action' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'require_action' AND n.version = o.version + 1 AND n.status = 'requires_action' AND (o.status = 'in_progress') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT NULL AND n.required_action IS NOT NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.required_action) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL;
        WHEN 'submit_tool_outputs' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'submit_tool_outputs' AND n.version = o.version + 1 AND n.status = 'queued' AND (o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < o.expires_at * 1000000 AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL;
        WHEN 'request_cancel' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'request_cancel' AND n.version = o.version + 1 AND n.status = 'cancelling' AND (o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND CASE WHEN o.status = 'in_progress' THEN n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NOT DISTINCT FROM o.worker ELSE n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL END;
        WHEN 'confirm_cancel' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'confirm_cancel' AND n.version = o.version + 1 AND n.status = 'cancelled' AND (o.status = 'cancelling') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.cancelled_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL;
        WHEN 'mark_incomplete' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'mark_incomplete' AND n.version = o.version + 1 AND n.status = 'incomplete' AND (o.status = 'cancelling' OR o.status = 'in_progress') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NOT NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.incomplete_details) = 'object' AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL;
        WHEN 'fail' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'fail' AND n.version = o.version + 1 AND n.status = 'failed' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.failed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NOT NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.last_error) = 'object' AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL;
        WHEN 'expire' THEN SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.event = 'expire' AND n.version = o.version + 1 AND n.status = 'expired' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL;
        ELSE is_simple := false;
        END CASE;
        IF kind.event = 'start' THEN
            starts := true;
            is_simple := is_simple AND kind.owned;
        ELSIF kind.event IN ('confirm_cancel', 'complete', 'mark_incomplete', 'fail', 'expire') THEN
            ends := ends + kind.many;
            INSERT INTO @schema.runstate_count VALUES (CASE kind.event WHEN 'start' THEN 'in_progress' WHEN 'require_action' THEN 'requires_action' WHEN 'submit_tool_outputs' THEN 'queued' WHEN 'request_cancel' THEN 'cancelling' WHEN 'confirm_cancel' THEN 'cancelled' WHEN 'complete' THEN 'completed' WHEN 'mark_incomplete' THEN 'incomplete' WHEN 'fail' THEN 'failed' WHEN 'expire' THEN 'expired' END, kind.many);
            problem := problem OR kind.event <> 'complete';
        ELSE
            is_simple := false;
        END IF;
    END LOOP;
    IF legal = total THEN
        INSERT INTO @schema.runstate_history (run, version, event, source, target, at_us, actor, detail)
            SELECT n.seq, n.version, n.event, n.source, n.status, n.changed_at_us, n.actor, n.detail FROM moved AS n;
    ELSE
        is_simple := false;
        SELECT legal + count(*) INTO legal FROM was AS o JOIN moved AS n USING (seq) WHERE n.version = o.version AND (CASE n.version - o.version
        WHEN 1 THEN CASE n.event WHEN 'start' THEN n.status = 'in_progress' AND (o.status = 'queued') WHEN 'require_action' THEN n.status = 'requires_action' AND (o.status = 'in_progress') WHEN 'submit_tool_outputs' THEN n.status = 'queued' AND (o.status = 'requires_action') WHEN 'request_cancel' THEN n.status = 'cancelling' AND (o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') WHEN 'confirm_cancel' THEN n.status = 'cancelled' AND (o.status = 'cancelling') WHEN 'complete' THEN n.status = 'completed' AND (o.status = 'cancelling' OR o.status = 'in_progress') WHEN 'mark_incomplete' THEN n.status = 'incomplete' AND (o.status = 'cancelling' OR o.status = 'in_progress') WHEN 'fail' THEN n.status = 'failed' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') WHEN 'expire' THEN n.status = 'expired' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') ELSE false END
            AND n.source = o.status AND n.changed_at_us >= o.changed_at_us
        WHEN 0 THEN n.status = o.status AND n.event IS NOT DISTINCT FROM o.event AND n.source IS NOT DISTINCT FROM o.source AND n.changed_at_us IS NOT DISTINCT FROM o.changed_at_us AND n.actor IS NOT DISTINCT FROM o.actor AND n.detail::text IS NOT DISTINCT FROM o.detail::text AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT DISTINCT FROM o.expires_at AND n.required_action::text IS NOT DISTINCT FROM o.required_action::text AND n.last_error::text IS NOT DISTINCT FROM o.last_error::text AND n.incomplete_details::text IS NOT DISTINCT FROM o.incomplete_details::text AND n.usage::text IS NOT DISTINCT FROM o.usage::text
        ELSE false
    END) AND (CASE WHEN n.version <> o.version
        THEN n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND CASE
        WHEN n.status = 'in_progress' THEN n.lost = 0 AND n.failed = 0 AND CASE WHEN n.worker IS NULL THEN n.attempt = 0 ELSE n.attempt = 1 AND n.worker <> 0 END
        WHEN o.status = 'in_progress' AND n.status = 'cancelling' THEN n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed
        ELSE n.worker IS NULL AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed
    END
        ELSE (n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us)
        OR (n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.failed = o.failed AND n.lost = 0 AND o.worker <> 0 AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us)
        OR (o.claimable_at_us IS NULL AND n.claimable_at_us IS NOT NULL AND o.status = 'queued' AND n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.claimable_at_us >= coalesce(o.not_before_us, o.changed_at_us) AND (n.claimable_at_us < o.expires_at * 1000000 + 34560000000000 OR n.claimable_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000))
        OR (o.worker <> 0 AND n.worker IS NULL AND o.status = 'in_progress' AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed BETWEEN o.failed AND o.failed + 1 AND n.claimable_at_us > o.changed_at_us AND n.claimable_at_us < o.expires_at * 1000000)
        OR (n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND ((n.worker = 0 AND o.worker <> 0 AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed) OR (n.worker <> o.worker AND n.worker <> 0 AND n.attempt = o.attempt + 1 AND n.failed = o.failed AND n.lost = o.lost + CASE WHEN o.worker = 0 THEN 0 ELSE 1 END) OR (o.worker IS NULL AND o.attempt > 0 AND o.status = 'in_progress' AND n.worker IS NOT NULL AND n.worker <> 0 AND n.attempt = o.attempt + 1 AND n.failed = o.failed AND n.lost = o.lost)))
    END);
        IF legal <> total THEN
            -- A check_violation, so that programs need not read the sentence; the run is named for people.
            SELECT CASE WHEN NOT coalesce(CASE n.version - o.version
        WHEN 1 THEN CASE n.event WHEN 'start' THEN n.status = 'in_progress' AND (o.status = 'queued') WHEN 'require_action' THEN n.status = 'requires_action' AND (o.status = 'in_progress') WHEN 'submit_tool_outputs' THEN n.status = 'queued' AND (o.status = 'requires_action') WHEN 'request_cancel' THEN n.status = 'cancelling' AND (o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') WHEN 'confirm_cancel' THEN n.status = 'cancelled' AND (o.status = 'cancelling') WHEN 'complete' THEN n.status = 'completed' AND (o.status = 'cancelling' OR o.status = 'in_progress') WHEN 'mark_incomplete' THEN n.status = 'incomplete' AND (o.status = 'cancelling' OR o.status = 'in_progress') WHEN 'fail' THEN n.status = 'failed' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') WHEN 'expire' THEN n.status = 'expired' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') ELSE false END
            AND n.source = o.status AND n.changed_at_us >= o.changed_at_us
        WHEN 0 THEN n.status = o.status AND n.event IS NOT DISTINCT FROM o.event AND n.source IS NOT DISTINCT FROM o.source AND n.changed_at_us IS NOT DISTINCT FROM o.changed_at_us AND n.actor IS NOT DISTINCT FROM o.actor AND n.detail::text IS NOT DISTINCT FROM o.detail::text AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT DISTINCT FROM o.expires_at AND n.required_action::text IS NOT DISTINCT FROM o.required_action::text AND n.last_error::text IS NOT DISTINCT FROM o.last_error::text AND n.incomplete_details::text IS NOT DISTINCT FROM o.incomplete_details::text AND n.usage::text IS NOT DISTINCT FROM o.usage::text
        ELSE false
    END, false) THEN 'illegal transition. Change runs through runstate; a direct UPDATE must also set event, source, version = version + 1 and changed_at_us' WHEN NOT coalesce(n.version = o.version OR CASE n.event WHEN 'start' THEN n.changed_at_us < o.expires_at * 1000000 WHEN 'submit_tool_outputs' THEN n.changed_at_us < o.expires_at * 1000000 ELSE true END, false) THEN 'the deadline of the run has passed, so it cannot start or submit_tool_outputs any more' WHEN NOT coalesce(n.version = o.version OR (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000), false) THEN 'a transition is at most 400 days after the deadline of the run or the clock of the database' WHEN NOT coalesce(n.version = o.version OR (CASE n.status WHEN 'queued' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at WHEN 'in_progress' THEN n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.started_at = n.changed_at_us / 1000000 WHEN 'requires_action' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at WHEN 'cancelling' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at WHEN 'completed' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 WHEN 'incomplete' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 WHEN 'failed' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.failed_at = n.changed_at_us / 1000000 WHEN 'cancelled' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.cancelled_at = n.changed_at_us / 1000000 WHEN 'expired' THEN n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 ELSE false END AND (n.expires_at IS NULL OR n.expires_at = o.expires_at)), false) THEN 'a transition writes its own stamp with its own time, and no other' WHEN NOT coalesce(n.version = o.version OR (CASE n.status WHEN 'queued' THEN n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL WHEN 'in_progress' THEN n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL WHEN 'requires_action' THEN n.expires_at IS NOT NULL AND n.required_action IS NOT NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL WHEN 'cancelling' THEN n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL WHEN 'completed' THEN n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL WHEN 'incomplete' THEN n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NOT NULL AND n.usage IS NOT NULL WHEN 'failed' THEN n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NOT NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL WHEN 'cancelled' THEN n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL WHEN 'expired' THEN n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL ELSE false END AND (n.detail IS NULL OR (json_typeof(n.detail) = 'object')) AND (n.incomplete_details IS NULL OR (json_typeof(n.incomplete_details) = 'object')) AND (n.last_error IS NULL OR (json_typeof(n.last_error) = 'object')) AND (n.required_action IS NULL OR (json_typeof(n.required_action) = 'object')) AND (n.usage IS NULL OR (json_typeof(n.usage) = 'object')) AND n.changed_at_us BETWEEN 0 AND 253402300799999999 AND (n.expires_at IS NULL OR (n.expires_at > n.created_at AND n.expires_at < 253402300800)) AND (n.claimable_at_us IS NOT NULL OR n.started_at IS NULL)), false) THEN 'a status has the fields that the law gives it, as JSON objects, and no other' WHEN NOT coalesce(CASE WHEN n.version <> o.version
        THEN n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND CASE
        WHEN n.status = 'in_progress' THEN n.lost = 0 AND n.failed = 0 AND CASE WHEN n.worker IS NULL THEN n.attempt = 0 ELSE n.attempt = 1 AND n.worker <> 0 END
        WHEN o.status = 'in_progress' AND n.status = 'cancelling' THEN n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed
        ELSE n.worker IS NULL AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed
    END
        ELSE (n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us)
        OR (n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.failed = o.failed AND n.lost = 0 AND o.worker <> 0 AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us)
        OR (o.claimable_at_us IS NULL AND n.claimable_at_us IS NOT NULL AND o.status = 'queued' AND n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.claimable_at_us >= coalesce(o.not_before_us, o.changed_at_us) AND (n.claimable_at_us < o.expires_at * 1000000 + 34560000000000 OR n.claimable_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000))
        OR (o.worker <> 0 AND n.worker IS NULL AND o.status = 'in_progress' AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed BETWEEN o.failed AND o.failed + 1 AND n.claimable_at_us > o.changed_at_us AND n.claimable_at_us < o.expires_at * 1000000)
        OR (n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND ((n.worker = 0 AND o.worker <> 0 AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed) OR (n.worker <> o.worker AND n.worker <> 0 AND n.attempt = o.attempt + 1 AND n.failed = o.failed AND n.lost = o.lost + CASE WHEN o.worker = 0 THEN 0 ELSE 1 END) OR (o.worker IS NULL AND o.attempt > 0 AND o.status = 'in_progress' AND n.worker IS NOT NULL AND n.worker <> 0 AND n.attempt = o.attempt + 1 AND n.failed = o.failed AND n.lost = o.lost)))
    END, false) THEN 'a run is claimed at its start, and again with its attempt counted: after a release, a loss or a retry' ELSE 'illegal transition. Change runs through runstate; a direct UPDATE must also set event, source, version = version + 1 and changed_at_us' END AS sentence, o.id, o.status AS source,
                n.event, n.status AS target
                INTO kind FROM was AS o JOIN moved AS n USING (seq) WHERE NOT coalesce(CASE n.version - o.version WHEN 1 THEN CASE n.event WHEN 'start' THEN n.status = 'in_progress' AND (o.status = 'queued') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.started_at = n.changed_at_us / 1000000 AND n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < o.expires_at * 1000000 AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.claimable_at_us IS NOT NULL AND n.lost = 0 AND n.failed = 0 AND CASE WHEN n.worker IS NULL THEN n.attempt = 0 ELSE n.attempt = 1 AND n.worker <> 0 END WHEN 'complete' THEN n.status = 'completed' AND (o.status = 'cancelling' OR o.status = 'in_progress') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL WHEN 'require_action' THEN n.status = 'requires_action' AND (o.status = 'in_progress') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT NULL AND n.required_action IS NOT NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.required_action) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL WHEN 'submit_tool_outputs' THEN n.status = 'queued' AND (o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < o.expires_at * 1000000 AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL WHEN 'request_cancel' THEN n.status = 'cancelling' AND (o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NULL AND n.expires_at = o.expires_at AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND CASE WHEN o.status = 'in_progress' THEN n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NOT DISTINCT FROM o.worker ELSE n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL END WHEN 'confirm_cancel' THEN n.status = 'cancelled' AND (o.status = 'cancelling') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.cancelled_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL WHEN 'mark_incomplete' THEN n.status = 'incomplete' AND (o.status = 'cancelling' OR o.status = 'in_progress') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NOT NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.incomplete_details) = 'object' AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL WHEN 'fail' THEN n.status = 'failed' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.failed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NOT NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.last_error) = 'object' AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL WHEN 'expire' THEN n.status = 'expired' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') AND n.source = o.status AND n.changed_at_us >= o.changed_at_us AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at = n.changed_at_us / 1000000 AND n.expires_at IS NULL AND n.required_action IS NULL AND n.last_error IS NULL AND n.incomplete_details IS NULL AND n.usage IS NOT NULL AND n.changed_at_us < 253402300800000000 AND (n.changed_at_us < o.expires_at * 1000000 + 34560000000000 OR n.changed_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000) AND json_typeof(n.usage) = 'object' AND (n.detail IS NULL OR json_typeof(n.detail) = 'object') AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.worker IS NULL ELSE false END WHEN 0 THEN (CASE n.version - o.version
        WHEN 1 THEN CASE n.event WHEN 'start' THEN n.status = 'in_progress' AND (o.status = 'queued') WHEN 'require_action' THEN n.status = 'requires_action' AND (o.status = 'in_progress') WHEN 'submit_tool_outputs' THEN n.status = 'queued' AND (o.status = 'requires_action') WHEN 'request_cancel' THEN n.status = 'cancelling' AND (o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') WHEN 'confirm_cancel' THEN n.status = 'cancelled' AND (o.status = 'cancelling') WHEN 'complete' THEN n.status = 'completed' AND (o.status = 'cancelling' OR o.status = 'in_progress') WHEN 'mark_incomplete' THEN n.status = 'incomplete' AND (o.status = 'cancelling' OR o.status = 'in_progress') WHEN 'fail' THEN n.status = 'failed' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') WHEN 'expire' THEN n.status = 'expired' AND (o.status = 'cancelling' OR o.status = 'in_progress' OR o.status = 'queued' OR o.status = 'requires_action') ELSE false END
            AND n.source = o.status AND n.changed_at_us >= o.changed_at_us
        WHEN 0 THEN n.status = o.status AND n.event IS NOT DISTINCT FROM o.event AND n.source IS NOT DISTINCT FROM o.source AND n.changed_at_us IS NOT DISTINCT FROM o.changed_at_us AND n.actor IS NOT DISTINCT FROM o.actor AND n.detail::text IS NOT DISTINCT FROM o.detail::text AND n.started_at IS NOT DISTINCT FROM o.started_at AND n.cancelled_at IS NOT DISTINCT FROM o.cancelled_at AND n.failed_at IS NOT DISTINCT FROM o.failed_at AND n.completed_at IS NOT DISTINCT FROM o.completed_at AND n.expires_at IS NOT DISTINCT FROM o.expires_at AND n.required_action::text IS NOT DISTINCT FROM o.required_action::text AND n.last_error::text IS NOT DISTINCT FROM o.last_error::text AND n.incomplete_details::text IS NOT DISTINCT FROM o.incomplete_details::text AND n.usage::text IS NOT DISTINCT FROM o.usage::text
        ELSE false
    END) AND (CASE WHEN n.version <> o.version
        THEN n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND CASE
        WHEN n.status = 'in_progress' THEN n.lost = 0 AND n.failed = 0 AND CASE WHEN n.worker IS NULL THEN n.attempt = 0 ELSE n.attempt = 1 AND n.worker <> 0 END
        WHEN o.status = 'in_progress' AND n.status = 'cancelling' THEN n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed
        ELSE n.worker IS NULL AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed
    END
        ELSE (n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us)
        OR (n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.failed = o.failed AND n.lost = 0 AND o.worker <> 0 AND n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us)
        OR (o.claimable_at_us IS NULL AND n.claimable_at_us IS NOT NULL AND o.status = 'queued' AND n.worker IS NOT DISTINCT FROM o.worker AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed AND n.claimable_at_us >= coalesce(o.not_before_us, o.changed_at_us) AND (n.claimable_at_us < o.expires_at * 1000000 + 34560000000000 OR n.claimable_at_us < extract(epoch FROM now()) * 1000000 + 34560000000000))
        OR (o.worker <> 0 AND n.worker IS NULL AND o.status = 'in_progress' AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed BETWEEN o.failed AND o.failed + 1 AND n.claimable_at_us > o.changed_at_us AND n.claimable_at_us < o.expires_at * 1000000)
        OR (n.claimable_at_us IS NOT DISTINCT FROM o.claimable_at_us AND ((n.worker = 0 AND o.worker <> 0 AND n.attempt = o.attempt AND n.lost = o.lost AND n.failed = o.failed) OR (n.worker <> o.worker AND n.worker <> 0 AND n.attempt = o.attempt + 1 AND n.failed = o.failed AND n.lost = o.lost + CASE WHEN o.worker = 0 THEN 0 ELSE 1 END) OR (o.worker IS NULL AND o.attempt > 0 AND o.status = 'in_progress' AND n.worker IS NOT NULL AND n.worker <> 0 AND n.attempt = o.attempt + 1 AND n.failed = o.failed AND n.lost = o.lost)))
    END) END, false) LIMIT 1;
            RAISE EXCEPTION 'runstate: %', coalesce(kind.sentence, 'what a run was created with never changes')
                USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME, DETAIL = format(
                    'run %s: %s from %s to %s', kind.id, coalesce(kind.event, 'nothing'), kind.source, kind.target);
        END IF;
        SELECT o.id, w.name INTO kind FROM was AS o JOIN moved AS n USING (seq) JOIN @schema.runstate_worker_session AS w ON w.token = o.worker
            WHERE n.version = o.version AND n.worker <> 0 AND n.worker <> o.worker AND w.closed = 0 LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'runstate: a run is taken over only from a worker whose lease has been closed' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME,
                DETAIL = format('run %s is held by %s', kind.id, kind.name);
        END IF;
        INSERT INTO @schema.runstate_history (run, version, event, source, target, at_us, actor, detail)
            SELECT n.seq, n.version, n.event, n.source, n.status, n.changed_at_us, n.actor, n.detail FROM was AS o JOIN moved AS n USING (seq) WHERE n.version <> o.version;
        INSERT INTO @schema.runstate_count SELECT n.status, -count(*) FROM was AS o JOIN moved AS n USING (seq)
            WHERE n.version = o.version AND n.event IN ('confirm_cancel', 'complete', 'mark_incomplete', 'fail', 'expire') GROUP BY n.status;
    END IF;
    IF ends > 0 THEN
        IF hashint8(pg_current_xact_id()::text::bigint) & 255 = 0 THEN PERFORM @schema.runstate_sum_up(); END IF;
    END IF;
    -- The small tables. Most statements start runs for a worker, or end runs that a worker held.
    SELECT count(worker), max(attempt) INTO owned, most FROM was;
    is_simple := is_simple AND ends = owned;
    IF is_simple THEN
        IF ends > 0 THEN
            DELETE FROM @schema.runstate_held WHERE run = ANY (ARRAY(SELECT seq FROM was WHERE worker IS NOT NULL));
        END IF;
        IF starts THEN
            DELETE FROM @schema.runstate_claimable WHERE run = ANY (
                ARRAY(SELECT seq FROM moved WHERE event = 'start'));
            INSERT INTO @schema.runstate_held (run, worker, expires_at, attempt, status)
                SELECT seq, worker, expires_at, attempt, status FROM moved WHERE event = 'start';
        END IF;
    ELSE
        runs := ARRAY(SELECT seq FROM moved);
        DELETE FROM @schema.runstate_claimable WHERE run = ANY (runs);
        DELETE FROM @schema.runstate_held WHERE run = ANY (runs);
        DELETE FROM @schema.runstate_idle WHERE run = ANY (runs);
        INSERT INTO @schema.runstate_claimable (run, queue, priority, expires_at, attempt) SELECT seq, queue, priority, expires_at, attempt FROM moved WHERE status = 'queued' AND claimable_at_us IS NOT NULL;
        INSERT INTO @schema.runstate_held (run, worker, expires_at, attempt, status) SELECT seq, worker, expires_at, attempt, status FROM moved WHERE worker IS NOT NULL AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling');
        INSERT INTO @schema.runstate_idle (run, queue, priority, waits, thread_id, not_before_us, expires_at, status, attempt, retry_at_us) SELECT seq, queue, priority, status = 'queued', CASE WHEN status = 'queued' AND thread_policy = 'queue' THEN thread_id END, not_before_us, expires_at, status, attempt, CASE WHEN status = 'in_progress' AND worker IS NULL AND attempt > 0 THEN claimable_at_us END FROM moved WHERE status IN ('queued', 'in_progress', 'requires_action', 'cancelling') AND NOT (status = 'queued' AND claimable_at_us IS NOT NULL) AND NOT (worker IS NOT NULL AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling'));
        
    END IF;
    IF problem OR (ends > 0 AND most > 1) THEN
        INSERT INTO @schema.runstate_problem (run, status, ended_at_us, attempt) SELECT seq, status, changed_at_us, attempt FROM (SELECT n.* FROM was AS o JOIN moved AS n USING (seq) WHERE n.version <> o.version) AS ended WHERE status IN ('completed', 'incomplete', 'failed', 'cancelled', 'expired') AND (status <> 'completed' OR attempt > 1);
    END IF;
    IF alone THEN
        INSERT INTO @schema.runstate_thread (thread_id, run) SELECT n.thread_id, n.seq FROM was AS o JOIN moved AS n USING (seq)
            WHERE o.claimable_at_us IS NULL AND n.claimable_at_us IS NOT NULL AND n.thread_policy = 'queue';
        FOR kind IN SELECT thread_id, seq, changed_at_us FROM moved
            WHERE thread_policy IS NOT NULL AND event IN ('confirm_cancel', 'complete', 'mark_incomplete', 'fail', 'expire') ORDER BY thread_id
        LOOP
            PERFORM @schema.runstate_promote(kind.thread_id, kind.seq, kind.changed_at_us);
        END LOOP;
    END IF;
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_moved() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    DELETE FROM @schema.runstate_history WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_checkpoint WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_attempt WHERE run IN (SELECT seq FROM gone);
    DELETE FROM @schema.runstate_run_config WHERE id IN (SELECT id FROM gone);
    DELETE FROM @schema.runstate_problem WHERE run IN (SELECT seq FROM gone);
    INSERT INTO @schema.runstate_count SELECT status, -count(*) FROM gone GROUP BY status;
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_deleted() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_kept() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    IF EXISTS (SELECT 1 FROM erased JOIN @schema.runstate_run ON seq = run) THEN
        RAISE EXCEPTION 'runstate: %', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_kept() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_entered() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM @schema.runstate_run AS n WHERE n.seq = NEW.run AND n.version = NEW.version
        AND n.status = NEW.target AND n.event IS NOT DISTINCT FROM NEW.event
        AND n.source IS NOT DISTINCT FROM NEW.source AND n.changed_at_us = NEW.at_us
        AND n.actor IS NOT DISTINCT FROM NEW.actor AND n.detail::text IS NOT DISTINCT FROM NEW.detail::text) THEN
        RAISE EXCEPTION 'runstate: the history is written by the database alone, and never changed' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_entered() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_attempted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM @schema.runstate_run WHERE seq = NEW.run AND NEW.attempt BETWEEN 1 AND attempt) THEN
        RAISE EXCEPTION 'runstate: the attempts of a run are recorded once, and never changed' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_attempted() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_config() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    IF EXISTS (SELECT 1 FROM @schema.runstate_run WHERE id = CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END) THEN
        RAISE EXCEPTION 'runstate: what a run was created with never changes' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN coalesce(NEW, OLD);
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_config() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE FUNCTION @schema.runstate_leased() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$ BEGIN
    IF OLD.token = 0 OR EXISTS (SELECT 1 FROM @schema.runstate_held WHERE worker = OLD.token) THEN
        RAISE EXCEPTION 'runstate: a lease is kept while a run belongs to it' USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN OLD;
END $$
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
DO $make$ BEGIN EXECUTE replace(replace($function$
REVOKE EXECUTE ON FUNCTION @schema.runstate_leased() FROM PUBLIC
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
CREATE TRIGGER runstate_born AFTER INSERT ON runstate_run REFERENCING NEW TABLE AS born FOR EACH STATEMENT EXECUTE FUNCTION runstate_born();
---
CREATE TRIGGER runstate_moved AFTER UPDATE ON runstate_run REFERENCING OLD TABLE AS was NEW TABLE AS moved FOR EACH STATEMENT EXECUTE FUNCTION runstate_moved();
---
CREATE TRIGGER runstate_guard_identity AFTER UPDATE OF seq, id, thread_id, assistant_id, model, created_at, queue, priority, not_before_us, thread_policy, idempotency_key, repeats ON runstate_run FOR EACH ROW WHEN (NOT (NEW.seq IS NOT DISTINCT FROM OLD.seq AND NEW.id IS NOT DISTINCT FROM OLD.id AND NEW.thread_id IS NOT DISTINCT FROM OLD.thread_id AND NEW.assistant_id IS NOT DISTINCT FROM OLD.assistant_id AND NEW.model IS NOT DISTINCT FROM OLD.model AND NEW.created_at IS NOT DISTINCT FROM OLD.created_at AND NEW.queue IS NOT DISTINCT FROM OLD.queue AND NEW.priority IS NOT DISTINCT FROM OLD.priority AND NEW.not_before_us IS NOT DISTINCT FROM OLD.not_before_us AND NEW.thread_policy IS NOT DISTINCT FROM OLD.thread_policy AND NEW.idempotency_key IS NOT DISTINCT FROM OLD.idempotency_key AND NEW.repeats IS NOT DISTINCT FROM OLD.repeats)) EXECUTE FUNCTION runstate_refuse('what a run was created with never changes');
---
CREATE TRIGGER runstate_guard_live BEFORE DELETE ON runstate_run FOR EACH ROW WHEN (NOT OLD.status IN ('completed', 'incomplete', 'failed', 'cancelled', 'expired')) EXECUTE FUNCTION runstate_live('only a run that has ended may be deleted');
---
CREATE TRIGGER runstate_deleted AFTER DELETE ON runstate_run REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION runstate_deleted();
---
CREATE TRIGGER runstate_history_insert BEFORE INSERT ON runstate_history FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION runstate_refuse('the history is written by the database alone, and never changed');
---
DO $make$ BEGIN EXECUTE replace(replace($function$
CREATE TRIGGER runstate_history_entry BEFORE INSERT ON @schema.runstate_history FOR EACH ROW
    WHEN (current_user <> @owner) EXECUTE FUNCTION @schema.runstate_entered()
$function$, '@schema', quote_ident(current_schema())), '@owner', quote_literal(current_user)); END $make$;
---
CREATE TRIGGER runstate_history_update BEFORE UPDATE ON runstate_history FOR EACH ROW EXECUTE FUNCTION runstate_refuse('the history is written by the database alone, and never changed');
---
CREATE TRIGGER runstate_history_delete AFTER DELETE ON runstate_history REFERENCING OLD TABLE AS erased FOR EACH STATEMENT EXECUTE FUNCTION runstate_kept('the history is written by the database alone, and never changed');
---
CREATE TRIGGER runstate_attempt_insert BEFORE INSERT ON runstate_attempt FOR EACH ROW EXECUTE FUNCTION runstate_attempted();
---
CREATE TRIGGER runstate_attempt_update BEFORE UPDATE ON runstate_attempt FOR EACH ROW EXECUTE FUNCTION runstate_refuse('the attempts of a run are recorded once, and never changed');
---
CREATE TRIGGER runstate_attempt_delete AFTER DELETE ON runstate_attempt REFERENCING OLD TABLE AS erased FOR EACH STATEMENT EXECUTE FUNCTION runstate_kept('the attempts of a run are recorded once, and never changed');
---
CREATE TRIGGER runstate_config_insert BEFORE INSERT ON runstate_run_config FOR EACH ROW EXECUTE FUNCTION runstate_config();
---
CREATE TRIGGER runstate_config_delete BEFORE DELETE ON runstate_run_config FOR EACH ROW EXECUTE FUNCTION runstate_config();
---
CREATE TRIGGER runstate_config_update BEFORE UPDATE ON runstate_run_config FOR EACH ROW EXECUTE FUNCTION runstate_refuse('what a run was created with never changes');
---
CREATE TRIGGER runstate_closed BEFORE UPDATE ON runstate_worker_session FOR EACH ROW WHEN (NEW.token <> OLD.token OR NEW.closed < OLD.closed) EXECUTE FUNCTION runstate_refuse('a lease that was closed stays closed');
---
CREATE TRIGGER runstate_leased BEFORE DELETE ON runstate_worker_session FOR EACH ROW EXECUTE FUNCTION runstate_leased();
---
CREATE TRIGGER runstate_private_claimable BEFORE INSERT OR UPDATE OR DELETE ON runstate_claimable FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION runstate_refuse('the tables beside the runs are written by the database alone');
---
CREATE TRIGGER runstate_private_held BEFORE INSERT OR UPDATE OR DELETE ON runstate_held FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION runstate_refuse('the tables beside the runs are written by the database alone');
---
CREATE TRIGGER runstate_private_idle BEFORE INSERT OR UPDATE OR DELETE ON runstate_idle FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION runstate_refuse('the tables beside the runs are written by the database alone');
---
CREATE TRIGGER runstate_private_thread BEFORE INSERT OR UPDATE OR DELETE ON runstate_thread FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION runstate_refuse('the tables beside the runs are written by the database alone');
---
CREATE TRIGGER runstate_private_problem BEFORE INSERT OR UPDATE OR DELETE ON runstate_problem FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION runstate_refuse('the tables beside the runs are written by the database alone');
---
CREATE TRIGGER runstate_private_count BEFORE INSERT OR UPDATE OR DELETE ON runstate_count FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION runstate_refuse('the tables beside the runs are written by the database alone');
---
CREATE TRIGGER runstate_migration_write BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON runstate_migration FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('migrations are recorded by `runstate migrate` alone');
---
CREATE TRIGGER runstate_truncate_run BEFORE TRUNCATE ON runstate_run FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_history BEFORE TRUNCATE ON runstate_history FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_run_config BEFORE TRUNCATE ON runstate_run_config FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_checkpoint BEFORE TRUNCATE ON runstate_checkpoint FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_attempt BEFORE TRUNCATE ON runstate_attempt FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_worker_session BEFORE TRUNCATE ON runstate_worker_session FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_claimable BEFORE TRUNCATE ON runstate_claimable FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_held BEFORE TRUNCATE ON runstate_held FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_idle BEFORE TRUNCATE ON runstate_idle FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_thread BEFORE TRUNCATE ON runstate_thread FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_problem BEFORE TRUNCATE ON runstate_problem FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
---
CREATE TRIGGER runstate_truncate_count BEFORE TRUNCATE ON runstate_count FOR EACH STATEMENT EXECUTE FUNCTION runstate_refuse('runs are pruned when they have ended, and nothing is emptied');
