-- The newest migration that was applied, or 0.
SELECT coalesce(max(version), 0) FROM "{table}_migrations"
