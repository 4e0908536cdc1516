-- Turns up to ?1 records past their retention indeterminate, whose owners are lost and which were promised at most once (1).
UPDATE "{table}" SET state = 2 WHERE key IN (
    SELECT key
    FROM "{table}"
    WHERE state <> 1 AND state = 0 AND promise = 1 AND lease_until <= {now} AND expires_at <= {now}
    ORDER BY lease_until
    LIMIT ?1
)
