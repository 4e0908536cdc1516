use std::{error::Error, io};

use steadfast_core::verdict::{Cause, Failure, SafetyClass, Verdict};

use super::verdict_of_rejection;

/// Chains of real errors have up to eight; one that goes in circles must end.
const MAX_DEPTH: usize = 16;

/// The meaning of a transport's error, found along its chain of sources.
///
/// | in the chain | verdict |
/// |---|---|
/// | hyper-util's client or tonic could not connect; a bare connection refused | not processed |
/// | hyper-util's client or tonic never handed the request to its connection | not processed |
/// | HTTP/2: the stream was refused, or left out by a graceful GOAWAY | not processed |
/// | a timeout: of tokio, reqwest, tonic, a socket, a keep-alive ping | transient, elapsed |
/// | HTTP/2: the peer asks for calm | transient, throttled |
/// | HTTP/2: the peer wants another protocol; the answer is no HTTP, or cannot be decoded | permanent |
/// | any other failure of a connection: reset, closed, cut off | transient |
/// | a [`tonic::Status`](https://docs.rs/tonic/latest/tonic/struct.Status.html) | by [`GrpcRules`](super::GrpcRules) as they are by default, if its source says nothing |
/// | a [`LocalRejection`](crate::LocalRejection) | as that of a response: ignored, unless an attempt took too long |
/// | the request's own body failed, or the request could not be built | ignored: says nothing about the destination |
/// | nothing known | permanent |
///
/// *Not processed* is said only with proof, as a request may then be sent again whatever it does. Each error is taken as the reason
/// of the one around it, the outermost first. A service that makes several calls in turn, and fails with the error of the last, breaks
/// that reading; so does one that follows redirects, as the call that failed may not be the first. reqwest does follow them unless
/// told otherwise: its errors are never proof. Elsewhere, put the retry beneath the layer that follows.
///
/// An error of an unknown type tells nothing, so it is never taken as one that may pass; and nothing beneath it is proof, as it may be of
/// a client that follows redirects, or makes several calls. What a crate knows about its own errors, such as tower's timeouts and
/// limits, it can say with a classifier of its own; an [`ErrorView`](super::ErrorView) takes a wrapper off.
///
/// The errors of a library are known if the feature of its name is on: `h2`, `hyper`, `hyper-util`, `reqwest`, `tonic`.
#[must_use]
pub fn verdict_of_error(error: &(dyn Error + 'static)) -> Verdict {
    let mut chain = Chain::default();
    let mut next = Some(error);
    for _ in 0..MAX_DEPTH {
        let Some(error) = next else { break };
        if let Some(verdict) = chain.examine(error) {
            return chain.without_false_proof(verdict);
        }
        next = beneath(error);
    }
    chain
        .presumed
        .unwrap_or_else(|| fault(SafetyClass::Permanent))
}

/// What is known by the errors passed so far.
#[derive(Default)]
struct Chain {
    /// The verdict if nothing beneath decides.
    presumed: Option<Verdict>,
    place: Place,
    /// A server's handler may have named the cause: the error of its database, as likely as one of the call.
    of_handler: bool,
    /// Where hyper says *canceled*, it gave the request back.
    #[cfg(feature = "hyper")]
    unsent_if_canceled: bool,
    /// The call that failed may not be the first one that was made.
    may_be_later: bool,
}

/// What the next error of the chain can be about.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// The call as a whole.
    #[default]
    Call,
    /// The connection that the call was given to.
    #[cfg(feature = "hyper")]
    Connection,
    /// What carries the connection. That may be a tunnel: a stream of another connection, whose refusal proves nothing.
    Carrier,
}

