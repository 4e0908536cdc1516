use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    time::Duration,
};

use http::Extensions;
use tokio::time::Instant;

/// When the caller stops waiting, in a request's extensions.
///
/// The earlier of two is the smaller, `deadline.min(other)`, and two of one moment are equal.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    moment: Instant,
    limit: Option<Duration>,
}

impl Deadline {
    /// The caller stops waiting at this moment of tokio's clock.
    #[must_use]
    pub const fn at(moment: Instant) -> Self {
        Self {
            moment,
            limit: None,
        }
    }

    /// It is the end of a time limit of this length, which was chosen for the destination: one that does not answer within it is too
    /// slow, while nobody may be able to answer within what is left to a caller.
    #[must_use]
    pub const fn with_limit(self, length: Duration) -> Self {
        Self {
            limit: Some(length),
            ..self
        }
    }

    /// The deadline in these extensions, if they have one.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    /// The moment.
    #[must_use]
    pub const fn moment(self) -> Instant {
        self.moment
    }

    /// The length of the time limit that ends then, if it is one.
    #[must_use]
    pub const fn limit(self) -> Option<Duration> {
        self.limit
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.moment.saturating_duration_since(now)
    }
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.moment == other.moment
    }
}

impl Eq for Deadline {}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        self.moment.cmp(&other.moment)
    }
}

impl Hash for Deadline {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.moment.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_never_goes_below_zero() {
        let now = Instant::now();
        let deadline = Deadline::at(now + Duration::from_secs(2));

        assert_eq!(deadline.remaining(now), Duration::from_secs(2));
        assert_eq!(
            deadline.remaining(now + Duration::from_secs(3)),
            Duration::ZERO
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_moment_alone_orders_deadlines() {
        let now = Instant::now();
        let later = now + Duration::from_millis(1);
        let length = Duration::from_secs(1);

        assert!(Deadline::at(now).with_limit(length) < Deadline::at(later));
        assert!(Deadline::at(now) < Deadline::at(later).with_limit(length));
        assert_eq!(Deadline::at(now).with_limit(length), Deadline::at(now));
        let first = Deadline::at(now).with_limit(length);
        assert_eq!(first.min(Deadline::at(now)).limit(), Some(length));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_travels_in_extensions_and_the_earlier_is_the_smaller() {
        let now = Instant::now();
        let deadline = Deadline::at(now + Duration::from_secs(2));
        let mut extensions = Extensions::new();
        assert_eq!(Deadline::of(&extensions), None);

        extensions.insert(deadline);

        assert_eq!(Deadline::of(&extensions), Some(deadline));
        let earlier = Deadline::at(now + Duration::from_secs(1));
        assert_eq!(deadline.min(earlier), earlier);
    }
}
