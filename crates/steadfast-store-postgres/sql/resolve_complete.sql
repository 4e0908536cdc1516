-- Gives an indeterminate operation its answer. $1 key, $2 lost owner, $3 resolver, $4 format, $5 response, $6 retention.
--
-- Invariant: the incident's owner is compared and replaced in the same step, so that the lost owner is fenced and a decision about
-- an earlier life changes nothing.
UPDATE {table}
SET state = 1, owner = $3, format = $4, response = $5, expires_at = now() + $6
WHERE
    key = $1 AND owner = $2
    AND (state = 2 OR (state = 0 AND promise <> 0 AND lease_until <= now()))
RETURNING 1
