//! hyper-util's client and reqwest's (circuit-breaker B3, B7 to B9, B11).

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::{self, Client, connect::HttpConnector};
use steadfast::{
    circuit_breaker::{
        BreakerConfig, BreakerRegistry, CircuitBreaker, CircuitBreakerLayer, Destination, Guarded,
        Refusal, Rejected, State, When,
    },
    http::{
        LocalRejection,
        reqwest::{ReqwestLayer, ReqwestService},
    },
};
use tower::{Layer, ServiceExt};

use super::{
    answer, assert_rejected, breaker, brief, configured, counted, failures_in_a_row, get, http,
    hyper_client, post,
    script::{Reserved, Script, Step, answers, says},
    send, trip, until_probed,
};
use crate::support::{Protocol, within};

type HyperClient = Client<HttpConnector, Full<Bytes>>;

fn over_hyper(breaker: &CircuitBreaker) -> Guarded<HyperClient> {
    http(breaker).layer(hyper_client(Protocol::Http1))
}

fn ended(breaker: &CircuitBreaker) -> Guarded<HyperClient> {
    let layer = http(breaker).with_outcome_at(When::End);
    layer.layer(hyper_client(Protocol::Http1))
}

fn five(step: Step) -> Vec<Step> {
    vec![step; 5]
}

#[tokio::test]
async fn five_failed_answers_open_it() {
    for status in [500, 502, 503, 504, 408] {
        let script = Script::serve(five(answers(status))).await;
        let breaker = breaker();
        let client = over_hyper(&breaker);

        for _ in 0..5 {
            let response = answer(&client, get(&script.url())).await;
            assert_eq!(response.status(), status);
            assert_eq!(response.body(), "said");
            assert!(response.extensions().get::<Rejected>().is_none());
        }

        for _ in 0..3 {
            assert_rejected(&answer(&client, post(&script.url(), "amount=5")).await);
        }
        assert_eq!(script.requests(), 5);
    }
}

#[tokio::test]
async fn it_closes_after_three_probes_over_either_protocol() {
    for protocol in Protocol::ALL {
        let till = super::servers::Till::new(500);
        let app = axum::Router::new().fallback_service(till.route());
        let url = format!("http://{}/", crate::support::serve(app).await);
        let breaker = configured(brief());
        let client: Guarded<HyperClient> = http(&breaker).layer(hyper_client(protocol));
        for _ in 0..5 {
            answer(&client, get(&url)).await;
        }
        till.answers(201);

        until_probed(&breaker).await;
        for _ in 0..3 {
            assert_ne!(breaker.state(), State::Closed);
            assert_eq!(answer(&client, get(&url)).await.status(), 201);
        }

        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(till.runs(), 8);
    }
}

#[tokio::test]
async fn refused_connections_open_it_and_errors_keep_their_type() {
    let reserved = Reserved::port();
    let url = format!("http://{}/charges", reserved.address());
    let breaker = breaker();
    let client = over_hyper(&breaker);

    for _ in 0..5 {
        let error: legacy::Error = send(&client, get(&url)).await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
    }

    assert_rejected(&answer(&client, get(&url)).await);
}

#[tokio::test]
async fn connections_that_end_before_the_head_open_it() {
    for end in [
        Step::Close,
        Step::Reset,
        Step::AnswerAndClose("HTTP/1.1 201 Cre".to_owned()),
        Step::AnswerAndClose("this is not HTTP\r\n\r\n".to_owned()),
    ] {
        let script = Script::serve(five(end.clone())).await;
        let breaker = breaker();
        let client = over_hyper(&breaker);

        for n in 0..5 {
            assert_eq!(failures_in_a_row(&breaker), n, "{end:?}");
            send(&client, post(&script.url(), "amount=5"))
                .await
                .unwrap_err();
        }

        assert_rejected(&answer(&client, get(&script.url())).await);
        assert_eq!(script.requests(), 5, "{end:?}");
    }
}

const BROKEN: [&str; 2] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly so much",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nonly\r\n8\r\nso m",
];

