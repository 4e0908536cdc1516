-- Claims an operation, or says why not.
-- $1 key, $2 fingerprint, $3 owner, $4 promise, $5 lease, $6 retention.
--
-- Invariants: always exactly one row. A record that this request may not change is only read: no write, no transaction id. At most
-- one owner gets a given execution, since the conflict clause locks the latest committed version of the row, waits for an
-- uncommitted one, and judges again what the snapshot of the first read may have missed.
--
-- Expiry is judged in the select list and never in the search for the row: a predicate on it tempts a plan made from stale
-- statistics away from the primary key. OFFSET 0 keeps the two apart.
WITH standing AS MATERIALIZED (
    SELECT fingerprint, owner, promise, state, execution, lease_until, format, response
    FROM (
        SELECT
            fingerprint, owner, promise, state, execution, lease_until, format, response,
            CASE state
                WHEN 2 THEN true
                WHEN 1 THEN expires_at > now()
                ELSE lease_until > now() OR (fingerprint <> $2 AND NOT (promise = 0 AND expires_at <= now()))
            END AS stays
        FROM {table}
        WHERE key = $1
        OFFSET 0
    ) AS found
    WHERE stays
),
claimed AS (
    INSERT INTO {table} AS t (
        key, fingerprint, owner, promise, state, execution, created_at, lease_until, expires_at
    )
    SELECT $1, $2, $3, $4, 0, 1, now(), now() + $5, now() + $6
    WHERE NOT EXISTS (SELECT FROM standing)
    ON CONFLICT (key) DO UPDATE SET (
        fingerprint, owner, promise, state, execution, created_at, lease_until, expires_at, format, response
    ) = (
        SELECT
            CASE WHEN new_life THEN excluded.fingerprint ELSE t.fingerprint END,
            CASE WHEN new_life OR takeover THEN excluded.owner ELSE t.owner END,
            CASE WHEN new_life THEN excluded.promise ELSE t.promise END,
            CASE WHEN new_life THEN 0::smallint WHEN lapse THEN 2::smallint ELSE t.state END,
            CASE WHEN new_life THEN 1 WHEN takeover THEN least(t.execution, 2147483646) + 1 ELSE t.execution END,
            CASE WHEN new_life THEN excluded.created_at ELSE t.created_at END,
            CASE WHEN new_life OR takeover OR again THEN excluded.lease_until ELSE t.lease_until END,
            CASE WHEN new_life OR takeover THEN excluded.expires_at ELSE t.expires_at END,
            CASE WHEN NOT new_life THEN t.format END,
            CASE WHEN NOT new_life THEN t.response END
        FROM (
            SELECT
                again,
                NOT again AND expired AND (t.state = 1 OR (lost AND t.promise = 0)) AS new_life,
                NOT again AND NOT expired AND lost AND same AND t.promise = 0 AS takeover,
                NOT again AND lost AND same AND t.promise <> 0 AS lapse
            FROM (
                SELECT same, lost, expired, lost AND same AND t.owner = excluded.owner AS again
                FROM (
                    SELECT
                        t.fingerprint = excluded.fingerprint AS same,
                        t.state = 0 AND t.lease_until <= now() AS lost,
                        t.expires_at <= now() AS expired
                ) AS facts
            ) AS own
        ) AS step
    )
    RETURNING fingerprint, owner, promise, state, execution, lease_until, format, response
)
SELECT
    fingerprint,
    owner,
    promise,
    state,
    execution,
    lease_until - now() AS lease_left,
    CASE WHEN fingerprint = $2 THEN format END AS format,
    CASE WHEN fingerprint = $2 THEN response END AS response
FROM (SELECT * FROM standing UNION ALL SELECT * FROM claimed) AS answer
