//! The idempotency records of a running program, changed behind its back.

use std::path::Path;

use sqlx::{Connection, PgConnection, SqliteConnection};

/// Ends every lease in the program's default SQLite file, as time does.
pub(crate) async fn end_leases(folder: &Path) {
    in_file(folder, "UPDATE steadfast_idempotency SET lease_until = 0").await;
}

/// Ends every lease in Postgres, as time does.
pub(crate) async fn end_leases_in_postgres(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query("UPDATE steadfast_idempotency SET lease_until = now()")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

/// Makes every record in the default file what a process leaves that is killed before it stores its answer, with the lease over.
pub(crate) async fn lose_answers(folder: &Path) {
    in_file(
        folder,
        "UPDATE steadfast_idempotency SET state = 0, format = NULL, response = NULL, lease_until = 0",
    )
    .await;
}

/// Removes every record in the default file, as its retention does.
pub(crate) async fn end_retention(folder: &Path) {
    in_file(folder, "DELETE FROM steadfast_idempotency").await;
}

async fn in_file(folder: &Path, statement: &'static str) {
    let url = format!("sqlite:{}", folder.join("payments.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let done = sqlx::query(statement)
        .execute(&mut connection)
        .await
        .unwrap();
    assert!(done.rows_affected() > 0, "there was no record");
    connection.close().await.unwrap();
}
