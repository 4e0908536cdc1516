//! Destinations that fail in one chosen way, and the verdicts that are expected.

use std::{
    error::Error,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use steadfast_core::verdict::{Cause, Failure, SafetyClass, Verdict};
use steadfast_http::classify::verdict_of_error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub(crate) const PERMANENT: Verdict = failure(SafetyClass::Permanent, Cause::Fault);
pub(crate) const TRANSIENT: Verdict = failure(SafetyClass::Transient, Cause::Fault);
pub(crate) const UNPROCESSED: Verdict = failure(SafetyClass::NotProcessed, Cause::Fault);
pub(crate) const ELAPSED: Verdict = failure(SafetyClass::Transient, Cause::Elapsed);
pub(crate) const THROTTLED: Verdict = failure(SafetyClass::Transient, Cause::Throttled);

const fn failure(class: SafetyClass, cause: Cause) -> Verdict {
    Verdict::Failure(Failure::new(class, cause))
}

#[track_caller]
pub(crate) fn assert_verdict(error: &(dyn Error + 'static), expected: Verdict) {
    assert_eq!(verdict_of_error(error), expected, "{error:?}");
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A destination that does this with each connection.
pub(crate) async fn destination<F, Fut>(on_connection: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(on_connection(stream));
        }
    });
    address
}

/// Reads the head of an HTTP/1 request.
pub(crate) async fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut last = [0; 4];
    while last != *b"\r\n\r\n" {
        last.rotate_left(1);
        last[3] = stream.read_u8().await?;
    }
    Ok(())
}

/// Answers each HTTP/1 request with these bytes, then closes the connection.
pub(crate) async fn answers(response: String) -> SocketAddr {
    destination(move |mut stream| {
        let response = response.clone();
        async move {
            read_head(&mut stream).await?;
            stream.write_all(response.as_bytes()).await
        }
    })
    .await
}

/// Reads, and never answers.
pub(crate) async fn silent() -> SocketAddr {
    destination(|mut stream| async move {
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        Ok(())
    })
    .await
}

/// What an HTTP/2 destination does once it has the heads of all requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// Resets the last stream.
    Reset(h2::Reason),
    /// Goes away, having processed streams up to this one, and closes the connection.
    GoAway(u32, h2::Reason),
    /// Closes the connection.
    Close,
    /// Reads on, and never answers.
    Silence,
}

/// An HTTP/2 destination, written by hand so that it can say what no library would.
pub(crate) async fn http2(requests: usize, then: Then) -> SocketAddr {
    const HEADERS: u8 = 1;

    destination(move |mut stream| async move {
        stream.read_exact(&mut [0; 24]).await?;
        write_frame(&mut stream, 4, 0, &[]).await?;
        let mut last = 0;
        for _ in 0..requests {
            last = loop {
                if let (HEADERS, id) = read_frame(&mut stream).await? {
                    break id;
                }
            };
        }
        match then {
            Then::Reset(reason) => {
                let code = u32::from(reason).to_be_bytes();
                write_frame(&mut stream, 3, last, &code).await?;
                drain(&mut stream).await
            }
            Then::GoAway(id, reason) => {
                let payload = [id.to_be_bytes(), u32::from(reason).to_be_bytes()].concat();
                write_frame(&mut stream, 7, 0, &payload).await?;
                stream.shutdown().await?;
                drain(&mut stream).await
            }
            Then::Close => Ok(()),
            Then::Silence => drain(&mut stream).await,
        }
    })
    .await
}

async fn drain(stream: &mut TcpStream) -> io::Result<()> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    Ok(())
}

async fn write_frame(stream: &mut TcpStream, kind: u8, id: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, 0]);
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    stream.write_all(&frame).await
}

/// The kind and the stream of the next frame.
async fn read_frame(stream: &mut TcpStream) -> io::Result<(u8, u32)> {
    let length_and_kind = stream.read_u32().await?.to_be_bytes();
    let [length @ .., kind] = length_and_kind;
    let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
    let _flags = stream.read_u8().await?;
    let id = stream.read_u32().await?;
    stream
        .read_exact(&mut vec![0; usize::try_from(length).unwrap()])
        .await?;
    Ok((kind, id))
}

/// A request body that fails, for a reason that would be proof if it were the request's own.
#[derive(Debug)]
pub(crate) struct FailingBody;

impl Body for FailingBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionRefused.into())))
    }
}
