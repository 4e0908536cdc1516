use std::{error::Error, fmt};

type BoxError = Box<dyn Error + Send + Sync>;

/// A store could not say whether a transition took place, or would not let it.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    not_sent: bool,
    source: BoxError,
}

/// What a caller can do about a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Asking again will not help until somebody mends the store's set-up: a missing table, a wrong password, a record of a
    /// newer version.
    Misconfigured,
    /// The store understood and would not: it is full, or the value is too large for it. Nothing was changed.
    Refused,
    /// The store could not be reached or did not answer in time. Asking again may help.
    Unavailable,
}

impl StoreError {
    /// The store's set-up must be mended.
    pub fn misconfigured(source: impl Into<BoxError>) -> Self {
        Self::new(StoreErrorKind::Misconfigured, source)
    }

    /// The store would not; nothing was changed.
    pub fn refused(source: impl Into<BoxError>) -> Self {
        Self {
            not_sent: true,
            ..Self::new(StoreErrorKind::Refused, source)
        }
    }

    /// The store could not be reached or did not answer in time. The transition may have taken place.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::new(StoreErrorKind::Unavailable, source)
    }

    fn new(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            not_sent: false,
            source: source.into(),
        }
    }

    /// States that nothing reached the store, so that the transition cannot have taken place.
    #[must_use]
    pub fn with_nothing_sent(self) -> Self {
        Self {
            not_sent: true,
            ..self
        }
    }

    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the transition may have taken place although no answer says so.
    #[must_use]
    pub const fn may_have_applied(&self) -> bool {
        !self.not_sent
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Misconfigured => "the store is not set up for this",
            StoreErrorKind::Refused => "the store refused",
            StoreErrorKind::Unavailable => "the store did not answer",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_chain_reaches_the_drivers_error_and_display_does_not_repeat_it() {
        let error = StoreError::unavailable(io::Error::other("connection reset by peer"));

        let source = error.source().unwrap();
        assert!(source.downcast_ref::<io::Error>().is_some());
        assert!(!error.to_string().contains("reset"));
    }

    #[test]
    fn only_what_was_sent_may_have_applied() {
        assert!(StoreError::unavailable("timed out").may_have_applied());
        assert!(
            !StoreError::unavailable("refused")
                .with_nothing_sent()
                .may_have_applied()
        );
        assert!(!StoreError::refused("full").may_have_applied());
    }
}
