-- The migrations that were applied to this table: our own book, so that no other migrator's is touched.
CREATE TABLE IF NOT EXISTS "{table}_migrations" (
    version    INTEGER NOT NULL PRIMARY KEY,
    applied_at INTEGER NOT NULL
) STRICT
