-- Gives the operation ?1 its answer if ?2 owns its record. Never makes a row, and never changes an answer that stands.
UPDATE "{table}"
SET state = 1,
    format = iif(state = 1, format, ?3),
    response = iif(state = 1, response, ?4)
WHERE key = ?1 AND owner = ?2
