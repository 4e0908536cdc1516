-- Gives the lease of ?1 its length again if ?2 owns the unfinished record. An indeterminate record runs again.
UPDATE "{table}"
SET state = 0, lease_until = {now} + ?3
WHERE key = ?1 AND owner = ?2 AND state IN (0, 2)
