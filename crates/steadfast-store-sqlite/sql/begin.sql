-- Claims the operation ?1, or leaves its record as it is: one atomic step, always one row, the record as it then stands.
--
-- It judges by itself and trusts nothing that was read before. excluded.since is the present moment.
-- A record with a live lease, an answer within its retention, or no known outcome is left alone;
-- a record that its asker owns is never anything but running.
INSERT INTO "{table}" AS place
    (key, fingerprint, promise, state, owner, execution, since, lease_until, expires_at)
SELECT ?1, ?2, ?3, 0, ?4, 1, now, now + ?5, now + ?6
FROM (SELECT {now} AS now)
WHERE true
ON CONFLICT (key) DO UPDATE SET
    (fingerprint, promise, state, owner, execution, since, lease_until, expires_at, format, response) = (
        SELECT
            iif(step = 'new life', excluded.fingerprint, place.fingerprint),
            iif(step = 'new life', excluded.promise, place.promise),
            CASE step WHEN 'new life' THEN 0 WHEN 'lapse' THEN 2 ELSE place.state END,
            iif(step IN ('new life', 'takeover'), excluded.owner, place.owner),
            CASE step
                WHEN 'new life' THEN 1
                WHEN 'takeover' THEN min(place.execution + 1, 4294967295)
                ELSE place.execution
            END,
            iif(step = 'new life', excluded.since, place.since),
            iif(step IN ('new life', 'takeover', 'own claim'), excluded.lease_until, place.lease_until),
            iif(step IN ('new life', 'takeover'), excluded.expires_at, place.expires_at),
            iif(step = 'new life', NULL, place.format),
            iif(step = 'new life', NULL, place.response)
        FROM (
            SELECT CASE
                WHEN place.state = 1 AND place.expires_at <= excluded.since THEN 'new life'
                WHEN place.state <> 0 OR place.lease_until > excluded.since THEN 'none'
                WHEN place.fingerprint = excluded.fingerprint AND place.owner = excluded.owner THEN 'own claim'
                WHEN place.promise = 0 AND place.expires_at <= excluded.since THEN 'new life'
                WHEN place.fingerprint <> excluded.fingerprint THEN 'none'
                WHEN place.promise = 0 THEN 'takeover'
                WHEN place.promise = 1 THEN 'lapse'
                ELSE 'none'
            END AS step
        )
    )
RETURNING fingerprint, promise, state, owner, execution, since, lease_until, expires_at, format, response, {now} AS now
