-- Removes the record of ?1 if ?2 owns it and it is unfinished: nothing happened.
DELETE FROM "{table}"
WHERE key = ?1 AND owner = ?2 AND state IN (0, 2)
