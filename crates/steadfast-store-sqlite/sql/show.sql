-- Reads the record of one operation without its answer.
SELECT fingerprint, promise, state, owner, execution, since, lease_until, expires_at, NULL AS format, NULL AS response, {now} AS now, key
FROM "{table}"
WHERE key = ?1