impl Chain {
    /// The verdict, if this error decides it. Wrappers come before what they wrap.
    fn examine(&mut self, error: &(dyn Error + 'static)) -> Option<Verdict> {
        if let Some(&rejection) = error.downcast_ref() {
            return Some(verdict_of_rejection(rejection));
        }
        #[cfg(feature = "reqwest")]
        if let Some(error) = error.downcast_ref() {
            return self.reqwest(error);
        }
        #[cfg(feature = "tonic")]
        if let Some(verdict) = self.tonic(error) {
            return Some(verdict);
        }
        #[cfg(feature = "hyper-util")]
        if let Some(error) = error.downcast_ref() {
            return self.hyper_util(error);
        }
        #[cfg(feature = "hyper")]
        if let Some(error) = error.downcast_ref() {
            return self.hyper(error);
        }
        #[cfg(feature = "h2")]
        if let Some(error) = error.downcast_ref() {
            return self.h2(error);
        }
        if let Some(error) = error.downcast_ref() {
            return self.io(error);
        }
        if error.is::<tokio::time::error::Elapsed>() {
            return Some(elapsed());
        }
        if self.place == Place::Call && self.presumed.is_none() {
            // Of a client that nobody here knows.
            self.may_be_later = true;
        }
        None
    }

    /// The redirects are followed within one call (`async_impl/client.rs`), and the error does not tell which hop it is of: after
    /// a POST was answered with 303, the failed connect is that of the GET.
    #[cfg(feature = "reqwest")]
    fn reqwest(&mut self, error: &reqwest::Error) -> Option<Verdict> {
        if error.is_builder() {
            return Some(Verdict::Ignored);
        }
        if let Some(status) = error.status() {
            let rules = super::HttpRules::default();
            return Some(rules.verdict_of_status(status, &http::HeaderMap::new(), false));
        }
        let permanent = error.is_decode() || error.is_redirect() || error.is_upgrade();
        self.presumed = Some(if error.is_timeout() {
            // The type of the source is private.
            elapsed()
        } else if permanent {
            fault(SafetyClass::Permanent)
        } else {
            fault(SafetyClass::Transient)
        });
        self.may_be_later = true;
        None
    }

    #[cfg(feature = "tonic")]
    fn tonic(&mut self, error: &(dyn Error + 'static)) -> Option<Verdict> {
        if error.is::<tonic::ConnectError>() && self.place == Place::Call {
            return Some(unconnected(error));
        }
        if error.is::<tonic::TimeoutExpired>() {
            return Some(elapsed());
        }
        // `Channel` sends with hyper's `SendRequest` and never upgrades.
        if error.is::<tonic::transport::Error>() && error.source().is_some() {
            self.unsent_if_canceled = true;
            self.presumed = Some(fault(SafetyClass::Transient));
        }
        if let Some(status) = error.downcast_ref::<tonic::Status>() {
            let mut headers = http::HeaderMap::new();
            // Fails at the message, if at all; the code is in place by then.
            let _complete = status.add_header(&mut headers);
            let rules = super::GrpcRules::default();
            self.presumed = Some(rules.verdict_of_trailers(Some(&headers)));
            self.of_handler = true;
        }
        None
    }

    /// `is_connect`: the request was still at hand when the connector failed, or no connection could be had from the pool.
    #[cfg(feature = "hyper-util")]
    fn hyper_util(&mut self, error: &hyper_util::client::legacy::Error) -> Option<Verdict> {
        if self.place != Place::Call {
            return None;
        }
        if error.is_connect() {
            return Some(unconnected(error));
        }
        // Without a source it is a request that the client does not support.
        if error.source().is_some() {
            self.unsent_if_canceled = true;
            self.presumed = Some(fault(SafetyClass::Transient));
        }
        None
    }

    /// `is_user`: the request's body failed, or the task of the connection is gone. `is_canceled`: made where a request was never taken from the queue of its connection (`client/dispatch.rs`,
    /// `client/conn/*.rs`, `proto/h1/dispatch.rs`), but also where a connection was not upgraded (`upgrade.rs`), long after the
    /// request. Only clients that do not upgrade make it proof.
    #[cfg(feature = "hyper")]
    fn hyper(&mut self, error: &hyper::Error) -> Option<Verdict> {
        if self.place != Place::Call {
            self.place = Place::Carrier;
            return error.is_timeout().then(elapsed);
        }
        if error.is_user() {
            return Some(if is_dispatch_gone(error) {
                fault(SafetyClass::Transient)
            } else {
                Verdict::Ignored
            });
        }
        if error.is_canceled() && self.unsent_if_canceled {
            return Some(fault(SafetyClass::NotProcessed));
        }
        if error.is_parse() {
            return Some(fault(SafetyClass::Permanent));
        }
        if error.is_timeout() {
            return Some(elapsed());
        }
        self.place = Place::Connection;
        self.presumed = Some(fault(SafetyClass::Transient));
        None
    }

    /// REFUSED_STREAM: RFC 9113, 8.7. GOAWAY: h2 gives the peer's only to streams above the last id that the peer names, and to
    /// those never opened (`proto/streams/streams.rs`, `recv_go_away` and `ensure_no_conn_error`); streams below go on, and end with
    /// the connection as a broken pipe. A peer that goes away in error may have lost count: only the graceful one is believed.
    #[cfg(feature = "h2")]
    fn h2(&mut self, error: &h2::Error) -> Option<Verdict> {
        if self.place == Place::Carrier {
            return None;
        }
        if let Some(error) = error.get_io() {
            self.presume_carrier();
            return self.io(error);
        }
        let Some(reason) = error.reason() else {
            return Some(Verdict::Ignored);
        };
        if error.is_reset() && !error.is_remote() && !error.is_library() {
            // hyper resets the stream if the request's body fails.
            return Some(Verdict::Ignored);
        }
        if !error.is_remote() {
            return Some(fault(SafetyClass::Transient));
        }
        Some(match reason {
            h2::Reason::REFUSED_STREAM if error.is_reset() => fault(SafetyClass::NotProcessed),
            h2::Reason::NO_ERROR if error.is_go_away() => fault(SafetyClass::NotProcessed),
            h2::Reason::ENHANCE_YOUR_CALM => {
                Failure::new(SafetyClass::Transient, Cause::Throttled).into()
            }
            h2::Reason::HTTP_1_1_REQUIRED | h2::Reason::INADEQUATE_SECURITY => {
                fault(SafetyClass::Permanent)
            }
            _ => fault(SafetyClass::Transient),
        })
    }

    /// A kind that only a connect gives is proof, unless a connection stood. The error inside, if there is one, may know more than
    /// the kind.
    fn io(&mut self, error: &io::Error) -> Option<Verdict> {
        use io::ErrorKind as Kind;

        let kind = error.kind();
        if kind == Kind::TimedOut {
            return Some(elapsed());
        }
        let of_connect = matches!(kind, Kind::AddrNotAvailable | Kind::ConnectionRefused);
        if of_connect && self.place == Place::Call && !self.of_handler {
            return Some(fault(SafetyClass::NotProcessed));
        }
        let of_connection = matches!(
            kind,
            Kind::BrokenPipe
                | Kind::ConnectionAborted
                | Kind::ConnectionReset
                | Kind::HostUnreachable
                | Kind::NetworkDown
                | Kind::NetworkUnreachable
                | Kind::NotConnected
                | Kind::UnexpectedEof
                | Kind::WriteZero
        );
        if of_connect || of_connection || self.place != Place::Call {
            self.presume_carrier();
        }
        None
    }

    /// A connection stood, and what carried it failed.
    fn presume_carrier(&mut self) {
        self.place = Place::Carrier;
        self.presumed = Some(fault(SafetyClass::Transient));
    }

    fn without_false_proof(&self, verdict: Verdict) -> Verdict {
        if let Verdict::Failure(failure) = verdict
            && failure.class() == SafetyClass::NotProcessed
            && self.may_be_later
        {
            // Only the outer error may know of a timeout.
            return match self.presumed {
                Some(presumed) if presumed == elapsed() => presumed,
                _ => Failure::new(SafetyClass::Transient, failure.cause()).into(),
            };
        }
        verdict
    }
}

/// The error and all beneath it.
pub(crate) fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| beneath(*error)).take(MAX_DEPTH)
}

