use std::time::Duration;

use sqlx::postgres::types::PgInterval;

/// A hundred thousand years: as far as a moment may be moved twice before Postgres' calendar ends, in the year 294276.
const LONGEST_MICROS: i64 = 100_000 * 365 * DAY_MICROS;

const DAY_MICROS: i64 = 86_400_000_000;

/// The duration in whole microseconds, rounded up. A longer one than [`LONGEST_MICROS`] is as good as that.
pub(crate) fn interval(duration: Duration) -> PgInterval {
    let micros = duration.as_nanos().div_ceil(1_000);
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(micros)
            .map_or(LONGEST_MICROS, |micros| micros.min(LONGEST_MICROS)),
    }
}

/// The difference of two moments as Postgres tells it, in days and microseconds; zero if it is negative.
pub(crate) fn duration(interval: PgInterval) -> Duration {
    let micros = i64::from(interval.days) * DAY_MICROS + interval.microseconds;
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_microsecond_is_rounded_up() {
        assert_eq!(interval(Duration::from_nanos(1)).microseconds, 1);
        assert_eq!(interval(Duration::from_nanos(1_000)).microseconds, 1);
        assert_eq!(interval(Duration::from_nanos(1_001)).microseconds, 2);
    }

    #[test]
    fn the_longest_duration_saturates() {
        assert_eq!(interval(Duration::MAX).microseconds, LONGEST_MICROS);
    }

    #[test]
    fn days_count_and_the_past_is_zero() {
        let days = |days, microseconds| PgInterval {
            months: 0,
            days,
            microseconds,
        };

        assert_eq!(
            duration(days(2, 5)),
            Duration::from_micros(2 * 86_400_000_000 + 5)
        );
        assert_eq!(duration(days(0, -1)), Duration::ZERO);
        assert_eq!(duration(days(-1, 5)), Duration::ZERO);
    }
}
