//! The service: a route that makes charges, and clients that know what it must answer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json,
    routing::{MethodRouter, post},
};
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header, response};
use http_body_util::Full;
use serde::{Deserialize, Serialize};

use crate::{
    BoxError,
    requests::{self, Verdict},
};

pub(crate) const PATH: &str = "/v1/charges";

const BODY: &[u8] = br#"{"amount":1299,"currency":"eur","order":"order-8c5e1f40","customer":"cus_2f9d7a61b0","description":"Two pairs of wool socks, grey","capture":true}"#;

/// The answer to the first request.
pub(crate) const RECEIPT: &str = r#"{"id":"ch_000000000001","object":"charge","amount":1299,"currency":"eur","order":"order-8c5e1f40","customer":"cus_2f9d7a61b0","status":"succeeded","captured":true,"created":1767225600}"#;

/// What stands before the number of the execution that made a charge.
const OPENING: &str = r#"{"id":"ch_"#;
const NUMBER_DIGITS: usize = 12;

pub(crate) fn description() -> String {
    format!(
        "POST {PATH} on axum, {} bytes of JSON in and {} out, parsed and made by serde, no I/O in the handler",
        BODY.len(),
        RECEIPT.len()
    )
}

#[derive(Deserialize)]
struct Charge {
    amount: u64,
    currency: String,
    order: String,
    customer: String,
    capture: bool,
}

#[derive(Serialize)]
struct Receipt {
    id: String,
    object: &'static str,
    amount: u64,
    currency: String,
    order: String,
    customer: String,
    status: &'static str,
    captured: bool,
    created: u64,
}

/// The route, and how often its handler ran.
#[derive(Clone, Default)]
pub(crate) struct Charges {
    executions: Arc<AtomicU64>,
}

impl Charges {
    pub(crate) fn route(&self) -> MethodRouter {
        let executions = Arc::clone(&self.executions);
        post(async move |Json(charge): Json<Charge>| {
            let execution = executions.fetch_add(1, Ordering::Relaxed);
            (StatusCode::CREATED, Json(make(charge, execution)))
        })
    }

    pub(crate) fn executions(&self) -> u64 {
        self.executions.load(Ordering::Relaxed)
    }
}

fn make(charge: Charge, execution: u64) -> Receipt {
    let Charge {
        amount,
        currency,
        order,
        customer,
        capture,
    } = charge;
    Receipt {
        id: format!("ch_{execution:0NUMBER_DIGITS$x}"),
        object: "charge",
        amount,
        currency,
        order,
        customer,
        status: "succeeded",
        captured: capture,
        created: 1_767_225_600,
    }
}

/// What the keys of a client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Each request has a key of its own; nothing looks at it.
    Ignored,
    /// Each request has a key of its own, and is executed.
    New,
    /// Each client has one key, and all its requests but the first are replayed.
    Replayed,
}

/// One client of the route.
pub(crate) struct Customer {
    index: usize,
    keys: Keys,
    may_be_refused: bool,
    sent: u64,
    /// The body of the last answer that was not a refusal.
    last: Bytes,
}

impl Customer {
    /// A store on a disk may be asked for more than it can do in time: who may be refused takes that for an answer.
    pub(crate) const fn new(index: usize, keys: Keys, may_be_refused: bool) -> Self {
        Self {
            index,
            keys,
            may_be_refused,
            sent: 0,
            last: Bytes::new(),
        }
    }

    const fn key(&self) -> u64 {
        match self.keys {
            Keys::Ignored | Keys::New => self.sent,
            Keys::Replayed => 0,
        }
    }

    /// `None` if the answer is wrong.
    fn judge(&self, head: &response::Parts, body: &Bytes) -> Option<Verdict> {
        if self.may_be_refused && is_refusal(head, body) {
            return Some(Verdict::Refused);
        }
        let replay = self.keys == Keys::Replayed && !self.last.is_empty();
        let marker = match self.keys {
            Keys::Ignored => None,
            Keys::New | Keys::Replayed => Some(if replay { "true" } else { "false" }),
        };
        let right = head.status == StatusCode::CREATED
            && is_marked(head, "idempotent-replayed", marker)
            && (*body == self.last) == replay
            && is_receipt(body);
        if right && is_marked(head, "idempotent-stored", None) {
            Some(Verdict::Right)
        } else if right
            && self.may_be_refused
            && is_marked(head, "idempotent-stored", Some("false"))
        {
            Some(Verdict::Unstored)
        } else {
            None
        }
    }
}

fn is_marked(head: &response::Parts, name: &str, marker: Option<&str>) -> bool {
    head.headers.get(name).map(HeaderValue::as_bytes) == marker.map(str::as_bytes)
}

fn is_receipt(body: &Bytes) -> bool {
    body.len() == RECEIPT.len()
        && body.starts_with(OPENING.as_bytes())
        && body.ends_with(&RECEIPT.as_bytes()[OPENING.len() + NUMBER_DIGITS..])
}

/// The store could not be asked in time, or has a claim still that was refused before. Nothing was executed.
fn is_refusal(head: &response::Parts, body: &Bytes) -> bool {
    let code: &[u8] = match head.status {
        StatusCode::SERVICE_UNAVAILABLE => br#""code":"store-unavailable""#,
        StatusCode::CONFLICT => br#""code":"in-progress""#,
        _ => return false,
    };
    body.windows(code.len()).any(|part| part == code)
}

impl requests::Client for Customer {
    fn request(&mut self) -> Request<Full<Bytes>> {
        let key = format!("{:08x}-0000-4000-8000-{:012x}", self.index, self.key());
        let key = HeaderValue::from_maybe_shared(Bytes::from(key))
            .expect("a key of digits is a value of a header");
        self.sent += 1;

        let mut request = Request::new(Full::new(Bytes::from_static(BODY)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(PATH);
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static("api.example.com"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer sk_bench_4b1d9c"),
        );
        headers.insert("idempotency-key", key);
        request
    }

    fn check(&mut self, head: &response::Parts, body: &Bytes) -> Result<Verdict, BoxError> {
        let Some(verdict) = self.judge(head, body) else {
            let (keys, sent) = (self.keys, self.sent);
            return Err(format!(
                "answer {sent} of a client whose keys are {keys:?} is wrong: {} {:?} {body:?}",
                head.status, head.headers
            )
            .into());
        };
        if verdict != Verdict::Refused {
            self.last.clone_from(body);
        }
        Ok(verdict)
    }
}
