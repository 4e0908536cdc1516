//! The layers of a client that the laws are for, with each kind of request that they let through.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use steadfast::{
    core::verdict::{Cause, Failure, SafetyClass, Verdict},
    retry::{
        Backoff, Custom, IdempotencyKeyLayer, Jitter, Policy, RetryConfig, RetryLayer, Wrapped,
    },
};
use tower::{
    ServiceBuilder, ServiceExt,
    layer::util::{Identity, Stack},
};

use crate::laws::{Lawful, Oops, Passed, Payload, Probe, Subject, laws, payload};

const CREATE: &str = "/bank.Charges/Create";
const LONG: Duration = Duration::from_secs(60);

/// Three attempts, a millisecond apart.
fn config() -> RetryConfig {
    let backoff = Backoff::constant(Duration::from_millis(1)).with_jitter(Jitter::None);
    RetryConfig::default().with_backoff(backoff)
}

/// What the probe's error means: nothing in it says so by itself.
const PASSES: Failure = Failure::new(SafetyClass::Transient, Cause::Fault);

fn retrying(layer: RetryLayer, config: RetryConfig) -> RetryLayer {
    layer
        .with_config(config)
        .unwrap()
        .with_classifier(|attempted| match attempted.error() {
            Some(_) => PASSES.into(),
            None => attempted.verdict(),
        })
}

fn put(n: u32) -> Request<Payload> {
    Request::put(format!("/charges/{n}"))
        .body(payload("amount=5"))
        .unwrap()
}

fn post(_: u32) -> Request<Payload> {
    Request::post("/charges").body(payload("amount=5")).unwrap()
}

fn get(n: u32) -> Request<Payload> {
    Request::get(format!("/charges/{n}"))
        .body(payload(""))
        .unwrap()
}

fn create(_: u32) -> Request<Payload> {
    Request::post(CREATE)
        .header("content-type", "application/grpc")
        .body(payload("\0\0\0\0\0"))
        .unwrap()
}

fn idempotent_by_its_method() -> Subject<RetryLayer> {
    Subject {
        layer: retrying(RetryLayer::http(), config()),
        request: put,
    }
}

fn not_idempotent() -> Subject<RetryLayer> {
    Subject {
        layer: retrying(RetryLayer::http(), config()),
        request: post,
    }
}

fn with_a_body_that_is_not_kept() -> Subject<RetryLayer> {
    Subject {
        layer: retrying(RetryLayer::http(), config().with_replay_limit(3)),
        request: put,
    }
}

fn with_retries_disabled() -> Subject<RetryLayer> {
    Subject {
        layer: retrying(RetryLayer::http(), config().with_max_attempts(1)),
        request: put,
    }
}

fn limited_in_time() -> Subject<RetryLayer> {
    let config = config().with_deadline(LONG).with_attempt_timeout(LONG);
    Subject {
        layer: retrying(RetryLayer::http(), config),
        request: put,
    }
}

fn named_in_grpc() -> Subject<RetryLayer> {
    let config = config().with_idempotent_grpc_methods([CREATE]);
    Subject {
        layer: retrying(RetryLayer::grpc().with_wrapped_body(), config),
        request: create,
    }
}

fn not_named_in_grpc() -> Subject<RetryLayer> {
    Subject {
        layer: retrying(RetryLayer::grpc().with_wrapped_body(), config()),
        request: create,
    }
}

/// Takes HTTP for a protocol that nobody knows.
struct Charges;

impl Policy<Request<Payload>, Response<Full<Bytes>>, Oops> for Charges {
    fn copy(&self, request: &Request<Payload>) -> Option<Request<Payload>> {
        let mut copy = Request::new(payload("amount=5"));
        *copy.uri_mut() = request.uri().clone();
        Some(copy)
    }

    fn is_idempotent(&self, _: &Request<Payload>) -> bool {
        true
    }

    fn verdict(&self, outcome: Result<&Response<Full<Bytes>>, &Oops>) -> Verdict {
        match outcome {
            Ok(_) => Verdict::Success,
            Err(_) => PASSES.into(),
        }
    }
}

fn of_a_policy() -> Subject<RetryLayer<Custom<Charges>>> {
    Subject {
        layer: RetryLayer::new(Charges).with_config(config()).unwrap(),
        request: post,
    }
}

fn of_a_policy_limited_in_time() -> Subject<RetryLayer<Custom<Charges>>> {
    let config = config().with_deadline(LONG);
    Subject {
        layer: RetryLayer::new(Charges).with_config(config).unwrap(),
        request: post,
    }
}

fn given_a_key() -> Subject<IdempotencyKeyLayer> {
    Subject {
        layer: IdempotencyKeyLayer::new(),
        request: post,
    }
}

fn in_need_of_no_key() -> Subject<IdempotencyKeyLayer> {
    Subject {
        layer: IdempotencyKeyLayer::new(),
        request: get,
    }
}

type Client = Stack<RetryLayer<Wrapped>, Stack<IdempotencyKeyLayer, Identity>>;

fn given_a_key_and_retried() -> Subject<Client> {
    let layer = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(retrying(RetryLayer::http(), config()))
        .into_inner();
    Subject {
        layer,
        request: post,
    }
}

laws!(idempotent_by_its_method);
laws!(not_idempotent);
laws!(with_a_body_that_is_not_kept);
laws!(with_retries_disabled);
laws!(limited_in_time);
laws!(named_in_grpc);
laws!(not_named_in_grpc);
laws!(of_a_policy);
laws!(of_a_policy_limited_in_time);
laws!(given_a_key);
laws!(in_need_of_no_key);
laws!(given_a_key_and_retried);

/// How often a service is called that fails at every call.
async fn attempts(subject: Subject<impl Lawful>) -> usize {
    let (probe, book) = Probe::with_permits(1);
    book.fail_calls();
    let call = subject.layer.layer(probe).oneshot((subject.request)(1));
    let error = call.await.map(|_| ()).unwrap_err();
    assert_eq!(error.oops(), Oops::Call);
    book.calls()
}

/// What the laws of a failing service are about.
#[tokio::test(start_paused = true)]
async fn the_subjects_are_what_their_names_say() {
    assert_eq!(attempts(idempotent_by_its_method()).await, 3);
    assert_eq!(attempts(limited_in_time()).await, 3);
    assert_eq!(attempts(named_in_grpc()).await, 3);
    assert_eq!(attempts(of_a_policy()).await, 3);
    assert_eq!(attempts(of_a_policy_limited_in_time()).await, 3);
    assert_eq!(attempts(given_a_key_and_retried()).await, 3);

    assert_eq!(attempts(not_idempotent()).await, 1);
    assert_eq!(attempts(with_a_body_that_is_not_kept()).await, 1);
    assert_eq!(attempts(with_retries_disabled()).await, 1);
    assert_eq!(attempts(not_named_in_grpc()).await, 1);
    assert_eq!(attempts(given_a_key()).await, 1);
    assert_eq!(attempts(in_need_of_no_key()).await, 1);
}
