-- How operations stand. $1 keys.
--
-- Invariants: one row for each key asked, in the order asked, also for a key asked twice. Changes nothing. A response is read only
-- where it may be replayed.
SELECT
    t.state,
    t.promise,
    t.fingerprint,
    t.lease_until - now() AS lease_left,
    t.expires_at > now() AS retained,
    CASE WHEN t.expires_at > now() THEN t.format END AS format,
    CASE WHEN t.expires_at > now() THEN t.response END AS response
FROM unnest($1::bytea[]) WITH ORDINALITY AS asked (key, place)
LEFT JOIN {table} AS t ON t.key = asked.key
ORDER BY asked.place
