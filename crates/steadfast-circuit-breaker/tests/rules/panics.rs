//! circuit-breaker B6: somebody else's code panics.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use steadfast_circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, State, Verdict, When};
use tower::{Layer, Service, service_fn};

use crate::support::{
    Fault, Get, Piece, Recorded, Site, Step, answer_of, brittle, get, no_context, ok, outcomes,
    poll, poll_body, rejected, rpc, run, secs, steady, streamed,
};

/// Runs it, and says with which words it panicked.
fn panics(code: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(code)).expect_err("it panics");
    match payload.downcast::<&str>() {
        Ok(words) => (*words).to_owned(),
        Err(payload) => resume_unwind(payload),
    }
}

fn at_the_end(breaker: CircuitBreaker) -> CircuitBreakerLayer {
    CircuitBreakerLayer::http(breaker).with_outcome_at(When::End)
}

fn call_and_read(site: &Site) {
    let mut call = site.start(get());
    if let std::task::Poll::Ready(response) = poll(&mut call) {
        let mut response = response.unwrap();
        while let std::task::Poll::Ready(Some(_)) = poll_body(response.body_mut()) {}
    }
}

type Case = (
    &'static str,
    fn(CircuitBreaker) -> CircuitBreakerLayer,
    Step,
    &'static str,
);

fn cases() -> Vec<Case> {
    let body = || streamed([Piece::Text("a"), Piece::Panic]);
    vec![
        (
            "in call",
            CircuitBreakerLayer::http,
            Step::PanicInCall,
            "the script says so",
        ),
        (
            "in poll",
            CircuitBreakerLayer::http,
            Step::PanicInPoll,
            "the script says so",
        ),
        (
            "in call of gRPC",
            CircuitBreakerLayer::grpc,
            Step::PanicInCall,
            "the script says so",
        ),
        (
            "in the body",
            at_the_end,
            Step::Answer(body()),
            "the body says so",
        ),
        (
            "in the body of gRPC",
            CircuitBreakerLayer::grpc,
            Step::Answer(body()),
            "the body says so",
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn the_panic_reaches_the_caller_and_is_a_failure() {
    for (name, layer, step, words) in cases() {
        let recorded = Recorded::new();
        let site = Site::of(steady(), [step, ok()], layer);

        assert_eq!(panics(|| call_and_read(&site)), words, "{name}");

        assert_eq!(run(&site.breaker), 1, "{name}");
        assert_eq!(recorded.outcomes(), outcomes([("failure", 1)]), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_by_panics_and_goes_on() {
    for (name, layer, step, _) in cases() {
        let site = Site::of(steady(), [step], layer);
        for _ in 0..5 {
            panics(|| call_and_read(&site));
        }
        assert_eq!(site.breaker.state(), State::Open, "{name}");

        tokio::time::advance(secs(30)).await;
        panics(|| call_and_read(&site));
        assert_eq!(site.breaker.state(), State::Open, "a probe: {name}");

        tokio::time::advance(secs(30)).await;
        site.script
            .play(Step::Answer(crate::support::trailers_only(0)));
        for state in [State::HalfOpen, State::HalfOpen, State::Closed] {
            call_and_read(&site);
            assert_eq!(site.breaker.state(), state, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_while_a_panic_is_under_way_ends_nothing() {
    let site = Site::http(brittle(), [Step::PanicInPoll]);
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&heard);
    site.breaker
        .on_transition(|_, _| panic!("so does the hook"));
    site.breaker.on_transition(move |_, _| {
        hears.fetch_add(1, Ordering::SeqCst);
    });

    assert_eq!(panics(|| call_and_read(&site)), "the script says so");

    assert_eq!(site.breaker.state(), State::Open);
    assert_eq!(heard.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_says_nothing_where_the_head_decided() {
    let recorded = Recorded::new();
    let answer = answer_of(200, [Piece::Panic]);
    let site = Site::http(steady(), [Step::Answer(answer)]);

    assert_eq!(panics(|| call_and_read(&site)), "the body says so");

    assert_eq!(run(&site.breaker), 0);
    assert_eq!(recorded.outcomes(), outcomes([("success", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_kept_after_its_panic_counts_once() {
    let recorded = Recorded::new();
    let answer = streamed([Piece::Text("a"), Piece::Panic, Piece::Stall]);
    let site = Site::grpc(steady(), [Step::Answer(answer)]);
    let mut call = site.start(rpc());
    let std::task::Poll::Ready(Ok(mut response)) = poll(&mut call) else {
        panic!("it answers at once");
    };
    assert!(poll_body(response.body_mut()).is_ready());
    panics(|| drop(poll_body(response.body_mut())));

    drop(response);

    assert_eq!(recorded.outcomes(), outcomes([("failure", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_panics_fails_the_call() {
    let breaker = crate::support::breaker(steady());
    let site = Site::http(steady(), [Step::Answer(answer_of(500, []))]);
    let layer = CircuitBreakerLayer::http(breaker.clone())
        .with_classifier(|_, _| -> Verdict { panic!("so does the classifier") });
    let site = Site {
        layer,
        breaker,
        ..site
    };

    assert_eq!(panics(|| call_and_read(&site)), "so does the classifier");
    assert_eq!(run(&site.breaker), 1);

    site.script.play(Step::Fail(Fault::Reset));
    assert_eq!(
        panics(|| drop(poll(&mut site.start(get())))),
        "so does the classifier"
    );
    assert_eq!(run(&site.breaker), 2);
}

#[tokio::test(start_paused = true)]
async fn a_classifier_of_other_services_that_panics_fails_the_call() {
    let breaker = crate::support::breaker(steady());
    let layer = CircuitBreakerLayer::new(breaker.clone(), |_: &Result<u8, Fault>| -> Verdict {
        panic!("so does the classifier")
    });
    let mut service = layer.layer(service_fn(|number: u8| async move { Ok(number) }));
    assert!(service.poll_ready(&mut no_context()).is_ready());

    let mut call = Box::pin(service.call(7));

    assert_eq!(panics(|| drop(poll(&mut call))), "so does the classifier");
    assert_eq!(run(&breaker), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_that_panics_takes_no_place_of_a_probe() {
    let breaker = crate::support::breaker(steady());
    let layer = CircuitBreakerLayer::http(breaker.clone())
        .with_fallback(|_, _| panic!("so does the fallback"));
    let site = Site {
        layer,
        breaker,
        ..Site::http(steady(), [Step::Hang])
    };
    site.recover().await;
    let probe = site.pending(get());

    assert_eq!(panics(|| drop(site.start(get()))), "so does the fallback");

    drop(probe);
    let _probe = site.pending(get());
    assert_eq!(panics(|| drop(site.start(get()))), "so does the fallback");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_leaves_the_service_usable() {
    let site = Site::http(steady(), [Step::PanicInPoll, ok()]);
    let mut service = site.service();
    let mut call = {
        assert!(Service::<Get>::poll_ready(&mut service, &mut no_context()).is_ready());
        tokio::spawn(service.call(get()))
    };
    assert!((&mut call).await.unwrap_err().is_panic());

    assert!(Service::<Get>::poll_ready(&mut service, &mut no_context()).is_ready());
    let response = service.call(get()).await.unwrap();
    assert_eq!(rejected(&response), None);
    assert_eq!(response.status(), 200);
}
