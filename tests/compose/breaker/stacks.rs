//! Among tower's own layers (circuit-breaker B7, B10).

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

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use steadfast::{
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer, Guarded, Rejected, State, Verdict},
    http::classify::verdict_of_error,
    retry::{Retry, RetryConfig, RetryLayer},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Semaphore,
};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    buffer::Buffer,
    limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer},
    timeout::Timeout,
    util::{BoxCloneService, BoxCloneSyncService},
};

use super::{
    answer, assert_rejected, breaker, brief, configured, counted, failures_in_a_row, get, http,
    hyper_client,
    script::{Reserved, Script, Step, answers},
    send,
    servers::Till,
    trip, until_probed,
};
use crate::support::{Protocol, eventually, serve, within};

type HyperClient = Client<HttpConnector, Full<Bytes>>;

fn assert_shareable<T: Clone + Send + Sync + 'static>(_: &T) {}

fn client() -> HyperClient {
    hyper_client(Protocol::Http1)
}

fn hangs() -> Step {
    Step::AnswerEarly("HTTP/1.1 200".to_owned())
}

#[tokio::test]
async fn a_rejection_does_not_wait_for_a_limit_beneath() {
    let script = Script::serve([hangs()]).await;
    let breaker = breaker();
    let limited = ConcurrencyLimit::new(client(), 1);
    let client = http(&breaker).layer(limited);
    assert_shareable(&client);

    let first = tokio::spawn(client.clone().oneshot(get(&script.url())));
    eventually("the only place is taken", || script.requests() == 1).await;
    trip(&breaker);
    for _ in 0..3 {
        assert_rejected(&answer(&client, get(&script.url())).await);
    }

    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_call_that_is_rejected_gives_its_place_back() {
    let script = Script::serve([answers(200)]).await;
    let breaker = breaker();
    let permits = Arc::new(Semaphore::new(1));
    let limit = GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(&permits));
    let mut client = http(&breaker).layer(limit.layer(client()));

    within(client.ready()).await.unwrap();
    assert_eq!(permits.available_permits(), 0);
    breaker.force_open();
    let rejected = within(client.call(get(&script.url()))).await.unwrap();
    assert_eq!(rejected.status(), 503);

    // The service is there still, and holds nothing.
    assert_eq!(permits.available_permits(), 1);
    breaker.force_closed();
    assert_eq!(answer(&client, get(&script.url())).await.status(), 200);
    drop(client);
}

#[tokio::test]
async fn who_waits_for_a_limit_beneath_is_rejected_once_it_is_free_if_it_opened_meanwhile() {
    let script = Script::serve([hangs(), answers(200)]).await;
    let breaker = breaker();
    let client = http(&breaker).layer(ConcurrencyLimit::new(client(), 1));
    let first = tokio::spawn(client.clone().oneshot(get(&script.url())));
    eventually("the only place is taken", || script.requests() == 1).await;

    let mut waiting = client.clone();
    let (url, breaker_of_waiting) = (script.url(), breaker.clone());
    let second = tokio::spawn(async move {
        let service = waiting.ready().await.unwrap();
        assert_eq!(breaker_of_waiting.state(), State::Open);
        service.call(get(&url)).await.unwrap().status()
    });
    tokio::task::yield_now().await;
    trip(&breaker);
    first.abort();

    assert_eq!(within(second).await.unwrap(), 503);
    assert_eq!(script.requests(), 1);
    breaker.reset();
    assert_eq!(answer(&client, get(&script.url())).await.status(), 200);
}

#[tokio::test]
async fn beneath_a_limit() {
    let till = Till::new(500);
    let app = Router::new().fallback_service(till.route());
    let url = format!("http://{}/", serve(app).await);
    let breaker = breaker();
    let client = ServiceBuilder::new()
        .concurrency_limit(2)
        .layer(http(&breaker))
        .service(client());
    assert_shareable(&client);

    let calls = (0..20).map(|_| answer(&client, get(&url)));
    let answers = futures_util::future::join_all(calls).await;

    assert_eq!(breaker.state(), State::Open);
    // One was under way beside the fifth.
    assert!((5..=6).contains(&till.runs()), "{}", till.runs());
    let rejected = answers.iter().filter(|answer| answer.status() == 503);
    assert_eq!(rejected.count(), 20 - till.runs());
}

#[tokio::test]
async fn a_timeout_of_tower_beneath_counts() {
    let script = Script::serve(vec![hangs(); 5]).await;
    let breaker = breaker();
    let brief = Timeout::new(client(), Duration::from_millis(50));
    let client = http(&breaker).with_boxed_errors().layer(brief);
    assert_shareable(&client);

    for _ in 0..5 {
        let error = send(&client, get(&script.url())).await.unwrap_err();
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error:?}");
    }

    assert_rejected(&answer(&client, get(&script.url())).await);
}

#[tokio::test]
async fn a_timeout_of_tower_above_says_nothing() {
    let script = Script::serve(vec![hangs(); 6]).await;
    let breaker = breaker();
    let client = Timeout::new(http(&breaker).layer(client()), Duration::from_millis(50));

    for _ in 0..6 {
        let error = send(&client, get(&script.url())).await.unwrap_err();
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error:?}");
    }

    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(counted(&breaker), (0, 0));
}

