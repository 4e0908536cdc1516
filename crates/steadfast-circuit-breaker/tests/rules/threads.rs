//! circuit-breaker B4, B6 and B13: real threads, one breaker.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use steadfast_circuit_breaker::{BreakerConfig, CircuitBreakerLayer, State, Verdict, Window};
use tower::{Layer, Service};

use crate::support::{
    Recorded, breaker, failure, get, no_context, outcomes, poll, rejected, run, secs, steady,
};

/// Answers with the status that the request asks for.
#[derive(Clone)]
struct Echo;

impl<B> Service<Request<B>> for Echo {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut response = Response::new(Full::default());
        *response.status_mut() = *request.extensions().get().unwrap();
        ready(Ok(response))
    }
}

const CALLS: u16 = 10_000;

/// Never opens, and counts exactly.
fn patient() -> BreakerConfig {
    steady()
        .with_consecutive_failures(u32::MAX)
        .with_failure_rate(1.0, Window::Calls(100_000), 100_000)
}

#[test]
fn every_call_of_two_and_of_four_threads_is_counted_once() {
    for threads in [2, 4] {
        for config in [
            patient(),
            patient().with_failure_rate(1.0, Window::Time(secs(3_600)), u32::MAX),
        ] {
            let recorded = Recorded::new();
            let breaker = breaker(config);
            let layer = CircuitBreakerLayer::http(breaker.clone());
            // The handles of the metrics are those of this thread.
            breaker.admit(None).unwrap().record(Verdict::Ignored);

            thread::scope(|scope| {
                for _ in 0..threads {
                    let mut service = layer.layer(Echo);
                    scope.spawn(move || {
                        for call in 0..CALLS {
                            let status: u16 = match call % 5 {
                                0 => 503,
                                1 => 429,
                                2 => 404,
                                _ => 200,
                            };
                            let mut request = get();
                            let status = http::StatusCode::from_u16(status).unwrap();
                            request.extensions_mut().insert(status);
                            assert!(
                                Service::<Request<Full<Bytes>>>::poll_ready(
                                    &mut service,
                                    &mut no_context()
                                )
                                .is_ready()
                            );
                            let Poll::Ready(Ok(response)) =
                                poll(&mut Box::pin(service.call(request)))
                            else {
                                panic!("it answers at once");
                            };
                            assert_eq!(response.status(), status);
                        }
                    });
                }
            });

            let fifth = u64::from(CALLS / 5) * threads;
            assert_eq!(
                recorded.outcomes(),
                outcomes([
                    ("failure", fifth),
                    ("ignored", 1),
                    ("success", 3 * fifth),
                    ("throttled", fifth)
                ])
            );
            let counts = breaker.snapshot().failures().unwrap();
            assert_eq!((counts.calls, counts.failures), (5 * fifth, 2 * fifth));
            assert_eq!(breaker.state(), State::Closed);
            assert_eq!(recorded.stale(), 0);
        }
    }
}

#[test]
fn a_run_of_failures_of_many_threads_is_as_long_as_it_was() {
    let breaker = breaker(patient());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..CALLS {
                    breaker.admit(None).unwrap().record(failure());
                }
            });
        }
    });
    assert_eq!(run(&breaker), u32::from(CALLS) * 4);
}

#[test]
fn it_opens_once_however_many_threads_fail_at_once() {
    for _ in 0..50 {
        let breaker = breaker(steady());
        let opened = std::sync::Arc::new(AtomicUsize::new(0));
        let opens = std::sync::Arc::clone(&opened);
        breaker.on_transition(move |_, transition| {
            assert_eq!(transition.to(), State::Open);
            opens.fetch_add(1, Ordering::SeqCst);
        });
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Ok(permit) = breaker.admit(None) {
                        permit.record(failure());
                    }
                });
            }
        });
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
}

/// Answers at once, and knows how many of its bodies and calls are under way.
#[derive(Clone)]
struct Counted<'a> {
    under_way: &'a AtomicUsize,
    most: &'a AtomicUsize,
}

struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<'a> Service<u16> for Counted<'a> {
    type Response = ();
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<(), Infallible>> + Send + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, number: u16) -> Self::Future {
        let busy = Busy(self.under_way);
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        Box::pin(async move {
            thread::yield_now();
            if number.is_multiple_of(3) {
                std::future::pending::<()>().await;
            }
            drop(busy);
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn threads_never_have_more_probes_under_way_than_are_allowed_and_no_place_is_lost() {
    const PLACES: u32 = 2;
    let breaker = breaker(steady().with_probes(PLACES, u32::MAX));
    while let Ok(permit) = breaker.admit(None) {
        permit.record(failure());
    }
    tokio::time::advance(secs(30)).await;
    // From here on it stays half-open: no probe fails, and it would take too many to close it.
    let clock = tokio::runtime::Handle::current();
    let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let passed = AtomicUsize::new(0);
    let layer = CircuitBreakerLayer::new(breaker.clone(), |_: &Result<(), Infallible>| {
        Verdict::Success
    });

    thread::scope(|scope| {
        for _ in 0..4 {
            let counted = Counted {
                under_way: &under_way,
                most: &most,
            };
            let mut service = layer.layer(counted);
            let (clock, passed) = (&clock, &passed);
            scope.spawn(move || {
                let _clock = clock.enter();
                for number in 0..CALLS {
                    assert!(service.poll_ready(&mut no_context()).is_ready());
                    let mut call = Box::pin(service.call(number));
                    match poll(&mut call) {
                        Poll::Ready(Ok(_)) => {
                            passed.fetch_add(1, Ordering::SeqCst);
                        }
                        Poll::Ready(Err(_)) => {}
                        // It is dropped as it waits.
                        Poll::Pending => assert!(number.is_multiple_of(3)),
                    }
                }
            });
        }
    });

    assert_eq!(breaker.state(), State::HalfOpen);
    assert!(most.load(Ordering::SeqCst) <= PLACES as usize);
    assert!(passed.load(Ordering::SeqCst) > 0);
    assert_eq!(under_way.load(Ordering::SeqCst), 0);
    let permits: Vec<_> = std::iter::from_fn(|| breaker.admit(None).ok()).collect();
    assert_eq!(permits.len(), PLACES as usize, "each place is free again");
}

#[tokio::test(start_paused = true)]
async fn of_threads_that_come_after_the_open_time_exactly_one_probes() {
    let clock = tokio::runtime::Handle::current();
    for _ in 0..200 {
        let breaker = breaker(steady());
        while let Ok(permit) = breaker.admit(None) {
            permit.record(failure());
        }
        tokio::time::advance(secs(30)).await;
        let start = std::sync::Barrier::new(4);
        let permits = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let _clock = clock.enter();
                        start.wait();
                        breaker.admit(None)
                    })
                })
                .collect();
            let permits = threads.into_iter().map(|thread| thread.join().unwrap());
            permits.collect::<Vec<_>>()
        });
        assert_eq!(permits.iter().filter(|permit| permit.is_ok()).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_of_many_workers_share_one_breaker() {
    let breaker = breaker(steady());
    let layer = CircuitBreakerLayer::http(breaker.clone());
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let mut service = layer.layer(Echo);
            tokio::spawn(async move {
                let mut request = get();
                request
                    .extensions_mut()
                    .insert(http::StatusCode::SERVICE_UNAVAILABLE);
                std::future::poll_fn(|cx| {
                    Service::<Request<Full<Bytes>>>::poll_ready(&mut service, cx)
                })
                .await
                .unwrap();
                service.call(request).await.unwrap()
            })
        })
        .collect();
    let mut passed = 0;
    for task in tasks {
        passed += usize::from(rejected(&task.await.unwrap()).is_none());
    }
    // Those that had passed when it opened.
    assert!((5..=9).contains(&passed), "{passed}");
    assert_eq!(breaker.state(), State::Open);
}
