//! What stands behind a foreign proxy: it does as its requests say, and remembers them.

use std::{
    collections::VecDeque,
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode};
use tokio::net::{TcpListener, TcpSocket};

/// What becomes of a request, its body read.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Answer(u16),
    /// Keeps its caller waiting until that has gone.
    Never,
}

/// A request that came, whole.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone, Default)]
pub(crate) struct Upstream {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    steps: VecDeque<Step>,
    got: Vec<Got>,
}

impl Upstream {
    /// One that plays the steps for its first requests, and answers all others 200.
    pub(crate) async fn play(steps: &[Step]) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self::serve(listener, steps), address)
    }

    pub(crate) fn serve(listener: TcpListener, steps: &[Step]) -> Self {
        let upstream = Self::default();
        upstream.inner.lock().unwrap().steps.extend(steps);
        let app = Router::new().fallback(answer).with_state(upstream.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        upstream
    }

    /// The requests that came.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.inner.lock().unwrap().got.clone()
    }
}

async fn answer(State(upstream): State<Upstream>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    // One that breaks off is none.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let step = {
        let mut inner = upstream.inner.lock().unwrap();
        inner.got.push(Got {
            method: head.method,
            path: head.uri.to_string(),
            headers: head.headers,
            body,
        });
        inner.steps.pop_front()
    };
    match step {
        Some(Step::Answer(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Step::Never) => pending().await,
        None => "done".into_response(),
    }
}

/// A port that nobody listens on, and that nobody else can take.
pub(crate) fn nobody() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}
