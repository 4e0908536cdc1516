-- The book of applied migrations. Invariant: a version stands here if and only if its migration is committed.
CREATE TABLE {book} (
    version    integer     PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
