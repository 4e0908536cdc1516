-- Decides that an indeterminate operation had no effect. $1 key, $2 lost owner.
--
-- Invariant: as in resolve_complete.sql; the next claim is a new life.
DELETE FROM {table}
WHERE
    key = $1 AND owner = $2
    AND (state = 2 OR (state = 0 AND promise <> 0 AND lease_until <= now()))
RETURNING 1
