//! idempotency I8: what of an answer that is not kept is given to those who joined its execution.

use http::{HeaderMap, Response};
use steadfast_idempotency::{IdempotencyConfig, Outcome};
use steadfast_testkit::faults::Method;

use crate::support::{
    Answer, Body, Crowd, Handler, Latch, World, body, charge,
    grpc::{CREATE, answered, create, trailers, trailers_only},
};

const COUNT: usize = 3;
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// What an answer says of the moment: given to those who joined, and never kept.
const OF_THE_MOMENT: [(&str, &str); 8] = [
    ("retry-after", "7"),
    ("ratelimit", "\"default\";r=0;t=7"),
    ("ratelimit-policy", "\"default\";q=10;w=60"),
    ("x-ratelimit-remaining", "0"),
    ("x-ratelimit-reset", "7"),
    ("www-authenticate", "Bearer realm=\"a\""),
    ("www-authenticate", "Basic realm=\"b\""),
    ("grpc-retry-pushback-ms", "7000"),
];

/// The first client's own.
const OF_THE_CALLER: [(&str, &str); 8] = [
    ("set-cookie", "session=first"),
    ("date", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ("x-request-id", "1"),
    ("x-correlation-id", "1"),
    ("traceparent", "00-1"),
    ("server-timing", "db;dur=53"),
    ("access-control-allow-origin", "https://first.example"),
    ("proxy-authenticate", "Basic"),
];

fn with_all(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in OF_THE_MOMENT.into_iter().chain(OF_THE_CALLER) {
        headers.append(name, value.parse().unwrap());
    }
    headers.insert("x-own", "7".parse().unwrap());
    response
}

fn with_status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(body("it")).unwrap()
}

