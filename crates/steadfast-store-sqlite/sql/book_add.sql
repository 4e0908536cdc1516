-- Notes that the migration ?1 was applied, in the transaction that applied it.
INSERT INTO "{table}_migrations" (version, applied_at) VALUES (?1, {now})
