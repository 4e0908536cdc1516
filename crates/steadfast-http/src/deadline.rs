use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;

/// When the caller stops waiting, in a request's extensions.
///
/// The earlier of two is the smaller: `deadline.min(other)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline {
    // First, as it is compared first.
    moment: Instant,
    /// Whether somebody chose the whole time for the destination.
    is_limit: bool,
}

impl Deadline {
    /// The caller stops waiting at this moment of tokio's clock.
    #[must_use]
    pub const fn at(moment: Instant) -> Self {
        Self {
            moment,
            is_limit: false,
        }
    }

    /// The time limit of one attempt ends at this moment of tokio's clock. Its length was chosen for the destination: one that does
    /// not answer within it is too slow, while nobody may be able to answer within what is left to a caller.
    #[must_use]
    pub const fn limit(moment: Instant) -> Self {
        Self {
            moment,
            is_limit: true,
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

    /// Whether it is the [limit](Self::limit) of an attempt, rather than the end of its caller's time.
    #[must_use]
    pub const fn is_limit(self) -> bool {
        self.is_limit
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.moment.saturating_duration_since(now)
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
    async fn the_earlier_is_the_smaller_whichever_is_a_limit() {
        let now = Instant::now();
        let later = now + Duration::from_millis(1);

        assert!(Deadline::limit(now) < Deadline::at(later));
        assert!(Deadline::at(now) < Deadline::limit(later));
        assert!(!Deadline::at(now).min(Deadline::limit(now)).is_limit());
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
