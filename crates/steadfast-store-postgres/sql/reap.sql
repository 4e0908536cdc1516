-- Removes what no request needs any more. $1 limit, $2 retention of indeterminate records.
--
-- Invariants: never a live lease, never before a record's own retention is over. A row that another transition holds is skipped, and
-- a row that changed since it was read is judged again under the lock, so that a record taken over is not reaped. Any number of
-- reapers may run: none waits for another.
--
-- Cost: each call reads the indeterminate records past their own retention that it must keep, since they stand first in the index,
-- about a microsecond each in cache. An index that leaves them out would name state, and no completion would stay heap-only.
WITH due AS MATERIALIZED (
    SELECT key, state = 0 AND promise <> 0 AS lapses
    FROM {table}
    WHERE
        expires_at <= now()
        AND CASE state
            WHEN 1 THEN true
            WHEN 2 THEN lease_until + $2 <= now()
            ELSE lease_until <= now()
        END
    ORDER BY expires_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
),
deleted AS (
    DELETE FROM {table} AS t USING due WHERE t.key = due.key AND NOT due.lapses RETURNING 1
),
lapsed AS (
    UPDATE {table} AS t SET state = 2 FROM due WHERE t.key = due.key AND due.lapses RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) AS deleted, (SELECT count(*) FROM lapsed) AS lapsed