#[tokio::test]
async fn a_timeout_of_tower_http_beneath_counts() {
    let (till, breaker) = (Till::new(0), breaker());
    let timeout = tower_http::timeout::TimeoutLayer::with_status_code(
        StatusCode::GATEWAY_TIMEOUT,
        Duration::from_millis(50),
    );
    let stack = ServiceBuilder::new().layer(http(&breaker)).layer(timeout);
    let app = Router::new().fallback_service(till.route().layer(stack));
    let url = format!("http://{}/", serve(app).await);

    for _ in 0..5 {
        assert_eq!(answer(&client(), get(&url)).await.status(), 504);
    }

    assert_eq!(answer(&client(), get(&url)).await.status(), 503);
    assert_eq!(till.runs(), 5);
}

#[tokio::test]
async fn a_buffer_of_tower_on_either_side() {
    let script = Script::serve(vec![Step::Reset; 5]).await;
    let breaker = breaker();
    let around = http(&breaker)
        .with_boxed_errors()
        .layer(Buffer::new(client(), 4));
    assert_shareable(&around);
    for n in 0..5 {
        assert_eq!(failures_in_a_row(&breaker), n);
        send(&around, get(&script.url())).await.unwrap_err();
    }
    assert_rejected(&answer(&around, get(&script.url())).await);

    let beneath = Buffer::new(http(&breaker).layer(client()), 4);
    for _ in 0..3 {
        assert_rejected(&answer(&beneath, get(&script.url())).await);
    }
    assert_eq!(script.requests(), 5);
}

#[tokio::test]
async fn errors_of_the_transport_are_seen_through_a_box() {
    // Its own body failed: that is told by the client's error, within the buffer's box.
    let script = Script::serve([]).await;
    let breaker = breaker();
    let broken = || {
        let frames = [
            Ok(http_body::Frame::data(Bytes::from("amount"))),
            Err(io::Error::other("the file is gone")),
        ];
        Box::pin(http_body_util::StreamBody::new(futures_util::stream::iter(
            frames,
        )))
    };
    let client = http(&breaker)
        .with_boxed_errors()
        .layer(Buffer::new(hyper_client(Protocol::Http1), 4));

    for _ in 0..6 {
        let request = Request::post(script.url()).body(broken()).unwrap();
        send(&client, request).await.unwrap_err();
    }

    assert_eq!(counted(&breaker), (0, 0));
}

#[tokio::test]
async fn load_that_is_shed_beneath_counts_unless_somebody_says_otherwise() {
    let script = Script::serve([hangs()]).await;
    let shedding = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .service(client());
    let taken = tokio::spawn(shedding.clone().oneshot(get(&script.url())));
    eventually("the only place is taken", || script.requests() == 1).await;

    let heeding = breaker();
    let client = http(&heeding).with_boxed_errors().layer(shedding.clone());
    for _ in 0..5 {
        send(&client, get(&script.url())).await.unwrap_err();
    }
    assert_eq!(heeding.state(), State::Open);

    let ignoring = breaker();
    let layer =
        http(&ignoring)
            .with_boxed_errors()
            .with_classifier(|outcome, verdict| match outcome {
                Err(error) if error.is::<tower::load_shed::error::Overloaded>() => Verdict::Ignored,
                _ => verdict,
            });
    let client = layer.layer(shedding);
    for _ in 0..6 {
        send(&client, get(&script.url())).await.unwrap_err();
    }
    assert_eq!(counted(&ignoring), (0, 0));
    taken.abort();
}

#[tokio::test]
async fn boxes_of_tower_around_and_within() {
    let script = Script::serve(vec![answers(500); 5]).await;
    let breaker = breaker();
    let within = BoxCloneService::new(client());
    let around = BoxCloneService::new(http(&breaker).layer(within));
    let sync = BoxCloneSyncService::new(http(&breaker).layer(BoxCloneSyncService::new(client())));
    assert_shareable(&sync);

    for n in 0..5 {
        let response = match n % 2 {
            0 => answer(&around, get(&script.url())).await,
            _ => answer(&sync, get(&script.url())).await,
        };
        assert_eq!(response.status(), 500);
    }

    assert_rejected(&answer(&around, get(&script.url())).await);
    assert_rejected(&answer(&sync, get(&script.url())).await);
}

#[tokio::test]
async fn a_router_as_the_service_within() {
    let (till, breaker) = (Till::new(500), breaker());
    let app = Router::new().route("/charges", till.route());
    let service = http(&breaker).layer(app);
    assert_shareable(&service);
    let request = || get("/charges").map(Body::new);

    for _ in 0..5 {
        assert_eq!(answer(&service, request()).await.status(), 500);
    }

    assert_rejected(&answer(&service, request()).await);
    assert_eq!(till.runs(), 5);
}

#[tokio::test]
async fn what_is_around_an_infallible_service_is_infallible() {
    fn error_of<S, R>(_: &S) -> Option<S::Error>
    where
        S: Service<R>,
    {
        None
    }

    let service = http(&breaker()).layer(Router::new());
    let error: Option<Infallible> = error_of::<_, Request<Body>>(&service);
    assert!(error.is_none());
}

