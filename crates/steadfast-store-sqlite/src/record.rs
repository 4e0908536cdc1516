use std::time::Duration;

use sqlx::{Row, sqlite::SqliteRow};
use steadfast_core::idempotency::{
    Claim, Claimant, Execution, Fingerprint, KeyDigest, OwnerId, Promise,
};
use steadfast_store::{Begin, RecordSummary, Stage, Standing, StoreError, StoredResponse};

use crate::error::classified;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Completed,
    Indeterminate,
}

/// A row, and the moment it was read at. Times are microseconds since 1970.
pub(crate) struct Record {
    fingerprint: Fingerprint,
    promise: Promise,
    state: State,
    owner: OwnerId,
    execution: Execution,
    since: i64,
    lease_until: i64,
    expires_at: i64,
    response: Option<StoredResponse>,
    now: i64,
}

fn unreadable(column: &str) -> StoreError {
    StoreError::misconfigured(format!(
        "the record's {column} was not written by this version"
    ))
}

/// Reads the key column.
pub(crate) fn key(row: &SqliteRow) -> Result<KeyDigest, StoreError> {
    let bytes: &[u8] = row.try_get("key").map_err(classified)?;
    let bytes = bytes.try_into().map_err(|_| unreadable("key"))?;
    Ok(KeyDigest::from_bytes(bytes))
}

fn elapsed(from: i64, to: i64) -> Duration {
    Duration::from_micros(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

impl Record {
    pub(crate) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let integer = |column: &str| row.try_get::<i64, _>(column).map_err(classified);
        let fingerprint: &[u8] = row.try_get("fingerprint").map_err(classified)?;
        let promise = u8::try_from(integer("promise")?).map_err(|_| unreadable("promise"))?;
        let owner: &[u8] = row.try_get("owner").map_err(classified)?;
        Ok(Self {
            fingerprint: Fingerprint::from_bytes(fingerprint)
                .ok_or_else(|| unreadable("fingerprint"))?,
            promise: Promise::from_code(promise).map_err(StoreError::misconfigured)?,
            state: match integer("state")? {
                0 => State::Running,
                1 => State::Completed,
                2 => State::Indeterminate,
                _ => return Err(unreadable("state")),
            },
            owner: OwnerId::from_bytes(owner.try_into().map_err(|_| unreadable("owner"))?),
            execution: u32::try_from(integer("execution")?)
                .ok()
                .and_then(Execution::new)
                .ok_or_else(|| unreadable("execution"))?,
            since: integer("since")?,
            lease_until: integer("lease_until")?,
            expires_at: integer("expires_at")?,
            response: response(row)?,
            now: integer("now")?,
        })
    }

    fn lease_is_over(&self) -> bool {
        self.lease_until <= self.now
    }

    fn has_expired(&self) -> bool {
        self.expires_at <= self.now
    }

    fn lease_left(&self) -> Duration {
        elapsed(self.now, self.lease_until)
    }

    /// Whether a claim would change nothing, so that no write is needed to answer it.
    pub(crate) fn is_settled(&self) -> bool {
        match self.state {
            State::Running => !self.lease_is_over(),
            State::Completed => !self.has_expired(),
            State::Indeterminate => true,
        }
    }

    /// What a claim by `owner` is told of this record, which is settled or was just judged by `begin.sql`.
    pub(crate) fn begin(
        self,
        key: KeyDigest,
        owner: OwnerId,
        fingerprint: Fingerprint,
    ) -> Result<Begin, StoreError> {
        if self.fingerprint != fingerprint {
            return Ok(Begin::Conflict {
                fingerprint: self.fingerprint,
            });
        }
        Ok(match self.state {
            State::Completed => Begin::Completed {
                response: self.response.ok_or_else(|| unreadable("response"))?,
            },
            State::Indeterminate => Begin::Indeterminate,
            State::Running if self.owner == owner => Begin::Claimed(Claim::granted(
                Claimant { key, owner },
                self.execution,
                self.promise,
            )),
            State::Running => Begin::Running {
                lease_left: self.lease_left(),
            },
        })
    }

    fn stage(&self) -> Stage {
        match self.state {
            State::Completed => Stage::Completed,
            State::Indeterminate => Stage::Indeterminate,
            State::Running if self.promise == Promise::AtMostOnce && self.lease_is_over() => {
                Stage::Indeterminate
            }
            State::Running => Stage::Running,
        }
    }

    pub(crate) fn standing(self) -> Result<Standing, StoreError> {
        let fingerprint = self.fingerprint;
        if self.stage() == Stage::Indeterminate {
            return Ok(Standing::Indeterminate { fingerprint });
        }
        Ok(match self.state {
            State::Completed if !self.has_expired() => Standing::Completed {
                fingerprint,
                response: self.response.ok_or_else(|| unreadable("response"))?,
            },
            State::Running if !self.lease_is_over() => Standing::Running {
                lease_left: self.lease_left(),
            },
            State::Running if !self.has_expired() => Standing::Lapsed,
            State::Completed | State::Indeterminate | State::Running => Standing::Absent,
        })
    }

    pub(crate) fn summary(&self, key: KeyDigest) -> RecordSummary {
        RecordSummary::new(key, self.owner, self.execution, self.promise, self.stage()).with_times(
            elapsed(self.since, self.now),
            elapsed(self.lease_until, self.now),
        )
    }
}

fn response(row: &SqliteRow) -> Result<Option<StoredResponse>, StoreError> {
    let format: Option<i64> = row.try_get("format").map_err(classified)?;
    let bytes: Option<Vec<u8>> = row.try_get("response").map_err(classified)?;
    match (format, bytes) {
        (Some(format), Some(bytes)) => {
            let format = u16::try_from(format).map_err(|_| unreadable("format"))?;
            Ok(Some(StoredResponse::new(format, bytes)))
        }
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(unreadable("response")),
    }
}
