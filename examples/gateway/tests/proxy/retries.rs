//! What is sent again, and what never is.

use std::{collections::HashSet, sync::Arc};

use tokio::task::JoinSet;

use crate::support::{Answer, Connection, Gateway, Protocol, Upstream, dead, says, text};

async fn post(gateway: &Gateway, headers: &[(&'static str, &str)], body: &'static str) -> Answer {
    let mut request = text("POST", "/", body);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
    connection.send(request).await.unwrap()
}

#[tokio::test]
async fn a_flapping_upstream_is_healed() {
    let upstream = Upstream::that(|number| match number {
        0 => says(503, "not now"),
        1 => None,
        _ => says(200, "answer"),
    })
    .await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
    let answer = connection.send(text("PUT", "/", "body")).await.unwrap();

    assert_eq!((answer.status.as_u16(), answer.text()), (200, "answer"));
    let seen = upstream.seen();
    assert!(seen.iter().all(|seen| seen.body == "body"));
    let attempts: Vec<_> = seen
        .iter()
        .map(|seen| seen.header("x-previous-attempts"))
        .collect();
    assert_eq!(attempts, [vec![], vec!["1"], vec!["2"]]);
}

#[tokio::test]
async fn the_last_answer_of_an_upstream_passes_where_none_was_better() {
    let upstream = Upstream::that(|_| says(503, "its own words")).await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let answer = gateway.get("/").await;

    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (503, "its own words")
    );
    assert_eq!(upstream.begun(), 3);
}

#[tokio::test]
async fn a_post_that_may_have_been_processed_is_not_sent_again() {
    let upstream = Upstream::that(|number| match number {
        0 => None,
        _ => says(503, "not now"),
    })
    .await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let lost = post(&gateway, &[], "charge").await;
    assert_eq!(lost.problem(), (502, "upstream-failed".to_owned()));
    assert_eq!(lost.json()["retryable"], false);
    assert_eq!(upstream.begun(), 1);

    let failed = post(&gateway, &[], "charge").await;
    assert_eq!((failed.status.as_u16(), failed.text()), (503, "not now"));
    assert_eq!(upstream.begun(), 2);
}

#[tokio::test]
async fn a_key_makes_a_post_repeatable_only_where_the_operator_says_that_upstreams_honour_it() {
    let key = [("idempotency-key", "one")];
    for (arguments, begun, status) in [
        (&[][..], 1, 502),
        (&["--trust-idempotency-key", "/"], 2, 201),
    ] {
        let upstream = Upstream::that(|number| match number {
            0 => None,
            _ => says(201, "charged"),
        })
        .await;
        let gateway = Gateway::with(&[&upstream.at("/")], arguments).await;

        let answer = post(&gateway, &key, "charge").await;

        assert_eq!(answer.status, status, "{arguments:?}");
        assert_eq!(upstream.begun(), begun, "{arguments:?}");
    }
}

#[tokio::test]
async fn keys_are_trusted_on_the_routes_that_are_named_and_on_no_other() {
    let upstream = Upstream::that(|_| None).await;
    let routes = [&*upstream.at("/one"), &*upstream.at("/two")];
    let limits = ["--trust-idempotency-key", "/one", "--breaker-failures", "9"];
    let gateway = Gateway::with(&routes, &limits).await;

    for (path, begun) in [("/one", 3), ("/two", 4)] {
        let mut request = text("POST", path, "charge");
        let key = "one".parse().unwrap();
        request.headers_mut().insert("idempotency-key", key);
        let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
        connection.send(request).await.unwrap();
        assert_eq!(upstream.begun(), begun, "{path}");
    }
}

#[tokio::test]
async fn what_is_too_early_is_for_the_client_to_send_again() {
    let upstream = Upstream::that(|_| says(425, "too early")).await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let answer = post(&gateway, &[("early-data", "1")], "charge").await;

    assert_eq!((answer.status.as_u16(), answer.text()), (425, "too early"));
    assert_eq!(upstream.begun(), 1);
    assert_eq!(upstream.seen()[0].header("early-data"), ["1"]);
    let breaker = gateway.breaker(&upstream.url()).await;
    assert_eq!(breaker["failures_in_a_row"], 0);
}

#[tokio::test]
async fn a_post_that_provably_was_not_processed_goes_to_the_other_upstream() {
    let (_port, refusing) = dead();
    let upstream = Upstream::saying("charged").await;
    let route = format!("/={refusing},{}", upstream.url());
    let gateway = Gateway::start(&[&route]).await;

    let answer = post(&gateway, &[], "charge").await;

    assert_eq!(answer.text(), "charged");
    assert_eq!(gateway.breaker(&refusing).await["failures_in_a_row"], 1);
    assert_eq!(upstream.seen()[0].body, "charge");
}

#[tokio::test]
async fn further_attempts_go_round_the_upstreams() {
    let (one, two, three) = (
        Upstream::that(|_| says(503, "one")).await,
        Upstream::that(|_| says(503, "two")).await,
        Upstream::that(|_| says(503, "three")).await,
    );
    let route = format!("{},{},{}", one.at("/"), two.url(), three.url());
    let gateway = Gateway::start(&[&route]).await;

    let mut last = HashSet::new();
    for request in 1..=3 {
        last.insert(gateway.get("/").await.text().to_owned());
        let begun = [one.begun(), two.begun(), three.begun()];
        assert_eq!(begun, [request; 3]);
    }

    assert_eq!(last.len(), 3, "each has the first turn once: {last:?}");
}

#[tokio::test]
async fn where_nobody_listens_the_client_is_told_no_more_than_that() {
    let (_port, refusing) = dead();
    let gateway = Gateway::start(&[&format!("/={refusing}")]).await;

    let answer = post(&gateway, &[], "charge").await;

    assert_eq!(answer.problem(), (502, "upstream-unreachable".to_owned()));
    assert_eq!(answer.json()["retryable"], true);
    let port = refusing.rsplit(':').next().unwrap();
    let told = format!("{:?} {}", answer.headers, answer.text());
    assert!(!told.contains(port) && !told.contains("refused"), "{told}");
}

#[tokio::test]
async fn a_body_larger_than_what_is_kept_passes_once() {
    for (length, begun) in [(100, 2), (101, 1)] {
        let upstream = Upstream::that(|number| match number {
            0 => says(503, "not now"),
            _ => says(200, "answer"),
        })
        .await;
        let gateway = Gateway::with(&[&upstream.at("/")], &["--replay-limit", "100"]).await;

        let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
        let request = text("PUT", "/", "x".repeat(length));
        connection.send(request).await.unwrap();

        assert_eq!(upstream.begun(), begun, "{length}");
        assert!(upstream.seen().iter().all(|seen| seen.body.len() == length));
    }
}

#[tokio::test]
async fn what_one_route_spends_on_retries_is_not_taken_from_another() {
    const CROWD: usize = 400;
    let sick = Upstream::that(|_| says(503, "not now")).await;
    let flapping = Upstream::that(|number| match number {
        0 => says(503, "not now"),
        _ => says(200, "answer"),
    })
    .await;
    let routes = [&*sick.at("/sick"), &*flapping.at("/well")];
    let gateway = Gateway::with(&routes, &["--breaker-failures", "1000000"]).await;
    let gateway = Arc::new(gateway);

    let mut crowd = JoinSet::new();
    for _ in 0..CROWD {
        let gateway = Arc::clone(&gateway);
        crowd.spawn(async move { gateway.get("/sick").await });
    }
    crowd.join_all().await;
    assert!(sick.begun() < 3 * CROWD, "the budget was not used up");

    assert_eq!(gateway.get("/well").await.text(), "answer");
}