#[tokio::test]
async fn bodies_that_break_off_open_it_where_the_end_is_waited_for() {
    for broken in BROKEN {
        let script = Script::serve(five(Step::AnswerAndClose(broken.to_owned()))).await;
        let breaker = breaker();
        let client = ended(&breaker);

        for n in 0..5 {
            let response = send(&client, get(&script.url())).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(failures_in_a_row(&breaker), n);
            let error = within(response.into_body().collect()).await.unwrap_err();
            assert!(error.is::<hyper::Error>(), "{error:?}");
        }

        assert_rejected(&answer(&client, get(&script.url())).await);
    }
}

#[tokio::test]
async fn bodies_that_break_off_are_nobodys_concern_by_default() {
    for broken in BROKEN {
        let script = Script::serve(five(Step::AnswerAndClose(broken.to_owned()))).await;
        let breaker = breaker();
        let client = over_hyper(&breaker);

        for n in 1..=5 {
            let response = send(&client, get(&script.url())).await.unwrap();
            assert_eq!(counted(&breaker), (n, 0));
            within(response.into_body().collect()).await.unwrap_err();
        }

        assert_eq!(counted(&breaker), (5, 0));
    }
}

#[tokio::test]
async fn a_whole_body_counts_once_at_its_end_however_it_is_told() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsaid\r\n0\r\n\r\n";
    let closed = "HTTP/1.1 200 OK\r\n\r\nsaid";
    for step in [
        answers(200),
        Step::Answer(chunked.to_owned()),
        Step::AnswerAndClose(closed.to_owned()),
    ] {
        let script = Script::serve([step.clone()]).await;
        let breaker = breaker();
        let client = ended(&breaker);

        let response = send(&client, get(&script.url())).await.unwrap();
        assert_eq!(counted(&breaker), (0, 0), "{step:?}");
        let body = within(response.into_body().collect()).await.unwrap();
        assert_eq!(body.to_bytes(), "said");

        assert_eq!(counted(&breaker), (1, 0), "{step:?}");
    }
}

#[tokio::test]
async fn an_answer_without_a_body_counts_with_its_head() {
    let empty = || Step::Answer(says(200, &[], ""));
    let nothing = Step::Answer("HTTP/1.1 204 No\r\n\r\n".to_owned());
    let head = Step::Answer("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n".to_owned());
    let script = Script::serve([empty(), nothing, head]).await;
    let breaker = breaker();
    let client = ended(&breaker);

    for (n, method) in [(1, "GET"), (2, "GET"), (3, "HEAD")] {
        let mut request = get(&script.url());
        *request.method_mut() = method.parse().unwrap();
        let _response = send(&client, request).await.unwrap();
        assert_eq!(counted(&breaker), (n, 0));
    }
}

#[tokio::test]
async fn a_body_that_its_reader_drops_counts_as_a_success() {
    let script = Script::serve([Step::AnswerEarly(BROKEN[0].to_owned())]).await;
    let breaker = breaker();

    let response = send(&ended(&breaker), get(&script.url())).await.unwrap();
    assert_eq!(counted(&breaker), (0, 0));
    drop(response);

    assert_eq!(counted(&breaker), (1, 0));
    script.until_given_up().await;
}

#[tokio::test]
async fn a_failed_head_counts_at_once_also_where_the_end_is_waited_for() {
    let endless = "HTTP/1.1 503 Off\r\ncontent-length: 100\r\n\r\nhalf";
    let script = Script::serve([Step::AnswerEarly(endless.to_owned())]).await;
    let breaker = breaker();

    let response = send(&ended(&breaker), get(&script.url())).await.unwrap();

    assert_eq!(counted(&breaker), (1, 1));
    drop(response);
    assert_eq!(counted(&breaker), (1, 1));
}

#[tokio::test]
async fn the_wait_that_a_server_asks_for_lengthens_the_open_time_up_to_a_cap() {
    for (asked, at_most) in [("45", 45), ("3600", 60)] {
        let line = format!("retry-after: {asked}");
        let script = Script::serve(five(Step::Answer(says(503, &[&line], "closed")))).await;
        let breaker = configured(brief());
        let client = over_hyper(&breaker);

        for _ in 0..5 {
            answer(&client, get(&script.url())).await;
        }

        let left = breaker.snapshot().open_left();
        assert!(left <= Duration::from_secs(at_most), "{left:?}");
        assert!(left > Duration::from_secs(at_most - 20), "{left:?}");
        let rejection = answer(&client, get(&script.url())).await;
        let wait = rejection.headers()["retry-after"].to_str().unwrap();
        let wait: u64 = wait.parse().unwrap();
        assert!((at_most - 20..=at_most).contains(&wait), "{wait}");
        assert_eq!(script.requests(), 5);
    }
}

