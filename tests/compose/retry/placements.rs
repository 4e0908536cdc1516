//! One `.layer(...)` on each kind of client and service that people have.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use steadfast::{
    core::verdict::{Cause, Failure, SafetyClass, Verdict},
    http::{
        classify::verdict_of_error,
        reqwest::{ReqwestLayer, ReqwestService},
    },
    retry::{IdempotencyKeyLayer, Policy, RetryConfig, RetryLayer, RetryOutcome},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer, timeout::Timeout};

use super::{
    answer, attempts, config, get, http, hyper_client, marked, post,
    script::{Reserved, Script, Step, answers},
    send,
};
use crate::support::{Protocol, serve, within};

fn assert_shareable<T: Clone + Send + Sync + 'static>(_: &T) {}

/// Fails once, and gives back what it got.
fn flaky() -> Router {
    let calls = Arc::new(AtomicUsize::new(0));
    Router::new().fallback(async move |body: Bytes| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        } else {
            body.into_response()
        }
    })
}

async fn flaky_url() -> String {
    format!("http://{}/charges", serve(flaky()).await)
}

fn assert_healed(response: &Response<Bytes>) {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), "amount=5");
    assert_eq!(attempts(response), 2);
}

#[tokio::test]
async fn the_client_of_hyper_util() {
    for protocol in Protocol::ALL {
        let client = http().layer(hyper_client(protocol));
        assert_shareable(&client);
        let url = flaky_url().await;
        assert_healed(&answer(&client, marked(post(&url, "amount=5"))).await);

        // Built in place, its body type is inferred.
        let inner = Client::builder(hyper_util::rt::TokioExecutor::new())
            .http2_only(protocol == Protocol::Http2)
            .build_http();
        let client = ServiceBuilder::new()
            .layer(IdempotencyKeyLayer::new())
            .layer(http())
            .service(inner);
        let url = flaky_url().await;
        assert_healed(&answer(&client, post(&url, "amount=5")).await);
        assert_shareable(&client);
    }
}

#[tokio::test]
async fn a_shared_reference_to_the_client_of_hyper_util() {
    let url = flaky_url().await;
    let inner: &'static _ = Box::leak(Box::new(hyper_client(Protocol::Http1)));
    let client = http().layer(inner);

    assert_healed(&answer(&client, marked(post(&url, "amount=5"))).await);
}

fn reqwest_client(protocol: Protocol) -> reqwest::Client {
    let builder = reqwest::Client::builder();
    match protocol {
        Protocol::Http1 => builder.http1_only(),
        Protocol::Http2 => builder.http2_prior_knowledge(),
    }
    .build()
    .unwrap()
}

#[tokio::test]
async fn reqwest_as_its_users_know_it() {
    for protocol in Protocol::ALL {
        let client = ReqwestLayer::new(http()).layer(reqwest_client(protocol));
        assert_shareable(&client);
        let url = flaky_url().await;
        let request = reqwest::Request::new(reqwest::Method::PUT, url.parse().unwrap());
        let builder = reqwest::RequestBuilder::from_parts(reqwest_client(protocol), request);
        let request = builder.body("amount=5").build().unwrap();

        let response = within(client.oneshot(request)).await.unwrap();

        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.url().as_str(), url);
        let outcome = RetryOutcome::of(response.extensions()).unwrap();
        assert_eq!(outcome.attempts(), 2);
        assert_eq!(response.text().await.unwrap(), "amount=5");
    }
}

#[tokio::test]
async fn reqwest_with_keys() {
    let script = Script::serve([Step::Close, answers(201)]).await;
    let stack = ServiceBuilder::new()
        .layer(IdempotencyKeyLayer::new())
        .layer(http())
        .into_inner();
    let client = ReqwestLayer::new(stack).layer(reqwest_client(Protocol::Http1));
    let request = reqwest_client(Protocol::Http1)
        .post(script.url())
        .body("amount=5")
        .build()
        .unwrap();

    let response = within(client.oneshot(request)).await.unwrap();

    assert_eq!(response.status(), StatusCode::CREATED);
    let seen = script.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].head.contains("idempotency-key: "));
    assert_eq!(
        (&seen[0].head, &seen[0].body),
        (&seen[1].head, &seen[1].body)
    );
}