/// Gives this answer once the latch is open.
fn held(latch: &Latch, answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Handler {
    let latch = latch.clone();
    Handler::new(move |_| {
        let (latch, answer) = (latch.clone(), answer());
        async move {
            latch.pass().await;
            Ok(answer)
        }
    })
}

/// The answers to those who joined the first request, and to the first.
async fn joined(
    world: &World,
    latch: &Latch,
    request: impl Fn() -> http::Request<Body>,
) -> (Answer, Vec<Answer>) {
    let first = world.start(request());
    latch.reached().await;
    let crowd = Crowd::of(world, COUNT, request).await;
    latch.open();
    let answers = crowd.answers().await;
    assert_eq!(answers.len(), COUNT);
    (first.await.unwrap(), answers)
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    let values = headers.get_all(name).iter();
    values.map(http::HeaderValue::as_bytes).collect()
}

#[track_caller]
fn assert_of_the_moment(first: &Answer, answer: &Answer) {
    assert_eq!(
        answer.header("idempotent-replayed"),
        Some("true"),
        "{answer:?}"
    );
    assert_eq!((answer.status, &answer.body), (first.status, &first.body));
    for (name, _) in OF_THE_MOMENT.into_iter().chain([("x-own", "")]) {
        let told = values(&answer.headers, name);
        assert_eq!(told, values(&first.headers, name), "{name}");
        assert!(!told.is_empty(), "{name}");
    }
    for (name, _) in OF_THE_CALLER {
        assert!(first.headers.contains_key(name), "{name}");
        assert!(!answer.headers.contains_key(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_kept_is_shared_with_what_it_says_of_the_moment() {
    for status in [408, 429, 500, 503] {
        for promise in [World::at_most_once, World::at_least_once] {
            let latch = Latch::new();
            let world = promise(held(&latch, move || with_all(with_status(status))));

            let (first, answers) = joined(&world, &latch, || charge("k")).await;

            assert_eq!(first.status, status);
            for answer in answers {
                assert_of_the_moment(&first, &answer);
            }
            assert_eq!(world.faults.calls(Method::Begin), 1);
        }
    }
}

/// Without its `Retry-After` it would read as a final conflict.
#[tokio::test(start_paused = true)]
async fn a_pending_answer_of_a_service_behind_is_shared_as_pending_and_not_kept() {
    for promise in [World::at_most_once, World::at_least_once] {
        let latch = Latch::new();
        let world = promise(held(&latch, || {
            let mut response = with_status(409);
            let headers = response.headers_mut();
            headers.insert("retry-after", "7".parse().unwrap());
            response
        }));

        let (first, answers) = joined(&world, &latch, || charge("k")).await;

        first.assert_retry_after("7");
        for answer in answers {
            answer.assert_replayed("it");
            assert_eq!(answer.status, 409);
            answer.assert_retry_after("7");
        }
        world.assert_idle().await;
        assert_eq!(world.faults.answers(Method::Abandon), 1);
        assert_eq!(world.faults.calls(Method::Complete), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_released_answer_is_shared_with_what_it_says_of_the_moment() {
    let latch = Latch::new();
    let world = World::at_most_once(held(&latch, || {
        let mut response = with_all(with_status(401));
        response.extensions_mut().insert(Outcome::Release);
        response
    }));

    let (first, answers) = joined(&world, &latch, || charge("k")).await;

    for answer in answers {
        assert_of_the_moment(&first, &answer);
    }
    assert_eq!(world.handler.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kept_answer_is_shared_as_it_is_replayed() {
    for status in [201, 402, 404] {
        let latch = Latch::new();
        let world = World::at_most_once(held(&latch, move || with_all(with_status(status))));

        let (first, answers) = joined(&world, &latch, || charge("k")).await;
        let replayed = world.send(charge("k")).await;

        replayed.assert_replayed("it");
        for (name, _) in OF_THE_MOMENT.into_iter().chain(OF_THE_CALLER) {
            assert!(first.headers.contains_key(name), "{name}");
            assert!(!replayed.headers.contains_key(name), "{name}");
        }
        for answer in answers {
            assert_eq!(answer.headers, replayed.headers);
            assert_eq!(
                (answer.status, answer.body),
                (replayed.status, replayed.body.clone())
            );
        }
        assert_eq!(world.handler.started(), 1);
    }
}

/// The answers to a call that failed, with what gRPC says to its client about retries where it says it.
async fn failed(in_headers: bool) -> (HeaderMap, Vec<HeaderMap>) {
    let with_pushback = |headers: &mut HeaderMap| {
        headers.insert(PUSHBACK, "7000".parse().unwrap());
        headers.insert("grpc-tags-bin", "AAEC".parse().unwrap());
    };
    let latch = Latch::new();
    let config = IdempotencyConfig::default().with_grpc_methods([CREATE]);
    let world = World::at_most_once(held(&latch, move || {
        if in_headers {
            let mut response = trailers_only("14");
            with_pushback(response.headers_mut());
            return response;
        }
        let mut trailers = trailers("14");
        with_pushback(&mut trailers);
        answered("half", trailers)
    }))
    .with_config(config);

    let (first, answers) = joined(&world, &latch, || create("k")).await;

    let place = |answer: Answer| match in_headers {
        true => answer.headers,
        false => answer.trailers.expect("trailers"),
    };
    let joined = answers.into_iter().inspect(|answer| {
        assert_eq!(answer.header("idempotent-replayed"), Some("true"));
    });
    let joined = joined.map(place).collect();
    (place(first), joined)
}

#[track_caller]
fn assert_pushed_back(first: &HeaderMap, joined: &[HeaderMap]) {
    for told in joined {
        assert_eq!(told["grpc-status"], "14");
        assert_eq!(told.get(PUSHBACK), first.get(PUSHBACK));
        assert!(first.contains_key("grpc-tags-bin") && !told.contains_key("grpc-tags-bin"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_failed_is_shared_with_the_pushback_in_its_headers() {
    let (first, joined) = failed(true).await;

    assert_pushed_back(&first, &joined);
}

/// Where it is not Trailers-Only.
#[tokio::test(start_paused = true)]
async fn a_call_that_failed_is_shared_with_the_pushback_in_its_trailers() {
    let (first, joined) = failed(false).await;

    assert_pushed_back(&first, &joined);
}
