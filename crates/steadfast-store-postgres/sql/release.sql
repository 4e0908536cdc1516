-- Removes the owner's unfinished record: nothing happened. $1 key, $2 owner.
--
-- Invariant: a completed record and the record of another owner stay.
DELETE FROM {table}
WHERE key = $1 AND owner = $2 AND state IN (0, 2)
RETURNING 1
