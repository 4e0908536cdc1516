use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;

/// When the caller stops waiting, in a request's extensions.
///
/// The earlier of two is the smaller: `deadline.min(other)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// The caller stops waiting at this moment of tokio's clock.
    #[must_use]
    pub const fn at(moment: Instant) -> Self {
        Self(moment)
    }

    /// The deadline in these extensions, if they have one.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    /// The moment.
    #[must_use]
    pub const fn moment(self) -> Instant {
        self.0
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
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
