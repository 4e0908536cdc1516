-- Gives the indeterminate operation ?1 its answer. Compares the lost owner ?2, so that a decision about an earlier life changes
-- nothing, and replaces it by ?3 in the same step, so that it is fenced.
UPDATE "{table}"
SET state = 1, owner = ?3, expires_at = {now} + ?4, format = ?5, response = ?6
WHERE key = ?1 AND owner = ?2 AND (state = 2 OR (state = 0 AND promise = 1 AND lease_until <= {now}))
