-- The records of operations.
--
-- Invariants: one row per key. A row is completed if and only if it has a response. The names of state are 0 running, 1 completed,
-- 2 indeterminate; those of promise are 0 at least once, 1 at most once.
--
-- No index covers a column that completing or renewing a record changes, so that those updates stay heap-only. Autovacuum starts
-- early and does not pause: each operation leaves two dead rows behind.
CREATE TABLE {table} (
    created_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    execution   integer     NOT NULL,
    promise     smallint    NOT NULL,
    state       smallint    NOT NULL,
    format      integer,
    owner       uuid        NOT NULL,
    key         bytea       PRIMARY KEY CHECK (octet_length(key) = 32),
    fingerprint bytea       NOT NULL,
    response    bytea,
    CHECK (CASE WHEN state = 1 THEN format IS NOT NULL AND response IS NOT NULL ELSE format IS NULL AND response IS NULL END)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- For the reaper. Only a takeover, a new life and a resolution change the column.
CREATE INDEX {expiry_index} ON {table} (expires_at);
