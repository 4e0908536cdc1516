use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, request::Builder};
use http_body_util::BodyExt;
use serde_json::Value;
use steadfast_http::problem::Problem;

use super::{Body, BoxError, body};

/// `POST /charges` with this key.
pub(crate) fn keyed(key: &str) -> Builder {
    request(Method::POST, "/charges").header("idempotency-key", key)
}

pub(crate) fn request(method: Method, uri: &str) -> Builder {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", "application/json")
}

/// The same request each time it is asked for.
pub(crate) fn charge(key: &str) -> Request<Body> {
    keyed(key).body(body(r#"{"amount":5}"#)).unwrap()
}

/// An answer with its body read to the end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// What broke the body.
    pub(crate) error: Option<String>,
    /// The typed cause of a refusal.
    pub(crate) cause: Option<Problem>,
}

impl Answer {
    pub(crate) async fn read<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (head, body) = response.into_parts();
        let mut body = std::pin::pin!(body);
        let (mut bytes, mut trailers, mut error) = (Vec::new(), None, None);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
                Err(broken) => {
                    error = Some(broken.into().to_string());
                    break;
                }
            }
        }
        Self {
            status: head.status,
            headers: head.headers,
            body: bytes.into(),
            trailers,
            error,
            cause: head.extensions.get().cloned(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn problem(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Asserts that a handler answered it in this call.
    #[track_caller]
    pub(crate) fn assert_executed(&self, text: &str) {
        assert_eq!(self.text(), text, "{self:?}");
        assert_eq!(self.header("idempotent-replayed"), Some("false"));
        assert_eq!(self.header("idempotent-stored"), None);
    }

    #[track_caller]
    pub(crate) fn assert_unstored(&self, text: &str) {
        assert_eq!(self.text(), text, "{self:?}");
        assert_eq!(self.header("idempotent-replayed"), Some("false"));
        assert_eq!(self.header("idempotent-stored"), Some("false"));
    }

    #[track_caller]
    pub(crate) fn assert_replayed(&self, text: &str) {
        assert_eq!(self.text(), text, "{self:?}");
        assert_eq!(self.header("idempotent-replayed"), Some("true"));
        assert_eq!(self.header("idempotent-stored"), None);
    }

    /// Asserts that the layer refused it in this way, with the marks that every refusal has.
    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let problem = self.problem();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
        assert!(
            problem["type"]
                .as_str()
                .unwrap()
                .ends_with(&format!("#{code}"))
        );
        let cause = self.cause.as_ref().expect("the cause is in the extensions");
        assert_eq!(cause.code().as_str(), code);
        for marker in ["idempotent-replayed", "idempotent-stored"] {
            assert_eq!(self.header(marker), None, "a refusal carries no marker");
        }
    }

    #[track_caller]
    pub(crate) fn assert_retryable(&self, retryable: bool) {
        assert_eq!(self.problem()["retryable"], retryable, "{self:?}");
    }

    #[track_caller]
    pub(crate) fn assert_retry_after(&self, seconds: &str) {
        assert_eq!(self.header("retry-after"), Some(seconds), "{self:?}");
    }
}

/// Polls it once.
pub(crate) async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
