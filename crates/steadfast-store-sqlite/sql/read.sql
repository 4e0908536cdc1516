-- Reads the record of one operation and the moment it was read at. Takes no write lock: a replay is answered from here.
SELECT fingerprint, promise, state, owner, execution, since, lease_until, expires_at, format, response, {now} AS now
FROM "{table}"
WHERE key = ?1
