use std::{fmt, sync::Arc};

use steadfast_core::verdict::Verdict;
use steadfast_http::{BoxError, Deadline};

use crate::{
    Rejected,
    admission::Pass,
    mode::{Mode, sealed::Sealed},
};

/// The service is not HTTP: a function says what its results mean, and a rejection is an error.
pub struct OnResult<C> {
    classify: Arc<C>,
}

impl<C> OnResult<C> {
    pub(crate) fn new(classify: C) -> Self {
        Self {
            classify: Arc::new(classify),
        }
    }
}

impl<C, Req, Res, E> Mode<Req, Res, E> for OnResult<C>
where
    C: Fn(&Result<Res, E>) -> Verdict,
    E: Into<BoxError>,
{
    type Response = Res;
    type Error = BoxError;

    fn deadline(&self, _: &Req) -> Option<Deadline> {
        None
    }

    fn reject(&self, _: Req, rejected: Rejected) -> Result<Res, BoxError> {
        Err(rejected.into())
    }

    #[inline]
    fn finish(&self, pass: &mut Option<Pass>, result: Result<Res, E>) -> Result<Res, BoxError> {
        if let Some(mut pass) = pass.take() {
            let verdict = pass.run(|| (self.classify)(&result));
            pass.end(verdict);
        }
        result.map_err(Into::into)
    }

    fn fail(error: E) -> BoxError {
        error.into()
    }
}

impl<C> Sealed for OnResult<C> {}

impl<C> Clone for OnResult<C> {
    fn clone(&self) -> Self {
        Self {
            classify: Arc::clone(&self.classify),
        }
    }
}

impl<C> fmt::Debug for OnResult<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnResult")
    }
}
