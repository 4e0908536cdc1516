//! HTTP/2: streams that are refused, reset and left out, and connections that go away (retry R3, R4).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{answer, attempts, get, marked, over_hyper, post, script::Reserved, send};
use crate::support::Protocol;

/// A request that came to a server of HTTP/2, as the `h2` crate has it.
pub(super) struct Call {
    /// Which one it is, of all; the first is 0.
    pub(super) number: usize,
    pub(super) request: Request<RecvStream>,
    pub(super) respond: SendResponse<Bytes>,
}

impl Call {
    /// Reads the body to its end.
    pub(super) async fn body(&mut self) -> Vec<u8> {
        let stream = self.request.body_mut();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data.unwrap();
            stream.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        body
    }

    pub(super) fn answer(&mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        self.respond.send_response(response, true).unwrap();
    }
}

/// Plays this with each call, on as many connections as come.
pub(super) async fn serve<F>(play: impl Fn(Call) -> F + Clone + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = Reserved::port().listen();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (calls, play) = (Arc::clone(&calls), play.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let number = calls.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(play(Call {
                        number,
                        request,
                        respond,
                    }));
                }
            });
        }
    });
    url
}

/// A server that resets the first stream, and counts the calls it processed.
async fn resetting(reason: Reason) -> (String, Arc<AtomicUsize>) {
    let processed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&processed);
    let url = serve(move |mut call| {
        let count = Arc::clone(&count);
        async move {
            if call.number == 0 {
                call.respond.send_reset(reason);
                return;
            }
            assert_eq!(call.body().await, b"amount=5");
            count.fetch_add(1, Ordering::SeqCst);
            call.answer(StatusCode::CREATED);
        }
    })
    .await;
    (url, processed)
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_the_request_does_and_processed_once() {
    let (url, processed) = resetting(Reason::REFUSED_STREAM).await;

    let response = answer(&over_hyper(Protocol::Http2), post(&url, "amount=5")).await;

    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(attempts(&response), 2);
    assert_eq!(processed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_stream_that_is_reset_for_other_reasons_heals_for_idempotent_requests_alone() {
    for reason in [
        Reason::INTERNAL_ERROR,
        Reason::CANCEL,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        let (url, processed) = resetting(reason).await;
        let client = over_hyper(Protocol::Http2);
        send(&client, post(&url, "amount=5")).await.unwrap_err();
        assert_eq!(processed.load(Ordering::SeqCst), 0, "{reason:?}");

        let (url, processed) = resetting(reason).await;
        let client = over_hyper(Protocol::Http2);
        let response = answer(&client, marked(post(&url, "amount=5"))).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{reason:?}");
        assert_eq!(processed.load(Ordering::SeqCst), 1, "{reason:?}");
    }
}

#[tokio::test]
async fn a_server_that_wants_another_protocol_is_not_asked_again() {
    let (url, processed) = resetting(Reason::HTTP_1_1_REQUIRED).await;

    let client = over_hyper(Protocol::Http2);
    let request = marked(post(&url, "amount=5"));
    send(&client, request).await.unwrap_err();

    assert_eq!(processed.load(Ordering::SeqCst), 0);
}

/// HTTP/2 frame by frame, to say what the `h2` crate would not.
struct Frames(TcpStream);

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, by its number in the static table of HPACK.
const OK: &[u8] = &[0x88];

impl Frames {
    async fn accept(mut stream: TcpStream) -> io::Result<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;
        let mut frames = Self(stream);
        frames.write(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await
    }

    /// The number of the next stream that is opened.
    async fn opened(&mut self) -> io::Result<u32> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8;
            let mut payload = vec![0; length | usize::from(head[2])];
            self.0.read_exact(&mut payload).await?;
            match (head[3], head[4]) {
                (SETTINGS, 0) => self.write(SETTINGS, ACK, 0, &[]).await?,
                (HEADERS, _) => {
                    let number = head[5..].try_into().unwrap();
                    return Ok(u32::from_be_bytes(number));
                }
                _ => {}
            }
        }
    }

    async fn answer(&mut self, stream: u32) -> io::Result<()> {
        let flags = END_STREAM | END_HEADERS;
        self.write(HEADERS, flags, stream, OK).await
    }

    async fn go_away(&mut self, last_stream: u32, reason: Reason) -> io::Result<()> {
        let mut payload = last_stream.to_be_bytes().to_vec();
        payload.extend(u32::from(reason).to_be_bytes());
        self.write(GOAWAY, 0, 0, &payload).await
    }
}

/// A server whose first connection answers one stream, and goes away with that one as its last when the next one comes. It counts
/// the streams it answered.
async fn going_away(reason: Reason) -> (String, Arc<AtomicUsize>) {
    let listener = Reserved::port().listen();
    let url = format!("http://{}/charges", listener.local_addr().unwrap());
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    tokio::spawn(async move {
        for connection in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut frames = Frames::accept(stream).await?;
                let mut last = 0;
                loop {
                    let opened = frames.opened().await?;
                    if connection == 1 && last > 0 {
                        frames.go_away(last, reason).await?;
                    } else {
                        frames.answer(opened).await?;
                        count.fetch_add(1, Ordering::SeqCst);
                        last = opened;
                    }
                }
                // The type of what never ends.
                #[expect(unreachable_code, reason = "a connection ends with an error")]
                io::Result::Ok(())
            });
        }
    });
    (url, answered)
}

#[tokio::test]
async fn a_stream_that_a_graceful_goaway_leaves_out_is_sent_again_on_a_new_connection() {
    let (url, answered) = going_away(Reason::NO_ERROR).await;
    let client = over_hyper(Protocol::Http2);
    answer(&client, post(&url, "amount=5")).await;

    let response = answer(&client, post(&url, "amount=6")).await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(attempts(&response), 2);
    assert_eq!(answered.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_goaway_in_error_heals_for_idempotent_requests_alone() {
    for reason in [Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let (url, answered) = going_away(reason).await;
        let client = over_hyper(Protocol::Http2);
        answer(&client, get(&url)).await;
        send(&client, post(&url, "amount=5")).await.unwrap_err();
        assert_eq!(answered.load(Ordering::SeqCst), 1, "{reason:?}");

        let (url, answered) = going_away(reason).await;
        let client = over_hyper(Protocol::Http2);
        answer(&client, get(&url)).await;
        let response = answer(&client, get(&url)).await;
        assert_eq!(response.status(), StatusCode::OK, "{reason:?}");
        assert_eq!(attempts(&response), 2, "{reason:?}");
        assert_eq!(answered.load(Ordering::SeqCst), 2, "{reason:?}");
    }
}
