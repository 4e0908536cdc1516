use std::{fmt, time::Duration};

use super::*;
use crate::BoxError;

const PERMANENT: Failure = Failure::new(SafetyClass::Permanent, Cause::Fault);
const TRANSIENT: Failure = Failure::new(SafetyClass::Transient, Cause::Fault);
const UNPROCESSED: Failure = Failure::new(SafetyClass::NotProcessed, Cause::Fault);
const ELAPSED: Failure = Failure::new(SafetyClass::Transient, Cause::Elapsed);

/// An error of a type that nobody knows.
#[derive(Debug)]
struct Strange(Option<BoxError>);

impl Strange {
    fn around(source: impl Into<BoxError>) -> Self {
        Self(Some(source.into()))
    }
}

impl fmt::Display for Strange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strange")
    }
}

impl Error for Strange {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_ref().map(|source| &**source as _)
    }
}

#[test]
fn an_error_of_an_unknown_type_tells_nothing() {
    assert_eq!(verdict_of_error(&Strange(None)), PERMANENT.into());
    let text = BoxError::from("connection refused");
    assert_eq!(verdict_of_error(&*text), PERMANENT.into());
    let kind = io::Error::from(io::ErrorKind::PermissionDenied);
    assert_eq!(verdict_of_error(&kind), PERMANENT.into());
}

#[test]
fn an_io_error_is_known_by_its_kind() {
    use io::ErrorKind as Kind;

    for (kind, expected) in [
        (Kind::AddrNotAvailable, UNPROCESSED),
        (Kind::ConnectionRefused, UNPROCESSED),
        (Kind::TimedOut, ELAPSED),
        (Kind::BrokenPipe, TRANSIENT),
        (Kind::ConnectionAborted, TRANSIENT),
        (Kind::ConnectionReset, TRANSIENT),
        (Kind::HostUnreachable, TRANSIENT),
        (Kind::NetworkUnreachable, TRANSIENT),
        (Kind::UnexpectedEof, TRANSIENT),
        (Kind::InvalidData, PERMANENT),
        (Kind::NotFound, PERMANENT),
        (Kind::Other, PERMANENT),
    ] {
        let error = io::Error::new(kind, "a text");
        assert_eq!(verdict_of_error(&error), expected.into(), "{kind}");
        let wrapped = Strange::around(Strange::around(error));
        let expected = if expected == UNPROCESSED {
            TRANSIENT
        } else {
            expected
        };
        assert_eq!(verdict_of_error(&wrapped), expected.into(), "{kind}");
    }
}

/// It may be of a client that made another call before, and got an answer: reqwest's errors are hidden so by their middleware.
#[test]
fn what_lies_beneath_an_error_of_an_unknown_type_is_no_proof() {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    assert_eq!(verdict_of_error(&refused()), UNPROCESSED.into());

    for wrapped in [
        BoxError::from(Strange::around(refused())),
        BoxError::from(io::Error::other(Strange::around(refused()))),
    ] {
        assert_eq!(verdict_of_error(&*wrapped), TRANSIENT.into());
    }
}

#[test]
fn the_error_inside_an_io_error_is_not_passed_over() {
    let inner = io::Error::from(io::ErrorKind::ConnectionReset);
    let error = io::Error::other(Strange::around(io::Error::other(inner)));

    assert_eq!(verdict_of_error(&error), TRANSIENT.into());
}

#[test]
fn a_chain_is_followed_so_far_and_no_further() {
    let nested = |depth| {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let nest = |inner: BoxError, _| Strange::around(inner).into();
        (0..depth).fold(BoxError::from(reset), nest)
    };

    let last = verdict_of_error(&*nested(MAX_DEPTH - 1));
    assert_eq!(last, TRANSIENT.into());
    let too_deep = verdict_of_error(&*nested(MAX_DEPTH));
    assert_eq!(too_deep, PERMANENT.into());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_tokio_has_elapsed() {
    let error = tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>())
        .await
        .unwrap_err();

    assert_eq!(verdict_of_error(&error), ELAPSED.into());
    assert_eq!(verdict_of_error(&Strange::around(error)), ELAPSED.into());
}

#[cfg(feature = "h2")]
#[test]
fn a_reason_without_a_frame_of_the_peer_is_no_proof() {
    for reason in [
        h2::Reason::NO_ERROR,
        h2::Reason::REFUSED_STREAM,
        h2::Reason::ENHANCE_YOUR_CALM,
    ] {
        let error = h2::Error::from(reason);
        assert_eq!(verdict_of_error(&error), TRANSIENT.into(), "{reason:?}");
    }
}

#[test]
fn what_a_connection_was_carried_by_is_no_proof() {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    let broken = io::Error::new(io::ErrorKind::BrokenPipe, refused);
    assert_eq!(verdict_of_error(&broken), TRANSIENT.into());
}

#[cfg(feature = "tonic")]
mod of_tonic {
    use std::sync::Arc;

    use steadfast_core::verdict::Hint;
    use tonic::{ConnectError, Status, TimeoutExpired, metadata::MetadataMap};

    use super::*;

    #[test]
    fn a_status_is_known_by_its_code_and_its_hint() {
        let unavailable = Status::unavailable("");
        assert_eq!(verdict_of_error(&unavailable), TRANSIENT.into());
        let internal = Strange::around(Status::internal("\u{0}"));
        assert_eq!(verdict_of_error(&internal), PERMANENT.into());
        assert_eq!(verdict_of_error(&Status::not_found("")), Verdict::Success);
        assert_eq!(verdict_of_error(&Status::cancelled("")), Verdict::Ignored);

        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-retry-pushback-ms", "20".parse().unwrap());
        let exhausted = Status::with_metadata(tonic::Code::ResourceExhausted, "", metadata);
        let hint = Some(Hint::After(Duration::from_millis(20)));
        let throttled = Failure::new(SafetyClass::Transient, Cause::Throttled).with_hint(hint);
        assert_eq!(verdict_of_error(&exhausted), throttled.into());
    }

    #[test]
    fn a_known_source_says_more_than_the_code_of_a_status() {
        let mut status = Status::cancelled("Timeout expired");
        status.set_source(Arc::new(TimeoutExpired(())));
        assert_eq!(verdict_of_error(&status), ELAPSED.into());

        let mut status = Status::unavailable("");
        status.set_source(Arc::new(ConnectError("no route".into())));
        assert_eq!(verdict_of_error(&status), UNPROCESSED.into());

        let mut status = Status::not_found("");
        status.set_source(Arc::new(Strange(None)));
        assert_eq!(verdict_of_error(&status), Verdict::Success);
    }

    #[test]
    fn the_refused_database_of_a_handler_is_no_proof() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let mut status = Status::internal("the charge could not be written down");
        status.set_source(Arc::new(refused));

        assert_eq!(verdict_of_error(&status), TRANSIENT.into());
    }

    #[test]
    fn a_connect_that_took_too_long_has_elapsed_and_was_not_processed() {
        let error = ConnectError(io::Error::from(io::ErrorKind::TimedOut).into());

        let expected = Failure::new(SafetyClass::NotProcessed, Cause::Elapsed);
        assert_eq!(verdict_of_error(&error), expected.into());
    }
}