#[tokio::test]
async fn a_shorter_wait_does_not_shorten_the_open_time() {
    let failed = Step::Answer(says(503, &["retry-after: 1"], "closed"));
    let script = Script::serve(five(failed)).await;
    let breaker = breaker();
    let client = over_hyper(&breaker);

    for _ in 0..5 {
        answer(&client, get(&script.url())).await;
    }

    assert!(breaker.snapshot().open_left() > Duration::from_secs(10));
}

#[tokio::test]
async fn who_is_throttled_makes_no_row_and_who_is_refused_none_either() {
    let throttled = vec![answers(429); 6];
    let refused = [400, 401, 403, 404, 409, 422].map(answers);
    let script = Script::serve(throttled.into_iter().chain(refused)).await;
    let breaker = breaker();
    let client = over_hyper(&breaker);

    for _ in 0..6 {
        answer(&client, get(&script.url())).await;
    }
    assert_eq!(counted(&breaker), (6, 6));
    assert_eq!(failures_in_a_row(&breaker), 0);
    for _ in 0..6 {
        answer(&client, get(&script.url())).await;
    }

    assert_eq!(counted(&breaker), (12, 6));
    assert_eq!(breaker.state(), State::Closed);
}

/// A body of a request that fails before its end.
fn broken_body() -> impl http_body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static {
    let frames = [
        Ok(Frame::data(Bytes::from("amount"))),
        Err(io::Error::other("the file is gone")),
    ];
    StreamBody::new(stream::iter(frames))
}

#[tokio::test]
async fn a_request_whose_own_body_fails_says_nothing_of_its_destination() {
    let script = Script::serve([]).await;
    let breaker = breaker();
    let client = http(&breaker).layer(hyper_client(Protocol::Http1));
    for _ in 0..6 {
        let request = Request::post(script.url()).body(Box::pin(broken_body()));
        send(&client, request.unwrap()).await.unwrap_err();
    }
    assert_eq!(counted(&breaker), (0, 0));

    let inner = reqwest_client();
    let client = ReqwestLayer::new(http(&breaker)).layer(inner.clone());
    for _ in 0..6 {
        let body = reqwest::Body::wrap(broken_body());
        let request = inner.post(script.url()).body(body).build().unwrap();
        within(client.clone().oneshot(request)).await.unwrap_err();
    }
    assert_eq!(counted(&breaker), (0, 0));
}

#[tokio::test]
async fn each_destination_of_one_client_has_a_breaker_of_its_own() {
    let registry = BreakerRegistry::per_destination(BreakerConfig::default()).unwrap();
    let layer = CircuitBreakerLayer::http(registry.clone());
    let client: Guarded<HyperClient, _, _> = layer.layer(hyper_client(Protocol::Http1));
    let sick = Script::serve(five(answers(503))).await;
    let well = Script::serve(vec![answers(200); 6]).await;

    for _ in 0..5 {
        answer(&client, get(&sick.url())).await;
        assert_eq!(answer(&client, get(&well.url())).await.status(), 200);
    }

    let rejection = answer(&client, get(&sick.url())).await;
    assert_eq!(rejection.status(), 503);
    let rejected: &Rejected = rejection.extensions().get().unwrap();
    assert_eq!(rejected.refusal(), Refusal::Open);
    assert_eq!(answer(&client, get(&well.url())).await.status(), 200);
    assert_eq!((sick.requests(), well.requests()), (5, 6));
    let destination = Destination::of(&sick.url().parse().unwrap());
    assert_eq!(registry.get(&destination).unwrap().state(), State::Open);
    assert_eq!(registry.breakers().len(), 2);
}

fn reqwest_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

