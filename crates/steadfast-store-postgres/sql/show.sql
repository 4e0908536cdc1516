-- One record without its response. $1 key.
--
-- Invariant: changes nothing, and reads neither fingerprint nor response.
SELECT key, owner, execution, promise, state, now() - created_at AS age, now() - lease_until AS lapsed_for
FROM {table}
WHERE key = $1
