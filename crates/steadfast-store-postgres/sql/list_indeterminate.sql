-- The operations that wait for a decision, longest lapsed first. $1 limit.
--
-- Invariant: a lost owner's record counts although nobody has asked for it since. Reads the whole table, about 0.4 s per million
-- records in cache: an index on what it asks for would make every renewal rewrite its indexes.
SELECT key, owner, execution, promise, state, now() - created_at AS age, now() - lease_until AS lapsed_for
FROM {table}
WHERE state = 2 OR (state = 0 AND promise <> 0 AND lease_until <= now())
ORDER BY lease_until, key
LIMIT $1