#[tokio::test]
async fn the_timeout_of_a_request_of_reqwest_holds_for_each_attempt() {
    let hang = Step::AnswerEarly("HTTP/1.1 200".to_owned());
    let script = Script::serve([hang, answers(200)]).await;
    let inner = reqwest_client(Protocol::Http1);
    let request = inner.get(script.url()).timeout(Duration::from_millis(500));
    let client = ReqwestLayer::new(http()).layer(inner);

    let response = within(client.oneshot(request.build().unwrap()))
        .await
        .unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(script.requests(), 2);
    script.until_given_up().await;
}

#[tokio::test]
async fn reqwest_as_the_innermost_service() {
    for protocol in Protocol::ALL {
        let client = http().layer(ReqwestService::new(reqwest_client(protocol)));
        assert_shareable(&client);
        let url = flaky_url().await;

        assert_healed(&answer(&client, marked(post(&url, "amount=5"))).await);
    }
}

#[tokio::test]
async fn a_router_of_axum() {
    let service = http().layer(flaky());
    assert_shareable(&service);
    assert_healed(&answer(&service, marked(post("/", "amount=5"))).await);

    let service = http().with_same_body().layer(flaky());
    assert_shareable(&service);
    let request = post("/", "amount=5").map(Body::new);
    assert_healed(&answer(&service, marked(request)).await);
}

#[tokio::test]
async fn a_service_that_takes_the_body_of_axum_alone() {
    let inner = ServiceExt::<Request<Body>>::boxed_clone(flaky());
    let service = http().with_same_body().layer(inner);

    let request = post("/", "amount=5").map(Body::new);
    assert_healed(&answer(&service, marked(request)).await);
}

#[tokio::test]
async fn a_layer_of_a_router_whose_handlers_are_flaky() {
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = async move |body: Bytes| {
        let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        let status = if is_first {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        };
        (status, body)
    };
    let app = Router::new()
        .route("/", axum::routing::put(handler))
        .layer(http());
    let url = format!("http://{}/", serve(app).await);

    let request = Request::put(&url).body(Full::from("amount=5")).unwrap();
    let client: super::HyperClient<Full<Bytes>> = hyper_client(Protocol::Http1);
    let request = request.map(steadfast::http::body::ReplayBody::untouched);
    let response = answer(&client, request).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.body(), "amount=5");
}

#[tokio::test]
async fn around_a_timeout_of_tower() {
    let url = flaky_url().await;
    let client = ServiceBuilder::new()
        .layer(http().with_boxed_errors())
        .timeout(Duration::from_secs(60))
        .service(hyper_client(Protocol::Http1));
    assert_shareable(&client);
    assert_healed(&answer(&client, marked(post(&url, "amount=5"))).await);

    // The errors of a transport are seen through the box.
    let script = Script::serve([Step::Close, answers(200)]).await;
    let response = answer(&client, get(&script.url())).await;
    assert_eq!(attempts(&response), 2);
}

#[tokio::test]
async fn a_timeout_of_tower_is_known_to_who_names_it() {
    let hang = || Step::AnswerEarly("HTTP/1.1 200".to_owned());
    let brief = Timeout::new(hyper_client(Protocol::Http1), Duration::from_millis(500));

    let script = Script::serve([hang(), answers(200)]).await;
    let client = http().with_boxed_errors().layer(brief.clone());
    let error = send(&client, get(&script.url())).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error:?}");
    assert_eq!(script.requests(), 1);

    let script = Script::serve([hang(), answers(200)]).await;
    let layer = http()
        .with_boxed_errors()
        .with_classifier(|attempted| match attempted.error() {
            Some(error) if error.is::<tower::timeout::error::Elapsed>() => {
                Failure::new(SafetyClass::Transient, Cause::Elapsed).into()
            }
            _ => attempted.verdict(),
        });
    let client = layer.layer(brief);
    let response = answer(&client, get(&script.url())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(attempts(&response), 2);
}

