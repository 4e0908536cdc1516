-- Removes up to ?1 records that no request needs any more; never a live lease. An indeterminate one stays for ?2 from the end
-- of its lease. One statement: what it chooses it removes, under one write lock.
DELETE FROM "{table}" WHERE key IN (
    SELECT key
    FROM "{table}"
    WHERE expires_at <= {now} AND (
        state = 1
        OR (state = 0 AND promise = 0 AND lease_until <= {now})
        OR (state = 2 AND lease_until + ?2 <= {now})
    )
    ORDER BY expires_at
    LIMIT ?1
)
