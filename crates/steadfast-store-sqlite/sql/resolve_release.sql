-- Removes the indeterminate record of ?1 if ?2 is the owner it lost.
DELETE FROM "{table}"
WHERE key = ?1 AND owner = ?2 AND (state = 2 OR (state = 0 AND promise = 1 AND lease_until <= {now}))
