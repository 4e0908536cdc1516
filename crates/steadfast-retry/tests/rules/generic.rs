//! retry R2, R3, R7, R8 and R9, of services that are not HTTP.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use steadfast_core::verdict::{Cause, Failure, Hint, SafetyClass, Verdict};
use steadfast_http::BoxError;
use steadfast_retry::{Budget, Custom, Elapsed, Policy, RetryConfig, RetryLayer, StoppedBy};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimitLayer};

use crate::support::{Fault, affordable, waiting};

/// Knows a protocol of words: a request says what may be done with it, an answer what it means.
#[derive(Clone, Default)]
struct Words {
    copies: Arc<AtomicUsize>,
    most_copies: Option<usize>,
}

impl Policy<String, String, Fault> for Words {
    fn copy(&self, request: &String) -> Option<String> {
        let copies = self.copies.fetch_add(1, Ordering::SeqCst);
        let may = self.most_copies.is_none_or(|most| copies < most);
        (may && !request.contains("once")).then(|| request.clone())
    }

    fn is_idempotent(&self, request: &String) -> bool {
        request.starts_with("read")
    }

    fn verdict(&self, outcome: Result<&String, &Fault>) -> Verdict {
        let class = match outcome.map(String::as_str) {
            Ok("busy") | Err(Fault::Reset) => SafetyClass::Transient,
            Ok("wait") => {
                let hint = Some(Hint::After(Duration::from_secs(3)));
                let failure = Failure::new(SafetyClass::Transient, Cause::Throttled);
                return failure.with_hint(hint).into();
            }
            Ok("closed") | Err(Fault::Refused) => SafetyClass::NotProcessed,
            Ok("broken") | Err(Fault::Strange) => SafetyClass::Permanent,
            Ok("whatever") => return Verdict::Ignored,
            Ok(_) => return Verdict::Success,
        };
        Failure::new(class, Cause::Fault).into()
    }
}