#[tokio::test]
async fn reqwest_as_its_users_know_it() {
    let script = Script::serve(five(answers(503))).await;
    let breaker = breaker();
    let inner = reqwest_client();
    let client = ReqwestLayer::new(http(&breaker)).layer(inner.clone());
    let call = async || {
        let request = inner.get(script.url()).build().unwrap();
        within(client.clone().oneshot(request)).await.unwrap()
    };

    for _ in 0..5 {
        let response = call().await;
        assert_eq!(response.status(), 503);
        assert!(response.extensions().get::<Rejected>().is_none());
        assert_eq!(response.text().await.unwrap(), "said");
    }

    let response = call().await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.url().as_str(), script.url());
    assert!(response.headers().contains_key("retry-after"));
    assert!(response.extensions().get::<LocalRejection>().is_some());
    let rejected: &Rejected = response.extensions().get().unwrap();
    assert_eq!(rejected.breaker(), "charges");
    let problem: serde_json::Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "circuit-open");
    assert_eq!(script.requests(), 5);
}

#[tokio::test]
async fn reqwest_that_is_refused_or_runs_out_of_time() {
    let reserved = Reserved::port();
    let hangs = Script::serve(five(Step::AnswerEarly("HTTP/1.1 200".to_owned()))).await;
    let inner = reqwest_client();
    let refused = || inner.get(format!("http://{}/", reserved.address()));
    let hanging = || inner.get(hangs.url()).timeout(Duration::from_millis(50));
    let kinds: [&dyn Fn() -> reqwest::RequestBuilder; 2] = [&refused, &hanging];

    for kind in kinds {
        let breaker = breaker();
        let client = ReqwestLayer::new(http(&breaker)).layer(inner.clone());
        for _ in 0..5 {
            let request = kind().build().unwrap();
            let error: reqwest::Error = within(client.clone().oneshot(request)).await.unwrap_err();
            assert!(error.is_connect() || error.is_timeout(), "{error:?}");
        }

        assert_eq!(breaker.state(), State::Open);
        let request = kind().build().unwrap();
        let response = within(client.oneshot(request)).await.unwrap();
        assert_eq!(response.status(), 503);
    }
}

#[tokio::test]
async fn bodies_of_reqwest_that_break_off_or_run_out_of_time() {
    for step in [
        Step::AnswerAndClose(BROKEN[0].to_owned()),
        Step::AnswerEarly(BROKEN[0].to_owned()),
    ] {
        let script = Script::serve(five(step)).await;
        let breaker = breaker();
        let inner = reqwest_client();
        let layer = http(&breaker).with_outcome_at(When::End);
        let client = ReqwestLayer::new(layer).layer(inner.clone());

        for n in 0..5 {
            let request = inner.get(script.url()).timeout(Duration::from_secs(1));
            let request = request.build().unwrap();
            let response = within(client.clone().oneshot(request)).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(failures_in_a_row(&breaker), n);
            within(response.text()).await.unwrap_err();
        }

        assert_eq!(breaker.state(), State::Open);
    }
}

#[tokio::test]
async fn reqwest_as_the_innermost_service() {
    let script = Script::serve(five(answers(500))).await;
    let breaker = breaker();
    let client = http(&breaker).layer(ReqwestService::new(reqwest_client()));

    for _ in 0..5 {
        let response = answer(&client, get(&script.url())).await;
        assert_eq!(response.status(), 500);
    }

    assert_rejected(&answer(&client, get(&script.url())).await);
    assert_eq!(script.requests(), 5);
}

#[tokio::test]
async fn a_fallback_answers_for_a_client_whose_breaker_is_open() {
    let script = Script::serve([]).await;
    let breaker = breaker();
    trip(&breaker);
    let layer = http(&breaker).with_fallback(|request, rejection| match request.uri.path() {
        "/charges" => http::Response::new(Bytes::from("yesterday's")),
        _ => rejection,
    });
    let client = layer.layer(hyper_client(Protocol::Http1));

    let known = answer(&client, get(&script.url())).await;
    let unknown = answer(&client, get(&script.url().replace("charges", "other"))).await;

    assert_eq!(known.status(), 200);
    assert_eq!(known.body(), "yesterday's");
    assert!(known.extensions().get::<LocalRejection>().is_some());
    assert_rejected(&unknown);
    assert_eq!(script.requests(), 0);
}
