//! idempotency I9: an answer is stored before it is given, and given again as it was.

use std::{pin::pin, time::Duration};

use http::{HeaderMap, HeaderValue, Response};
use http_body::Body as _;
use steadfast_testkit::faults::Method;
use tokio::time::sleep;
use tower::{Service, ServiceExt};

use crate::support::{Body, Handler, World, body, charge, created, poll_once, with_trailers};

const NEVER_STORED: &[(&str, &str)] = &[
    ("access-control-allow-origin", "https://shop.example"),
    ("access-control-expose-headers", "x-own"),
    ("age", "3"),
    ("alt-svc", "h3=\":443\""),
    ("authentication-info", "nextnonce=\"1\""),
    ("baggage", "a=1"),
    ("clear-site-data", "\"cookies\""),
    ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ("keep-alive", "timeout=5"),
    ("nel", "{}"),
    ("proxy-authenticate", "Basic"),
    ("proxy-authentication-info", "nextnonce=\"1\""),
    ("proxy-connection", "close"),
    ("ratelimit", "\"default\";r=50;t=30"),
    ("ratelimit-limit", "100"),
    ("ratelimit-policy", "\"default\";q=100;w=60"),
    ("report-to", "{}"),
    ("reporting-endpoints", "a=\"/r\""),
    ("retry-after", "5"),
    ("server-timing", "db;dur=53"),
    ("set-cookie", "session=1"),
    ("te", "trailers"),
    ("traceparent", "00-1-2-00"),
    ("tracestate", "a=1"),
    ("trailer", "checksum"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "h2c"),
    ("via", "1.1 proxy"),
    ("www-authenticate", "Bearer"),
    ("x-ratelimit-remaining", "7"),
    ("x-request-id", "1"),
];

