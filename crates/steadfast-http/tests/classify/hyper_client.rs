//! hyper, and the client of hyper-util.

use std::{
    convert::Infallible,
    error::Error,
    io::{self, Read, Write},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Builder, Client, Error as ClientError},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use steadfast_core::verdict::Verdict;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use crate::support::{
    ELAPSED, FailingBody, PERMANENT, THROTTLED, TRANSIENT, Then, UNPROCESSED, answers,
    assert_verdict, destination, http2, nobody, read_head,
};

fn http1_client() -> Builder {
    Client::builder(TokioExecutor::new())
}

fn http2_client() -> Builder {
    let mut builder = http1_client();
    builder.http2_only(true);
    builder
}

fn request<B>(address: SocketAddr, body: B) -> Request<B> {
    Request::post(format!("http://{address}/charges"))
        .body(body)
        .unwrap()
}

async fn send<B>(builder: Builder, address: SocketAddr, body: B) -> ClientError
where
    B: Body<Data = Bytes, Error: Error + Send + Sync> + Send + Unpin + 'static,
{
    let client: Client<_, B> = builder.build_http();
    client.request(request(address, body)).await.unwrap_err()
}

async fn error_of(builder: Builder, address: SocketAddr) -> ClientError {
    send(builder, address, Empty::new()).await
}

#[tokio::test]
async fn a_refused_connection_was_not_processed() {
    for builder in [http1_client(), http2_client()] {
        let error = error_of(builder, nobody().await).await;

        assert!(error.is_connect());
        assert_verdict(&error, UNPROCESSED);
    }
}

#[tokio::test]
async fn a_request_that_the_client_does_not_support_is_permanent() {
    let client: Client<_, Empty<Bytes>> = http1_client().build_http();
    let relative = Request::get("/charges").body(Empty::new()).unwrap();

    let error = client.request(relative).await.unwrap_err();

    assert_verdict(&error, PERMANENT);
}

#[tokio::test]
async fn a_connection_that_ends_before_the_head_is_no_proof() {
    let closed = answers(String::new()).await;
    assert_verdict(&error_of(http1_client(), closed).await, TRANSIENT);

    let cut_off = answers("HTTP/1.1 200 OK\r\ncontent-le".to_owned()).await;
    assert_verdict(&error_of(http1_client(), cut_off).await, TRANSIENT);

    let reset = destination(|mut stream| async move {
        read_head(&mut stream).await?;
        stream.set_zero_linger()
    })
    .await;
    assert_verdict(&error_of(http1_client(), reset).await, TRANSIENT);
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_permanent() {
    let address = answers("220 mail.example ESMTP\r\n\r\n".to_owned()).await;

    assert_verdict(&error_of(http1_client(), address).await, PERMANENT);
}

#[tokio::test]
async fn a_request_body_that_fails_says_nothing_about_the_destination() {
    let address = http2(1, Then::Silence).await;
    let error = send(http2_client(), address, FailingBody).await;
    assert_verdict(&error, Verdict::Ignored);

    let address = crate::support::silent().await;
    let error = send(http1_client(), address, FailingBody).await;
    assert_verdict(&error, Verdict::Ignored);
}

#[tokio::test]
async fn a_reset_stream_is_known_by_its_reason() {
    for (reason, expected) in [
        (h2::Reason::REFUSED_STREAM, UNPROCESSED),
        (h2::Reason::CANCEL, TRANSIENT),
        (h2::Reason::INTERNAL_ERROR, TRANSIENT),
        (h2::Reason::NO_ERROR, TRANSIENT),
        (h2::Reason::ENHANCE_YOUR_CALM, THROTTLED),
        (h2::Reason::HTTP_1_1_REQUIRED, PERMANENT),
    ] {
        let address = http2(1, Then::Reset(reason)).await;

        assert_verdict(&error_of(http2_client(), address).await, expected);
    }
}

/// The errors of two requests on one connection, in the order of their streams.
async fn errors_of_both(then: Then) -> [ClientError; 2] {
    let client: Client<_, Empty<Bytes>> = http2_client().build_http();
    let address = http2(2, then).await;
    let (first, second) = tokio::join!(
        client.request(request(address, Empty::new())),
        client.request(request(address, Empty::new())),
    );
    [first.unwrap_err(), second.unwrap_err()]
}

#[tokio::test]
async fn a_graceful_goaway_is_proof_for_the_streams_above_its_id_alone() {
    let [below, above] = errors_of_both(Then::GoAway(1, h2::Reason::NO_ERROR)).await;
    assert_verdict(&below, TRANSIENT);
    assert_verdict(&above, UNPROCESSED);

    let errors = errors_of_both(Then::GoAway(3, h2::Reason::NO_ERROR)).await;
    for processed in errors {
        assert_verdict(&processed, TRANSIENT);
    }

    let errors = errors_of_both(Then::GoAway(0, h2::Reason::NO_ERROR)).await;
    for unprocessed in errors {
        assert_verdict(&unprocessed, UNPROCESSED);
    }
}

#[tokio::test]
async fn a_stream_that_ends_with_its_connection_is_no_proof() {
    let address = http2(1, Then::Close).await;

    assert_verdict(&error_of(http2_client(), address).await, TRANSIENT);
}

#[tokio::test]
async fn a_goaway_in_error_is_no_proof() {
    let [_, above] = errors_of_both(Then::GoAway(1, h2::Reason::PROTOCOL_ERROR)).await;
    assert_verdict(&above, TRANSIENT);

    let [_, above] = errors_of_both(Then::GoAway(1, h2::Reason::ENHANCE_YOUR_CALM)).await;
    assert_verdict(&above, THROTTLED);
}

#[tokio::test]
async fn a_keep_alive_ping_without_an_answer_has_elapsed() {
    let mut builder = http2_client();
    builder
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(Duration::from_millis(20))
        .http2_keep_alive_timeout(Duration::from_millis(20));
    let address = http2(1, Then::Silence).await;

    assert_verdict(&error_of(builder, address).await, ELAPSED);
}

/// On a runtime of one thread the turn after the close comes to this test before it comes to the connection: that learns of the
/// close when the second request is in its queue.
#[tokio::test]
async fn a_request_that_never_left_the_queue_was_not_processed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (close, closed) = mpsc::channel::<()>();
    let destination = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        closed.recv().unwrap();
    });
    let mut builder = http1_client();
    builder.retry_canceled_requests(false);
    let client: Client<_, Empty<Bytes>> = builder.build_http();
    let response = client.request(request(address, Empty::new())).await;
    response.unwrap().into_body().collect().await.unwrap();
    // Each turn lets every other task run once: the connection goes back to the pool.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    close.send(()).unwrap();
    destination.join().unwrap();
    tokio::task::yield_now().await;

    let error = client
        .request(request(address, Empty::new()))
        .await
        .unwrap_err();

    let source = error.source().unwrap().downcast_ref::<hyper::Error>();
    assert!(source.is_some_and(hyper::Error::is_canceled), "{error:?}");
    assert_verdict(&error, UNPROCESSED);
}