/// Keys, retries, the breaker, a timer, a limit, the transport.
#[tokio::test]
async fn the_stack_of_a_client_in_the_order_that_is_advised() {
    let script = Script::serve([
        answers(503),
        hangs(),
        Step::Reset,
        answers(503),
        answers(503),
        answers(200),
        answers(200),
        answers(200),
    ])
    .await;
    let breaker = configured(brief());
    let retries = RetryLayer::http()
        .with_config(RetryConfig::default().with_attempt_timeout(Duration::from_secs(30)))
        .unwrap()
        .with_boxed_errors();
    let client = ServiceBuilder::new()
        .layer(steadfast::retry::IdempotencyKeyLayer::new())
        .layer(retries)
        .layer(http(&breaker).with_boxed_errors())
        .timeout(Duration::from_millis(500))
        .concurrency_limit(1)
        .service(hyper_client(Protocol::Http1));
    assert_shareable(&client);

    let call = async || {
        let request = super::post(&script.url(), "amount=5");
        match send(&client, request).await {
            Ok(response) => response.status().as_u16(),
            Err(_) => 0,
        }
    };
    while breaker.state() == State::Closed {
        assert_ne!(call().await, 200);
    }
    assert_eq!(script.requests(), 5);
    let mut successes = 0;
    while breaker.state() != State::Closed {
        if breaker.state() == State::Open {
            until_probed(&breaker).await;
        }
        successes += u32::from(call().await == 200);
    }

    assert_eq!(successes, 3);
    assert_eq!(script.requests(), 8);
    let keys = script
        .seen()
        .into_iter()
        .filter(|seen| seen.head.contains("idempotency-key"));
    assert_eq!(keys.count(), 8);
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

/// Closes so many connections without an answer, and says `5 EUR` on all others.
async fn bank_of_lines(closed: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = Reserved::port().listen();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.read_line(&mut String::new()).await.unwrap();
            if count.fetch_add(1, Ordering::SeqCst) >= closed {
                stream.write_all(b"5 EUR\n").await.unwrap();
            }
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_service_that_is_not_http() {
    let breaker = configured(brief());
    let layer = CircuitBreakerLayer::new(
        breaker.clone(),
        |result: &io::Result<String>| match result {
            Ok(_) => Verdict::Success,
            Err(error) => verdict_of_error(error),
        },
    );
    let (address, asked) = bank_of_lines(5).await;
    let client = layer.layer(Lines(address));
    assert_shareable(&client);
    let call = || within(client.clone().oneshot("balance".to_owned()));

    for _ in 0..5 {
        let error = call().await.unwrap_err().downcast::<io::Error>().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    breaker.force_open();
    let error = call().await.unwrap_err();
    let rejected: &Rejected = error.downcast_ref().unwrap();
    assert_eq!(rejected.breaker(), "charges");
    assert_eq!(asked.load(Ordering::SeqCst), 5);

    breaker.reset();
    trip(&breaker);
    until_probed(&breaker).await;
    for _ in 0..3 {
        assert_eq!(call().await.unwrap(), "5 EUR");
    }
    assert_eq!(breaker.state(), State::Closed);
}

/// A rejection is an error then, and a retry that knows it by its source leaves it alone.
#[tokio::test]
async fn a_rejection_as_an_error_is_one_that_retries_know() {
    use steadfast::{http::BoxError, retry::Policy};

    struct Always;
    impl Policy<String, String, BoxError> for Always {
        fn copy(&self, line: &String) -> Option<String> {
            Some(line.clone())
        }

        fn is_idempotent(&self, _: &String) -> bool {
            true
        }

        fn verdict(&self, outcome: Result<&String, &BoxError>) -> Verdict {
            match outcome {
                Ok(_) => Verdict::Success,
                Err(error) => verdict_of_error(&**error),
            }
        }
    }

    let config = BreakerConfig::default().with_consecutive_failures(2);
    let breaker = configured(config);
    let layer = CircuitBreakerLayer::new(
        breaker.clone(),
        |result: &io::Result<String>| match result {
            Ok(_) => Verdict::Success,
            Err(error) => verdict_of_error(error),
        },
    );
    let (address, asked) = bank_of_lines(10).await;
    let client: Retry<_, _> = RetryLayer::new(Always).layer(layer.layer(Lines(address)));

    let error = within(client.clone().oneshot("balance".to_owned()))
        .await
        .unwrap_err();
    assert!(error.is::<Rejected>(), "{error:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let error = within(client.oneshot("balance".to_owned()))
        .await
        .unwrap_err();
    assert!(error.is::<Rejected>(), "{error:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// The types as users write them down.
#[test]
fn the_service_has_a_name_that_can_be_written() {
    struct Bank {
        _client: Guarded<HyperClient>,
    }

    let _bank = Bank {
        _client: http(&breaker()).layer(client()),
    };
    let _: fn(
        Response<steadfast::circuit_breaker::ResponseBody<Body>>,
    ) -> axum::response::Response = |response| response.map(Body::new);
}