/// The next error of the chain. The source of an I/O error is that of the error inside it, which would be passed over.
fn beneath<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().map(io::Error::get_ref) {
        Some(Some(inner)) => Some(inner),
        _ => error.source(),
    }
}

/// Whether hyper's connection went away with the request: the runtime ended, or an HTTP/2 connection was shut down in good order while
/// the request still waited for a stream (`proto/h2/client.rs`). hyper calls it the user's fault and has no other name for it than its
/// message.
#[cfg(feature = "hyper")]
fn is_dispatch_gone(error: &hyper::Error) -> bool {
    error.to_string() == "dispatch task is gone"
}

fn fault(class: SafetyClass) -> Verdict {
    Failure::new(class, Cause::Fault).into()
}

fn elapsed() -> Verdict {
    Failure::new(SafetyClass::Transient, Cause::Elapsed).into()
}

/// A connect failed: by itself, or because it took too long.
#[cfg(feature = "hyper-util")]
fn unconnected(error: &(dyn Error + 'static)) -> Verdict {
    let timed_out = |error: &(dyn Error + 'static)| {
        error.is::<tokio::time::error::Elapsed>()
            || error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    };
    let cause = if sources(error).any(timed_out) {
        Cause::Elapsed
    } else {
        Cause::Fault
    };
    Failure::new(SafetyClass::NotProcessed, cause).into()
}

#[cfg(test)]
mod tests;