/// What the service does.
#[derive(Clone)]
enum Does {
    Say(&'static str),
    Fail(Fault),
    Hang,
}

/// A service that does one thing after the other, the last one for ever.
#[derive(Clone)]
struct Speaker {
    does: Arc<Mutex<Vec<Does>>>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Speaker {
    fn new(does: impl IntoIterator<Item = Does>) -> Self {
        let mut does: Vec<_> = does.into_iter().collect();
        does.reverse();
        Self {
            does: Arc::new(Mutex::new(does)),
            heard: Arc::default(),
        }
    }

    fn saying(words: impl IntoIterator<Item = &'static str>) -> Self {
        Self::new(words.into_iter().map(Does::Say))
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

impl Service<String> for Speaker {
    type Response = String;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<String, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: String) -> Self::Future {
        self.heard.lock().unwrap().push(request);
        let mut does = self.does.lock().unwrap();
        let next = if does.len() > 1 {
            does.pop().unwrap()
        } else {
            does[0].clone()
        };
        Box::pin(async move {
            match next {
                Does::Say(word) => Ok(word.to_owned()),
                Does::Fail(fault) => Err(fault),
                Does::Hang => std::future::pending().await,
            }
        })
    }
}

fn layer(config: RetryConfig) -> RetryLayer<Custom<Words>> {
    RetryLayer::new(Words::default())
        .with_config(config)
        .unwrap()
}

async fn ask<P>(
    layer: &RetryLayer<Custom<P>>,
    speaker: &Speaker,
    request: &str,
) -> Result<String, BoxError>
where
    P: Policy<String, String, Fault>,
{
    layer
        .layer(speaker.clone())
        .oneshot(request.to_owned())
        .await
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn what_the_policy_says_of_request_and_outcome_decides() {
    for (request, says, calls) in [
        ("read", "busy", 3),
        ("write", "busy", 1),
        ("write", "closed", 3),
        ("read", "broken", 1),
        ("read", "whatever", 1),
        ("read", "fine", 1),
        ("read once", "busy", 1),
        ("write once", "closed", 1),
    ] {
        let speaker = Speaker::saying([says]);

        let said = ask(&layer(waiting(10)), &speaker, request).await.unwrap();

        assert_eq!(said, says);
        assert_eq!(speaker.heard(), vec![request; calls], "{request}: {says}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_heals_returns_its_success() {
    for config in [waiting(10), waiting(10).with_deadline(secs(1))] {
        let speaker = Speaker::saying(["busy", "busy", "fine"]);

        let said = ask(&layer(config), &speaker, "read").await.unwrap();

        assert_eq!(said, "fine");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_comes_out_boxed_and_is_retried_as_the_policy_says() {
    for (fault, request, calls) in [
        (Fault::Reset, "read", 3),
        (Fault::Reset, "write", 1),
        (Fault::Refused, "write", 3),
        (Fault::Strange, "read", 1),
    ] {
        let speaker = Speaker::new([Does::Fail(fault.clone())]);

        let error = ask(&layer(waiting(10)), &speaker, request)
            .await
            .unwrap_err();

        assert_eq!(error.downcast_ref(), Some(&fault));
        assert_eq!(speaker.heard().len(), calls, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_are_those_of_the_configuration_and_of_the_hint() {
    let speaker = Speaker::saying(["busy", "wait", "fine"]);
    let started = Instant::now();

    ask(&layer(waiting(500)), &speaker, "read").await.unwrap();

    // A hint is a floor: chance may add to it.
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(3_500), "{elapsed:?}");
    assert!(elapsed <= Duration::from_secs(5), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_asked_for_before_each_attempt_that_another_may_follow() {
    for (most_copies, calls) in [(0, 1), (1, 2), (2, 3)] {
        let words = Words {
            most_copies: Some(most_copies),
            ..Words::default()
        };
        let layer = RetryLayer::new(words).with_config(waiting(10)).unwrap();
        let speaker = Speaker::saying(["busy"]);

        let said = ask(&layer, &speaker, "read").await.unwrap();

        assert_eq!(said, "busy");
        assert_eq!(speaker.heard().len(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_succeeds_at_once_copies_its_request_once() {
    let words = Words::default();
    let layer = RetryLayer::new(words.clone());

    ask(&layer, &Speaker::saying(["fine"]), "read")
        .await
        .unwrap();

    assert_eq!(words.copies.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_single_attempt_passes_without_a_copy() {
    for config in [
        waiting(10).with_max_attempts(1),
        waiting(10).with_max_attempts(1).with_deadline(secs(1)),
    ] {
        let words = Words::default();
        let layer = RetryLayer::new(words.clone()).with_config(config).unwrap();
        let speaker = Speaker::saying(["busy"]);

        ask(&layer, &speaker, "read").await.unwrap();

        assert_eq!(speaker.heard().len(), 1);
        assert_eq!(words.copies.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_that_took_too_long_fails_with_elapsed() {
    let speaker = Speaker::new([Does::Hang]);
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));
    let started = Instant::now();

    let error = ask(&layer, &speaker, "read").await.unwrap_err();

    assert_eq!(started.elapsed(), Duration::from_millis(3_020));
    let elapsed: &Elapsed = error.downcast_ref().unwrap();
    assert!(!elapsed.is_deadline());
    assert_eq!(elapsed.attempts(), 3);
    assert_eq!(elapsed.stopped_by(), StoppedBy::Attempts);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_took_too_long_is_repeated_only_if_that_is_safe() {
    let layer = layer(waiting(10).with_attempt_timeout(secs(1)));

    let speaker = Speaker::new([Does::Hang, Does::Say("fine")]);
    assert_eq!(ask(&layer, &speaker, "read").await.unwrap(), "fine");

    let speaker = Speaker::new([Does::Hang, Does::Say("fine")]);
    let error = ask(&layer, &speaker, "write").await.unwrap_err();
    let elapsed: &Elapsed = error.downcast_ref().unwrap();
    assert!(!elapsed.is_deadline());
    assert_eq!(elapsed.attempts(), 1);
    assert_eq!(elapsed.stopped_by(), StoppedBy::NotIdempotent);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_fails_with_elapsed() {
    let speaker = Speaker::new([Does::Say("busy"), Does::Hang]);
    let layer = layer(waiting(10).with_deadline(secs(2)));
    let started = Instant::now();

    let error = ask(&layer, &speaker, "read").await.unwrap_err();

    assert_eq!(started.elapsed(), secs(2));
    let elapsed: &Elapsed = error.downcast_ref().unwrap();
    assert!(elapsed.is_deadline());
    assert_eq!(elapsed.attempts(), 2);
    assert_eq!(elapsed.stopped_by(), StoppedBy::Deadline);
}

#[tokio::test(start_paused = true)]
async fn unconfigured_nothing_is_cut() {
    let speaker = Speaker::new([Does::Hang]);
    let call = ask(&layer(waiting(10)), &speaker, "read")
        .await_for_a_day()
        .await;

    assert!(call.is_none());
    assert_eq!(speaker.heard().len(), 1);
}

trait ForADay: Future + Sized {
    async fn await_for_a_day(self) -> Option<Self::Output> {
        timeout(secs(24 * 3_600), self).await.ok()
    }
}

impl<F: Future> ForADay for F {}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_never_ready_again_fails_with_elapsed_at_the_deadline() {
    let speaker = Speaker::saying(["busy"]);
    let limit = ConcurrencyLimitLayer::new(1);
    let inner = limit.layer(speaker.clone());
    let layer = layer(waiting(500).with_deadline(secs(2)));
    let service = layer.layer(inner.clone());
    let taken = async {
        sleep(Duration::from_millis(100)).await;
        let mut inner = inner;
        inner.ready().await.unwrap();
        sleep(secs(9)).await;
    };
    let started = Instant::now();

    let call = async {
        let error = service.oneshot("read".to_owned()).await.unwrap_err();
        (error, started.elapsed())
    };
    let ((error, took), ()) = tokio::join!(call, taken);

    assert_eq!(took, secs(2));
    let elapsed: &Elapsed = error.downcast_ref().unwrap();
    assert!(elapsed.is_deadline());
    assert_eq!(elapsed.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_retries() {
    let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
    let layer = layer(waiting(0)).with_budget(Arc::clone(&budget));
    let speaker = Speaker::saying(["busy"]);

    for _ in 0..5 {
        ask(&layer, &speaker, "read").await.unwrap();
    }
    assert_eq!(speaker.heard().len(), 15);
    assert_eq!(affordable(&budget), 0);

    let said = ask(&layer, &speaker, "read").await.unwrap();

    assert_eq!(said, "busy");
    assert_eq!(speaker.heard().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_budget_without_a_token_is_why_an_elapsed_attempt_was_not_repeated() {
    let layer =
        layer(waiting(0).with_attempt_timeout(secs(1))).with_budget(Budget::ratio(0.1, 0).unwrap());
    let speaker = Speaker::new([Does::Hang]);

    let error = ask(&layer, &speaker, "read").await.unwrap_err();

    let elapsed: &Elapsed = error.downcast_ref().unwrap();
    assert_eq!(elapsed.stopped_by(), StoppedBy::Budget);
    assert_eq!(elapsed.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_recovers_through_successes() {
    let budget = Arc::new(Budget::grpc_throttle(4, 1.0).unwrap());
    let layer = layer(waiting(0)).with_budget(Arc::clone(&budget));
    let now = || Instant::now().into_std();
    // 4 tokens become 2.
    ask(&layer, &Speaker::saying(["busy"]), "read")
        .await
        .unwrap();
    assert!(!budget.has_token(now()));

    ask(&layer, &Speaker::saying(["fine"]), "read")
        .await
        .unwrap();

    assert!(budget.has_token(now()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_copied_is_no_original() {
    let budget = Arc::new(Budget::ratio(1.0, 0).unwrap());
    let layer = layer(waiting(0)).with_budget(Arc::clone(&budget));
    let speaker = Speaker::saying(["fine"]);

    ask(&layer, &speaker, "read once").await.unwrap();
    assert_eq!(affordable(&budget), 0);

    ask(&layer, &speaker, "read").await.unwrap();
    assert_eq!(affordable(&budget), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_sleeps_gives_its_retry_back() {
    for config in [waiting(1_000), waiting(1_000).with_deadline(secs(9))] {
        let budget = Arc::new(Budget::ratio(0.0, 1).unwrap());
        let layer = layer(config).with_budget(Arc::clone(&budget));
        let speaker = Speaker::saying(["busy"]);
        let mut call = Box::pin(ask(&layer, &speaker, "read"));
        timeout(Duration::from_millis(500), &mut call)
            .await
            .unwrap_err();
        assert_eq!(affordable(&budget), 9);

        drop(call);

        assert_eq!(affordable(&budget), 10);
        assert_eq!(speaker.heard().len(), 1);
    }
}
