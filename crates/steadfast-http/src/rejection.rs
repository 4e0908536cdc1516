use crate::problem::Code;

/// Marks a response that a layer made up by itself, in the response's extensions.
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