#[tokio::test]
async fn around_a_buffer_of_tower() {
    let url = flaky_url().await;
    let client = http()
        .with_boxed_errors()
        .layer(Buffer::new(hyper_client(Protocol::Http1), 1));
    assert_shareable(&client);
    assert_healed(&answer(&client, marked(post(&url, "amount=5"))).await);

    let script = Script::serve([Step::Reset, answers(200)]).await;
    let response = answer(&client, get(&script.url())).await;
    assert_eq!(attempts(&response), 2);
}

#[tokio::test]
async fn around_a_limit_of_tower_that_attempts_wait_for() {
    let url = flaky_url().await;
    let client = ServiceBuilder::new()
        .layer(http())
        .concurrency_limit(1)
        .service(hyper_client(Protocol::Http1));

    let calls = (0..8).map(|_| answer(&client, marked(post(&url, "amount=5"))));
    for response in futures_util::future::join_all(calls).await {
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// A client of a bank that takes a line and answers with one: no HTTP anywhere.
#[derive(Clone)]
struct Lines(SocketAddr);

impl Service<String> for Lines {
    type Response = String;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<String>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, line: String) -> Self::Future {
        let address = self.0;
        Box::pin(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(format!("{line}\n").as_bytes()).await?;
            let mut answer = String::new();
            match BufReader::new(stream).read_line(&mut answer).await? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(answer.trim_end().to_owned()),
            }
        })
    }
}

struct LinesPolicy;

impl Policy<String, String, io::Error> for LinesPolicy {
    fn copy(&self, line: &String) -> Option<String> {
        Some(line.clone())
    }

    fn is_idempotent(&self, line: &String) -> bool {
        line.starts_with("balance")
    }

    fn verdict(&self, outcome: Result<&String, &io::Error>) -> Verdict {
        match outcome {
            Ok(answer) if answer == "busy" => {
                Failure::new(SafetyClass::NotProcessed, Cause::Throttled).into()
            }
            Ok(_) => Verdict::Success,
            Err(error) => verdict_of_error(error),
        }
    }
}

/// Takes one of these answers for each connection; `None` closes it.
async fn bank_of_lines(answers: &'static [Option<&str>]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = Reserved::port().listen();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.read_line(&mut String::new()).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer {
                let line = format!("{answer}\n");
                stream.write_all(line.as_bytes()).await.unwrap();
            }
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_service_that_is_not_http() {
    let layer = RetryLayer::new(LinesPolicy).with_config(config()).unwrap();

    let (address, asked) = bank_of_lines(&[None, Some("busy"), Some("5 EUR")]).await;
    let client = layer.layer(Lines(address));
    assert_shareable(&client);
    let balance = within(client.oneshot("balance".to_owned())).await.unwrap();
    assert_eq!(balance, "5 EUR");
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (address, asked) = bank_of_lines(&[Some("busy"), None, Some("done")]).await;
    let client = layer.layer(Lines(address));
    let error = within(client.oneshot("charge 5".to_owned()))
        .await
        .unwrap_err();
    let error = error.downcast::<io::Error>().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_service_that_is_not_http_and_hangs() {
    let reserved = Reserved::port();
    let address = reserved.address();
    // Nobody accepts: connections wait in the queue of the kernel.
    let _listener = reserved.listen();
    let config = RetryConfig::default().with_deadline(Duration::from_millis(100));
    let layer = RetryLayer::new(LinesPolicy).with_config(config).unwrap();

    let call = layer.layer(Lines(address)).oneshot("balance".to_owned());
    let error = within(call).await.unwrap_err();

    let elapsed = error.downcast::<steadfast::retry::Elapsed>().unwrap();
    assert!(elapsed.is_deadline());
    assert_eq!(elapsed.attempts(), 1);
}

#[test]
fn what_is_around_an_infallible_service_is_infallible() {
    fn error_of<S, R>(_: &S) -> Option<S::Error>
    where
        S: Service<R>,
    {
        None
    }

    let service = http().layer(flaky());
    let error: Option<Infallible> = error_of::<_, Request<Body>>(&service);
    assert!(error.is_none());
}