/// A body without a part, which tells when hyper takes its request from the queue of the connection.
struct Watched(Arc<AtomicBool>);

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.0.store(true, Ordering::SeqCst);
        true
    }
}

/// Answers requests to `/`; keeps the others one at a time, until it is told to shut down. Tells of each that it keeps.
async fn one_stream_until(shutdown: Arc<Notify>, kept: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| {
            let kept = Arc::clone(&kept);
            async move {
                if request.uri().path() != "/" {
                    kept.notify_one();
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(1);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = &mut connection => panic!("it ended too early: {ended:?}"),
            () = shutdown.notified() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    });
    address
}

/// hyper calls it its user's fault, and has no name for it but its message, which the verdict goes by.
#[tokio::test]
async fn a_request_that_waits_for_a_stream_when_its_connection_is_shut_down_may_have_been_processed()
 {
    let (shutdown, kept) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let address = one_stream_until(Arc::clone(&shutdown), Arc::clone(&kept)).await;
    let client: Client<_, Watched> = http2_client().build_http();
    let body = || Watched(Arc::default());
    // With its answer the client has the settings of the server.
    let known = Request::get(format!("http://{address}/")).body(body());
    client.request(known.unwrap()).await.unwrap();
    let _first = tokio::spawn(client.request(request(address, body())));
    kept.notified().await;
    let taken = Arc::new(AtomicBool::new(false));
    let second = Watched(Arc::clone(&taken));
    let second = tokio::spawn(client.request(request(address, second)));
    let is_waiting = async {
        while !taken.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), is_waiting).await.unwrap();

    shutdown.notify_one();
    let second = timeout(Duration::from_secs(10), second).await.unwrap();
    let error = second.unwrap().unwrap_err();

    let source = error.source().unwrap().downcast_ref::<hyper::Error>();
    assert!(source.is_some_and(hyper::Error::is_user), "{error:?}");
    assert_verdict(&error, TRANSIENT);
}

#[tokio::test]
async fn what_hyper_alone_calls_canceled_is_no_proof() {
    let address = crate::support::silent().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let first = sender.send_request(request(address, Empty::<Bytes>::new()));

    let error = sender
        .send_request(request(address, Empty::new()))
        .await
        .unwrap_err();

    assert!(error.is_canceled(), "{error:?}");
    assert_verdict(&error, TRANSIENT);
    drop(first);
}

/// Takes a request and then fails to carry its answer.
struct Tunnel {
    error: Option<ClientError>,
    reader: Option<Waker>,
    written: bool,
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.written {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let error = self.error.take().unwrap();
        Poll::Ready(Err(io::Error::other(error)))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_would_prove_it_for_the_carrier_of_a_connection_does_not_for_the_request() {
    let refused_stream = http2(1, Then::Reset(h2::Reason::REFUSED_STREAM)).await;
    for error in [
        error_of(http2_client(), refused_stream).await,
        error_of(http1_client(), nobody().await).await,
    ] {
        assert_verdict(&error, UNPROCESSED);
        let tunnel = Tunnel {
            error: Some(error),
            reader: None,
            written: false,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tunnel))
            .await
            .unwrap();
        tokio::spawn(connection);
        let charge = request("127.0.0.1:80".parse().unwrap(), Empty::<Bytes>::new());

        let error = sender.send_request(charge).await.unwrap_err();

        assert_verdict(&error, TRANSIENT);
    }
}
