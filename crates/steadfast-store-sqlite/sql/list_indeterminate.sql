-- Lists what nobody may run again until it is resolved, longest lapsed first: also what was promised at most once (1), has
-- lost its owner, and was not asked for since. "state <> 1" makes the index of unfinished rows serve.
SELECT fingerprint, promise, state, owner, execution, since, lease_until, expires_at, NULL AS format, NULL AS response, {now} AS now, key
FROM "{table}"
WHERE state <> 1 AND (state = 2 OR (promise = 1 AND lease_until <= {now}))
ORDER BY lease_until
LIMIT ?1
