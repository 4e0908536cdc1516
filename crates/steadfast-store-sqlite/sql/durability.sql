-- What decides whether an acknowledged commit can be lost: the file (empty for a database in memory), and two settings.
SELECT
    (SELECT file FROM pragma_database_list WHERE name = 'main'),
    (SELECT journal_mode FROM pragma_journal_mode),
    (SELECT synchronous FROM pragma_synchronous)