#[tokio::test(start_paused = true)]
async fn a_header_that_is_not_the_answers_own_is_given_once_and_never_replayed() {
    for &(name, value) in NEVER_STORED {
        let world = World::at_most_once(Handler::answering(move || {
            Response::builder()
                .header(name, value)
                .header("x-own", "kept")
                .body(body("charged"))
                .unwrap()
        }));

        let first = world.send(charge("k")).await;
        first.assert_executed("charged");
        assert_eq!(first.header(name), Some(value), "the first answer has it");
        assert_eq!(first.header("x-own"), Some("kept"));

        let replay = world.send(charge("k")).await;
        replay.assert_replayed("charged");
        assert_eq!(replay.header(name), None, "{name} was replayed");
        assert_eq!(replay.header("x-own"), Some("kept"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_connection_names_is_not_replayed() {
    let world = World::at_most_once(Handler::answering(|| {
        Response::builder()
            .header("connection", "X-Hop, close")
            .header("connection", "x-other-hop")
            .header("x-hop", "1")
            .header("x-other-hop", "2")
            .header("x-own", "kept")
            .body(body("charged"))
            .unwrap()
    }));

    let first = world.send(charge("k")).await;
    assert_eq!(first.header("x-hop"), Some("1"));

    let replay = world.send(charge("k")).await;
    for name in ["connection", "x-hop", "x-other-hop"] {
        assert_eq!(replay.header(name), None, "{name} was replayed");
    }
    assert_eq!(replay.header("x-own"), Some("kept"));
}

fn rich() -> Response<Body> {
    let mut response = Response::builder()
        .status(303)
        .header("location", "/charges/1")
        .header("etag", "\"1\"")
        .header("content-type", "application/json; charset=utf-8")
        .header("content-language", "de")
        .header("content-encoding", "identity")
        .header("cache-control", "no-store")
        .header("vary", "accept")
        .header("link", "</a>; rel=a")
        .header("link", "</b>; rel=b")
        .header("x-own", "2")
        .header("x-own", "1")
        .header("x-own", "2")
        .header("x-empty", "")
        .body(body("{}"))
        .unwrap();
    let latin = HeaderValue::from_bytes(b"caf\xe9").unwrap();
    response.headers_mut().insert("x-latin", latin);
    response
}

#[tokio::test(start_paused = true)]
async fn status_and_headers_are_replayed_repeated_and_non_utf8_ones_too() {
    for world in World::both(|| Handler::answering(rich)) {
        let first = world.send(charge("k")).await;
        let replay = world.send(charge("k")).await;

        replay.assert_replayed("{}");
        assert_eq!(replay.status, 303);
        let mut expected = first.headers.clone();
        expected.insert("idempotent-replayed", HeaderValue::from_static("true"));
        assert_eq!(replay.headers, expected);
        let own: Vec<_> = replay.headers.get_all("x-own").iter().collect();
        assert_eq!(own, ["2", "1", "2"]);
        assert_eq!(replay.headers["x-latin"].as_bytes(), b"caf\xe9");
        assert_eq!(world.handler.started(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn every_replay_is_the_same() {
    let world = World::at_most_once(Handler::answering(rich));
    world.send(charge("k")).await;
    let replay = world.send(charge("k")).await;

    for _ in 0..3 {
        sleep(Duration::from_secs(3_600)).await;
        let again = world.send(charge("k")).await;
        assert_eq!(again.status, replay.status);
        assert_eq!(again.headers, replay.headers);
        assert_eq!(again.body, replay.body);
    }
}

#[tokio::test(start_paused = true)]
async fn the_markers_are_the_layers_word() {
    let world = World::at_most_once(Handler::answering(|| {
        Response::builder()
            .header("idempotent-replayed", "true")
            .header("idempotent-replayed", "maybe")
            .header("idempotent-stored", "false")
            .body(body("charged"))
            .unwrap()
    }));

    let first = world.send(charge("k")).await;
    first.assert_executed("charged");
    assert_eq!(
        first.headers.get_all("idempotent-replayed").iter().count(),
        1
    );

    let replay = world.send(charge("k")).await;
    replay.assert_replayed("charged");
    assert_eq!(
        replay.headers.get_all("idempotent-replayed").iter().count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn trailers_are_given_and_replayed() {
    for content in ["charged", ""] {
        let world = World::at_most_once(Handler::answering(move || {
            let mut trailers = HeaderMap::new();
            trailers.append("checksum", HeaderValue::from_static("1"));
            trailers.append("checksum", HeaderValue::from_bytes(b"\xe9").unwrap());
            Response::new(with_trailers(content, trailers))
        }));

        let first = world.send(charge("k")).await;
        first.assert_executed(content);
        assert_eq!(first.trailers.as_ref().unwrap().len(), 2);

        let replay = world.send(charge("k")).await;
        replay.assert_replayed(content);
        assert_eq!(replay.trailers, first.trailers);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_says_the_length_of_its_body_anew() {
    let world = World::at_most_once(Handler::answering(|| {
        Response::builder()
            .header("content-length", "7")
            .body(body("charged"))
            .unwrap()
    }));
    let first = world.send(charge("k")).await;
    assert_eq!(first.header("content-length"), Some("7"));

    let mut service = world.service();
    let replay = service.ready().await.unwrap().call(charge("k")).await;
    let replay = replay.unwrap();

    assert_eq!(replay.headers().get("content-length"), None);
    assert_eq!(replay.body().size_hint().exact(), Some(7));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_is_replayed_without_one() {
    let world = World::at_most_once(Handler::answering(|| {
        Response::builder().status(204).body(body("")).unwrap()
    }));
    world.send(charge("k")).await.assert_executed("");

    let mut service = world.service();
    let replay = service.ready().await.unwrap().call(charge("k")).await;
    let replay = replay.unwrap();

    assert_eq!(replay.status(), 204);
    assert!(replay.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn nobody_sees_an_answer_that_is_not_stored() {
    for world in World::both(Handler::counting) {
        let gate = world.faults.on(Method::Complete).hold_before(1);
        let mut service = world.service();
        let mut response = pin!(service.ready().await.unwrap().call(charge("k")));

        assert!(poll_once(response.as_mut()).await.is_pending());
        assert_eq!(world.handler.finished(), 1);
        assert!(poll_once(response.as_mut()).await.is_pending());

        gate.open();
        assert_eq!(response.await.unwrap().status(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_answers_for_its_retention_and_no_longer() {
    let world = World::at_most_once(Handler::counting());
    world.send(charge("k")).await.assert_executed("charge 1");

    sleep(Duration::from_secs(86_399)).await;
    world.send(charge("k")).await.assert_replayed("charge 1");

    sleep(Duration::from_secs(2)).await;
    world.send(charge("k")).await.assert_executed("charge 2");
}

#[tokio::test(start_paused = true)]
async fn retention_counts_anew_from_a_takeover() {
    let world = World::at_least_once(Handler::new(|call| async move {
        let mut response = created(call.number);
        if call.number == 1 {
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        }
        Ok(response)
    }));
    assert_eq!(world.send(charge("k")).await.status, 502);

    sleep(Duration::from_secs(86_000)).await;
    world.send(charge("k")).await.assert_executed("charge 2");

    sleep(Duration::from_secs(86_399)).await;
    world.send(charge("k")).await.assert_replayed("charge 2");
}
