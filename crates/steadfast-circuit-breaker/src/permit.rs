use std::fmt;

use steadfast_core::verdict::Verdict;
use steadfast_http::Deadline;

use crate::{
    Rejected,
    admission::{Held, Pass},
};

/// The right to make one call, for code that guards its calls by itself.
///
/// It ends with [`record`](Self::record). Dropped before that, the call has failed if its [`Deadline`] has passed by then, and it
/// had waited for the [least wait](crate::BreakerConfig::with_least_wait); else it says nothing. A probe makes room for another one in
/// any case.
#[must_use = "a permit that is dropped says nothing of its call"]
pub struct Permit {
    pass: Pass,
}

impl Permit {
    pub(crate) fn ask(held: Held, deadline: Option<Deadline>) -> Result<Self, Rejected> {
        match Pass::ask(held, deadline) {
            Ok(pass) => Ok(Self { pass }),
            Err((held, rejection)) => Err(Rejected::by(held.shared(), rejection)),
        }
    }

    /// The call ended with this verdict. One whose cause is [elapsed](steadfast_core::verdict::Cause::Elapsed) is ignored if its
    /// caller's time is over and was less than the [least wait](crate::BreakerConfig::with_least_wait).
    pub fn record(mut self, verdict: Verdict) {
        self.pass.end(self.pass.judge(verdict));
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("breaker", self.pass.shared())
            .finish_non_exhaustive()
    }
}
