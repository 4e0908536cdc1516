//! Rows as the port's values.

use std::time::Duration;

use sqlx::{
    Decode, Postgres, Row, Type, postgres::PgRow, postgres::types::PgInterval, types::Uuid,
};
use steadfast_core::idempotency::{
    Claim, Claimant, Execution, Fingerprint, KeyDigest, OwnerId, Promise, Terms,
};
use steadfast_store::{Begin, Reaped, RecordSummary, Stage, Standing, StoreError, StoredResponse};

use crate::{
    error::{UnreadableRecord, classify},
    interval::duration,
};

/// The column `state`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Completed,
    Indeterminate,
}

pub(crate) fn begin(row: &PgRow, key: &KeyDigest, terms: &Terms) -> Result<Begin, StoreError> {
    let fingerprint = fingerprint(row)?;
    if fingerprint != terms.fingerprint {
        return Ok(Begin::Conflict { fingerprint });
    }
    Ok(match state(row)? {
        State::Completed => Begin::Completed {
            response: response(row)?,
        },
        State::Indeterminate => Begin::Indeterminate,
        State::Running if owner(row)? == terms.owner => {
            let claimant = Claimant {
                key: *key,
                owner: terms.owner,
            };
            Begin::Claimed(Claim::granted(claimant, execution(row)?, promise(row)?))
        }
        State::Running => Begin::Running {
            lease_left: time(row, "lease_left")?,
        },
    })
}

pub(crate) fn standing(row: &PgRow) -> Result<Standing, StoreError> {
    if get::<Option<i16>>(row, "state")?.is_none() {
        return Ok(Standing::Absent);
    }
    let lease_left = time(row, "lease_left")?;
    let retained = get::<bool>(row, "retained")?;
    Ok(match stage(row, lease_left.is_zero())? {
        Stage::Indeterminate => Standing::Indeterminate {
            fingerprint: fingerprint(row)?,
        },
        Stage::Completed if retained => Standing::Completed {
            fingerprint: fingerprint(row)?,
            response: response(row)?,
        },
        Stage::Completed => Standing::Absent,
        Stage::Running | _ if !lease_left.is_zero() => Standing::Running { lease_left },
        Stage::Running | _ if retained => Standing::Lapsed,
        Stage::Running | _ => Standing::Absent,
    })
}

pub(crate) fn summary(row: &PgRow) -> Result<RecordSummary, StoreError> {
    let key = KeyDigest::from_bytes(get(row, "key")?);
    // The lease is over at the very moment it ends, when the time since is still zero.
    let lapsed = get::<PgInterval>(row, "lapsed_for")?;
    let lease_is_over = lapsed.days >= 0 && lapsed.microseconds >= 0;
    let stage = stage(row, lease_is_over)?;
    Ok(
        RecordSummary::new(key, owner(row)?, execution(row)?, promise(row)?, stage)
            .with_times(time(row, "age")?, duration(lapsed)),
    )
}

pub(crate) fn reaped(row: &PgRow) -> Result<Reaped, StoreError> {
    let count = |column| Ok(u64::try_from(get::<i64>(row, column)?).unwrap_or(0));
    Ok(Reaped {
        deleted: count("deleted")?,
        lapsed: count("lapsed")?,
    })
}

/// A statement that always answers with a row did not.
pub(crate) fn missing() -> StoreError {
    classify(sqlx::Error::RowNotFound)
}

fn stage(row: &PgRow, lease_is_over: bool) -> Result<Stage, StoreError> {
    Ok(match state(row)? {
        State::Completed => Stage::Completed,
        State::Indeterminate => Stage::Indeterminate,
        State::Running if lease_is_over && promise(row)? != Promise::AtLeastOnce => {
            Stage::Indeterminate
        }
        State::Running => Stage::Running,
    })
}

fn state(row: &PgRow) -> Result<State, StoreError> {
    match get::<i16>(row, "state")? {
        0 => Ok(State::Running),
        1 => Ok(State::Completed),
        2 => Ok(State::Indeterminate),
        _ => Err(unreadable("state")),
    }
}

fn promise(row: &PgRow) -> Result<Promise, StoreError> {
    let code = u8::try_from(get::<i16>(row, "promise")?).map_err(|_| unreadable("promise"))?;
    Promise::from_code(code).map_err(StoreError::misconfigured)
}

fn fingerprint(row: &PgRow) -> Result<Fingerprint, StoreError> {
    Fingerprint::from_bytes(&get::<Vec<u8>>(row, "fingerprint")?)
        .ok_or_else(|| unreadable("fingerprint"))
}

fn owner(row: &PgRow) -> Result<OwnerId, StoreError> {
    let owner: Uuid = get(row, "owner")?;
    Ok(OwnerId::from_bytes(owner.into_bytes()))
}

fn execution(row: &PgRow) -> Result<Execution, StoreError> {
    u32::try_from(get::<i32>(row, "execution")?)
        .ok()
        .and_then(Execution::new)
        .ok_or_else(|| unreadable("execution"))
}

fn response(row: &PgRow) -> Result<StoredResponse, StoreError> {
    let format =
        u16::try_from(get::<i32>(row, "format")?).map_err(|_| unreadable("response format"))?;
    Ok(StoredResponse::new(
        format,
        get::<Vec<u8>>(row, "response")?,
    ))
}

fn time(row: &PgRow, column: &str) -> Result<Duration, StoreError> {
    get(row, column).map(duration)
}

fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    column: &str,
) -> Result<T, StoreError> {
    row.try_get(column).map_err(classify)
}

fn unreadable(what: &'static str) -> StoreError {
    StoreError::misconfigured(UnreadableRecord(what))
}
