use std::{error::Error, fmt};

use crate::problem::Code;

/// Marks what a layer made up by itself: a response, in its extensions, or an error, in the chain of its sources.
///
/// It says nothing about the destination: no layer counts it as the destination's failure, and none sends the call to the same
/// destination again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalRejection {
    code: Code,
}

impl LocalRejection {
    /// A rejection for this reason.
    #[must_use]
    pub const fn new(code: Code) -> Self {
        Self { code }
    }

    /// The reason.
    #[must_use]
    pub const fn code(self) -> Code {
        self.code
    }
}

impl fmt::Display for LocalRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the call was refused by a layer: {}", self.code.as_str())
    }
}

impl Error for LocalRejection {}
