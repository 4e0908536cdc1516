//! Reads answers of the provider to their end, and no further than any of them can go.

use std::{error::Error, fmt};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::{BodyExt, Full};
use reqwest::Body;

/// A charge takes some hundred bytes, and the page of a proxy that stands in the way some thousand.
const LARGEST: usize = 64 << 10;

/// The answer with all of its body, of which never more than the largest is held.
pub(super) async fn whole(answer: Response<Body>) -> Result<Response<Full<Bytes>>, CallError> {
    let (head, mut body) = answer.into_parts();
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers say nothing about a charge.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if data.len() > LARGEST - read.len() {
            return Err(CallError::TooLarge);
        }
        read.extend_from_slice(&data);
    }
    Ok(Response::from_parts(head, read.freeze().into()))
}

/// There is no answer, or not all of one.
#[derive(Debug)]
pub(super) enum CallError {
    /// It did not come, or broke off.
    Lost(reqwest::Error),
    /// It goes on after more than any answer has.
    TooLarge,
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> Self {
        Self::Lost(error)
    }
}

/// The retry layer and the breaker look along the sources for what it means.
impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(_) => f.write_str("the call was lost"),
            Self::TooLarge => f.write_str("the answer is too large"),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Lost(error) => Some(error),
            Self::TooLarge => None,
        }
    }
}
