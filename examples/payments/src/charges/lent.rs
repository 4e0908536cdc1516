use std::ops::{Deref, DerefMut};

use sqlx::{Database, Pool, pool::PoolConnection};

/// A connection of the pool that goes back only by [`give_back`](Self::give_back).
///
/// Dropped before, by a failure or a time limit, it is closed: the pool would otherwise wait for the answer of its last statement,
/// for as long as a dead network keeps it, with the connection's place taken.
pub(super) struct Lent<DB: Database>(Option<PoolConnection<DB>>);

impl<DB: Database> Lent<DB> {
    pub(super) async fn of(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl<DB: Database> Drop for Lent<DB> {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

const HELD: &str = "it holds its connection until it is given back";

impl<DB: Database> Deref for Lent<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.0.as_ref().expect(HELD)
    }
}

impl<DB: Database> DerefMut for Lent<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.0.as_mut().expect(HELD)
    }
}
