-- Gives a claim up without knowing what happened. $1 key, $2 owner, $3 successor.
--
-- Invariant: the record leaves its owner in the same step, so that a renewal under way finds nothing. At least once is open to the
-- next claim; any other promise is indeterminate.
UPDATE {table}
SET owner = $3, lease_until = now(), state = CASE promise WHEN 0 THEN 0 ELSE 2 END
WHERE key = $1 AND owner = $2 AND state IN (0, 2)
RETURNING 1
