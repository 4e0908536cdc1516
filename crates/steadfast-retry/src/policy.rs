use std::{error::Error, fmt};

use steadfast_core::verdict::Verdict;
use steadfast_http::classify::ResponseHead;

/// What [`RetryLayer::new`](crate::RetryLayer::new) asks of requests that are not HTTP.
///
/// ```
/// use std::io;
/// use steadfast_retry::{Cause, Failure, Policy, RetryLayer, SafetyClass, Verdict};
///
/// /// A question and its answer, each a line.
/// struct Lines;
///
/// impl Policy<String, String, io::Error> for Lines {
///     fn copy(&self, question: &String) -> Option<String> {
///         Some(question.clone())
///     }
///
///     fn is_idempotent(&self, question: &String) -> bool {
///         question.starts_with("GET ")
///     }
///
///     fn verdict(&self, outcome: Result<&String, &io::Error>) -> Verdict {
///         match outcome {
///             Ok(answer) if answer == "BUSY" => {
///                 Failure::new(SafetyClass::NotProcessed, Cause::Throttled).into()
///             }
///             Ok(_) => Verdict::Success,
///             // What this crate knows of transports.
///             Err(error) => steadfast_http::classify::verdict_of_error(error),
///         }
///     }
/// }
///
/// # use tower::{Layer, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), steadfast_http::BoxError> {
/// # use std::sync::atomic::{AtomicU32, Ordering};
/// # static CALLS: AtomicU32 = AtomicU32::new(0);
/// # let client = service_fn(async |question: String| match CALLS.fetch_add(1, Ordering::Relaxed) {
/// #     0 => Ok("BUSY".to_owned()),
/// #     _ => Ok::<_, io::Error>(format!("DONE {question}")),
/// # });
/// let client = RetryLayer::new(Lines).layer(client);
/// assert_eq!(client.oneshot("SET a".to_owned()).await?, "DONE SET a");
/// # Ok(())
/// # }
/// ```
pub trait Policy<Req, Res, E>: Send + Sync + 'static {
    /// A copy of the request, for a further attempt; `None` if it cannot be sent again. It is asked for before each attempt that
    /// another one may follow.
    fn copy(&self, request: &Req) -> Option<Req>;

    /// Whether doing the operation twice is the same as doing it once. Without further knowledge it is not, and the call is repeated
    /// only where the destination provably did not process it.
    fn is_idempotent(&self, request: &Req) -> bool {
        let _ = request;
        false
    }

    /// What the outcome of an attempt means. It is not asked of one that a time limit cut.
    fn verdict(&self, outcome: Result<&Res, &E>) -> Verdict;
}

/// An attempt that has ended, as a classifier sees it.
#[derive(Clone, Copy)]
pub struct Attempted<'a> {
    pub(crate) outcome: Result<ResponseHead<'a>, &'a (dyn Error + 'static)>,
    pub(crate) verdict: Verdict,
    pub(crate) idempotent: bool,
}

impl<'a> Attempted<'a> {
    /// The head of the response, if there is one.
    #[must_use]
    pub fn response(&self) -> Option<ResponseHead<'a>> {
        self.outcome.ok()
    }

    /// The error of the service, if it failed.
    #[must_use]
    pub fn error(&self) -> Option<&'a (dyn Error + 'static)> {
        self.outcome.err()
    }

    /// What the tables say.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether the operation is idempotent, by its method or by a mark.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }
}

impl fmt::Debug for Attempted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempted")
            .field("outcome", &self.outcome)
            .field("verdict", &self.verdict)
            .field("idempotent", &self.idempotent)
            .finish()
    }
}
