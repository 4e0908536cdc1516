-- One row per operation. Times are microseconds since 1970 on SQLite's own clock.
--
-- state: 0 running, 1 completed, 2 indeterminate. A row has an answer exactly when it is completed.
-- promise: the code of the promise, frozen by the first claim of the row's life.
-- A running row whose lease_until has passed has lost its owner; expires_at says how long the row answers replays.
-- An ordinary rowid table: answers are large, and WITHOUT ROWID would keep them in the key's tree.
CREATE TABLE "{table}" (
    key         BLOB    NOT NULL PRIMARY KEY CHECK (length(key) = 32),
    fingerprint BLOB    NOT NULL CHECK (length(fingerprint) = 33),
    promise     INTEGER NOT NULL,
    state       INTEGER NOT NULL CHECK (state IN (0, 1, 2)),
    owner       BLOB    NOT NULL CHECK (length(owner) = 16),
    execution   INTEGER NOT NULL CHECK (execution >= 1),
    since       INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    format      INTEGER,
    response    BLOB,
    CHECK ((state = 1) = (response IS NOT NULL)),
    CHECK ((format IS NULL) = (response IS NULL))
) STRICT;

-- For the reaper.
CREATE INDEX "{table}_expires_at" ON "{table}" (expires_at);

-- For the list of indeterminate operations; it holds unfinished rows only, so it stays small.
CREATE INDEX "{table}_unfinished" ON "{table}" (lease_until) WHERE state <> 1;
