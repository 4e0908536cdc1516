//! idempotency I9, I10, I11 for gRPC: the status of a call, in its headers or its trailers, is what its answer means.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, Response};
use http_body::Body as _;
use steadfast_http::grpc::Code;
use steadfast_idempotency::{IdempotencyConfig, Outcome};
use tower::{Service, ServiceExt};

use crate::support::{
    Answer, Body, Handler, World, body,
    grpc::{CREATE, answered, create, message, trailers, trailers_only},
    with_trailers,
};

fn config() -> IdempotencyConfig {
    IdempotencyConfig::default().with_grpc_methods([CREATE])
}

/// Answers its first call so, and OK later.
fn first(answer: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Handler {
    Handler::new(move |call| {
        let response = match call.number {
            1 => answer(),
            number => answered(&format!("charge {number}"), trailers("0")),
        };
        async move { Ok(response) }
    })
}

/// Asserts what an answer means to both promises: what the second call gets.
async fn assert_means(
    outcome: Outcome,
    what: &str,
    answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
) {
    for promise in [World::at_most_once, World::at_least_once] {
        let world = promise(first(answer.clone())).with_config(config());

        let executed = world.send(create("k")).await;
        world.assert_idle().await;
        let retry = world.send(create("k")).await;

        assert_eq!(executed.header("idempotent-replayed"), Some("false"));
        assert_eq!(executed.header("idempotent-stored"), None);
        let (started, execution) = match outcome {
            Outcome::Store => (1, 1),
            Outcome::Release => (2, 1),
            Outcome::Unknown if world.is_at_most_once() => (1, 1),
            Outcome::Unknown | _ => (2, 2),
        };
        assert_eq!(world.handler.started(), started, "{what}");
        assert_eq!(world.handler.operation().execution(), execution, "{what}");
        if outcome == Outcome::Store {
            assert_eq!(retry.header("idempotent-replayed"), Some("true"), "{what}");
            assert_eq!(
                (retry.status, &retry.body),
                (executed.status, &executed.body)
            );
            assert_eq!(retry.trailers, executed.trailers);
        } else if started == 1 {
            retry.assert_grpc_refused(9, "OUTCOME_UNKNOWN", Some("-1"));
        } else {
            retry.assert_executed(std::str::from_utf8(&message("charge 2")).unwrap());
        }
    }
}

const fn meaning(code: Code) -> Outcome {
    match code {
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange => Outcome::Store,
        Code::Unimplemented | Code::Unauthenticated => Outcome::Release,
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Outcome::Unknown,
    }
}

#[tokio::test(start_paused = true)]
async fn each_code_has_its_meaning_in_the_trailers_and_in_the_headers() {
    for &code in Code::ALL {
        let status = code.as_u32().to_string();
        let in_trailers = {
            let status = status.clone();
            move || answered("charge 1", trailers(&status))
        };
        assert_means(meaning(code), &format!("{code} in trailers"), in_trailers).await;
        let in_headers = move || trailers_only(&status);
        assert_means(meaning(code), &format!("{code} in headers"), in_headers).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_missing_or_cannot_be_read_is_unknown() {
    for status in ["", "ok", "17", "99", "00", "+0", "-1", "0 "] {
        let in_trailers = move || answered("charge 1", trailers(status));
        assert_means(Outcome::Unknown, status, in_trailers).await;
        assert_means(Outcome::Unknown, status, move || trailers_only(status)).await;
    }
    let other = || {
        answered(
            "charge 1",
            HeaderMap::from_iter([("x-own".parse().unwrap(), "0".parse().unwrap())]),
        )
    };
    assert_means(Outcome::Unknown, "trailers without a status", other).await;
    let without_trailers = || {
        Response::builder()
            .header("content-type", "application/grpc")
            .body(body(message("charge 1")))
            .unwrap()
    };
    assert_means(Outcome::Unknown, "no trailers", without_trailers).await;
}

#[tokio::test(start_paused = true)]
async fn a_content_type_of_grpc_with_a_suffix_or_parameters_is_grpc() {
    for content_type in [
        "application/grpc+proto",
        "application/grpc;x=1",
        "Application/gRPC",
    ] {
        for (status, outcome) in [("0", Outcome::Store), ("14", Outcome::Unknown)] {
            assert_means(outcome, content_type, move || {
                Response::builder()
                    .header("content-type", content_type)
                    .body(with_trailers(message("charge 1"), trailers(status)))
                    .unwrap()
            })
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_grpc_status_the_http_status_tells_the_code() {
    for (status, outcome) in [
        (400, Outcome::Unknown),
        (401, Outcome::Release),
        (403, Outcome::Store),
        (404, Outcome::Release),
        (429, Outcome::Unknown),
        (500, Outcome::Unknown),
        (502, Outcome::Unknown),
        (503, Outcome::Unknown),
    ] {
        assert_means(outcome, &status.to_string(), move || {
            Response::builder()
                .status(status)
                .header("content-type", "application/grpc")
                .body(body(""))
                .unwrap()
        })
        .await;
    }
}

/// Whatever the client called its request.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_grpc_is_judged_by_http_and_one_of_grpc_web_is_unknown() {
    for (content_type, status, outcome) in [
        ("application/json", 200, Outcome::Store),
        ("application/json", 404, Outcome::Store),
        ("application/json", 502, Outcome::Unknown),
        ("application/json", 401, Outcome::Release),
        ("application/grpcx", 200, Outcome::Store),
        ("application/grpc-web", 200, Outcome::Unknown),
        ("application/grpc-web+proto", 200, Outcome::Unknown),
        ("application/grpc-web-text", 200, Outcome::Unknown),
    ] {
        assert_means(outcome, content_type, move || {
            Response::builder()
                .status(status)
                .header("content-type", content_type)
                .body(body("charge 1"))
                .unwrap()
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_handlers_own_word_comes_before_its_status() {
    for (status, own) in [
        ("14", Outcome::Store),
        ("0", Outcome::Release),
        ("0", Outcome::Unknown),
    ] {
        assert_means(own, status, move || {
            let mut response = answered("charge 1", trailers(status));
            response.extensions_mut().insert(own);
            response
        })
        .await;
        assert_means(own, status, move || {
            let mut response = trailers_only(status);
            response.extensions_mut().insert(own);
            response
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_the_same_head_message_and_trailers_and_its_mark() {
    let world = World::at_most_once(first(|| {
        let mut trailers = trailers("5");
        trailers.insert("grpc-message", "no such account%2C sorry".parse().unwrap());
        trailers.insert("grpc-status-details-bin", "CAUSA".parse().unwrap());
        trailers.append("x-own-bin", "AAEC".parse().unwrap());
        trailers.append("x-own-bin", "AwQF".parse().unwrap());
        let mut response = answered("charge 1", trailers);
        let headers = response.headers_mut();
        headers.insert("grpc-encoding", "identity".parse().unwrap());
        headers.append("x-meta", "a".parse().unwrap());
        headers.append("x-meta", "b".parse().unwrap());
        headers.insert("date", "Mon, 01 Jan 2024 00:00:00 GMT".parse().unwrap());
        response
    }))
    .with_config(config());

    let executed = world.send(create("k")).await;
    let replayed = world.send(create("k")).await;

    assert_eq!(executed.header("idempotent-replayed"), Some("false"));
    assert!(executed.headers.contains_key("date"));
    let mut head = executed.headers;
    head.remove("date");
    head.insert("idempotent-replayed", "true".parse().unwrap());
    assert_eq!(replayed.headers, head);
    assert_eq!(replayed.status, executed.status);
    assert_eq!(replayed.body, executed.body);
    assert_eq!(replayed.body, message("charge 1"));
    assert_eq!(replayed.trailers, executed.trailers);
    assert_eq!(
        replayed
            .trailers
            .unwrap()
            .get_all("x-own-bin")
            .iter()
            .count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_trailers_only_is_replayed_as_one() {
    let world = World::at_most_once(first(|| trailers_only("5"))).with_config(config());

    for marked in ["false", "true", "true"] {
        let mut service = world.service();
        let response = service
            .ready()
            .await
            .unwrap()
            .call(create("k"))
            .await
            .unwrap();

        assert!(response.body().is_end_stream());
        assert_eq!(response.headers()["idempotent-replayed"], marked);
        let answer = Answer::read(response).await;
        assert_eq!(answer.header("grpc-status"), Some("5"));
        assert_eq!(answer.trailers, None);
        assert!(answer.body.is_empty());
    }
}

/// What the hook was asked, and what the answer showed.
type Asked = Arc<Mutex<Vec<Option<Code>>>>;

type Answering = fn() -> Response<Body>;

fn asking(answer: Answering, says: Option<Outcome>) -> (World, Asked) {
    let asked = Asked::default();
    let world = World::at_most_once(first(answer)).with_config(config());
    let hook = {
        let asked = Arc::clone(&asked);
        move |head: &http::response::Parts| {
            asked
                .lock()
                .unwrap()
                .push(head.extensions.get::<Code>().copied());
            says
        }
    };
    (world.with(|layer| layer.with_outcome(hook)), asked)
}

#[tokio::test(start_paused = true)]
async fn the_outcome_hook_is_asked_once_and_finds_the_code() {
    let cases: [(Answering, Option<Code>); 5] = [
        (
            || answered("charge 1", trailers("14")),
            Some(Code::Unavailable),
        ),
        (|| trailers_only("14"), Some(Code::Unavailable)),
        (
            || answered("charge 1", HeaderMap::new()),
            Some(Code::Unknown),
        ),
        (
            || {
                let mut response = trailers_only("0");
                response.headers_mut().remove("grpc-status");
                *response.status_mut() = http::StatusCode::BAD_GATEWAY;
                response
            },
            Some(Code::Unavailable),
        ),
        (
            || {
                let mut response = Response::new(body("charge 1"));
                *response.status_mut() = http::StatusCode::BAD_GATEWAY;
                response
            },
            None,
        ),
    ];
    for (answer, code) in cases {
        for (says, started) in [
            (None, 1),
            (Some(Outcome::Store), 1),
            (Some(Outcome::Release), 2),
        ] {
            let (world, asked) = asking(answer, says);
            let mut service = world.service();

            let response = service
                .ready()
                .await
                .unwrap()
                .call(create("k"))
                .await
                .unwrap();

            assert_eq!(*asked.lock().unwrap(), [code]);
            assert!(
                response.extensions().get::<Code>().is_none(),
                "it is for the hook"
            );
            let retry = world.send(create("k")).await;
            match says {
                None => retry.assert_grpc_refused(9, "OUTCOME_UNKNOWN", Some("-1")),
                Some(Outcome::Store) => {
                    assert_eq!(retry.header("idempotent-replayed"), Some("true"));
                }
                Some(_) => assert_eq!(retry.header("idempotent-replayed"), Some("false")),
            }
            assert_eq!(world.handler.started(), started);
        }
    }
}
