use std::fmt;

/// What is promised of an operation whose owner is lost. Frozen in its record by the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Promise {
    /// The handler runs until one execution stores an outcome: the next request takes over from a lost owner.
    AtLeastOnce,
    /// The handler is started at most once: after a lost owner the operation is indeterminate until it is resolved.
    AtMostOnce,
}

impl Promise {
    /// The number that stands for it in a store.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::AtLeastOnce => 0,
            Self::AtMostOnce => 1,
        }
    }

    /// The promise a stored number stands for.
    ///
    /// # Errors
    ///
    /// [`UnknownPromise`] if this version knows none: a newer one wrote the record.
    pub const fn from_code(code: u8) -> Result<Self, UnknownPromise> {
        match code {
            0 => Ok(Self::AtLeastOnce),
            1 => Ok(Self::AtMostOnce),
            _ => Err(UnknownPromise(code)),
        }
    }

    /// The word for logs and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::AtMostOnce => "at_most_once",
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stored promise that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPromise(u8);

impl fmt::Display for UnknownPromise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no promise has the code {}", self.0)
    }
}

impl std::error::Error for UnknownPromise {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_survives_its_code() {
        for promise in [Promise::AtLeastOnce, Promise::AtMostOnce] {
            assert_eq!(Promise::from_code(promise.code()), Ok(promise));
        }
        assert!(Promise::from_code(250).is_err());
    }
}
