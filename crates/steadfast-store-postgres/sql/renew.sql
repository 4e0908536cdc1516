-- Gives a lease its length again. $1 key, $2 owner, $3 lease.
--
-- Invariant: only the owner's own unfinished record is renewed, and one that was indeterminate runs again. One row says that it was.
UPDATE {table}
SET state = 0, lease_until = now() + $3
WHERE key = $1 AND owner = $2 AND state IN (0, 2)
RETURNING 1
