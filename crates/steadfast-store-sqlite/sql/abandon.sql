-- Takes the unfinished record of ?1 from its owner ?2 and ends its lease. The new owner ?3 is nobody, which fences a renewal
-- under way. Only what was promised at least once (0) may run again.
UPDATE "{table}"
SET owner = ?3, lease_until = {now}, state = iif(promise = 0, 0, 2)
WHERE key = ?1 AND owner = ?2 AND state IN (0, 2)
