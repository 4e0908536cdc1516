-- Gives an operation its answer. $1 key, $2 owner, $3 format, $4 response.
--
-- Invariants: never makes a record. The first answer stays: sent again by the same owner, the row is found and keeps its response.
-- The state is judged per column and not in the search, since a search that waited for the first sending to commit would miss the row.
UPDATE {table}
SET
    state = 1,
    format = CASE state WHEN 1 THEN format ELSE $3 END,
    response = CASE state WHEN 1 THEN response ELSE $4 END
WHERE key = $1 AND owner = $2
RETURNING 1
