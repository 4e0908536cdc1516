-- Reads the records of many operations in one step. ?1 holds their keys end to end, so that the text is the same for any
-- number of them; position counts from 0, and a key may stand there twice.
WITH RECURSIVE asked (position, key) AS (
    SELECT 0, substr(?1, 1, 32) WHERE length(?1) >= 32
    UNION ALL
    SELECT position + 1, substr(?1, (position + 1) * 32 + 1, 32) FROM asked WHERE (position + 2) * 32 <= length(?1)
)
SELECT fingerprint, promise, state, owner, execution, since, lease_until, expires_at, format, response, {now} AS now, position
FROM asked JOIN "{table}" AS place ON place.key = asked.key
