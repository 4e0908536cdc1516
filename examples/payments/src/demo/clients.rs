//! The shops that pay, and everything that they were told.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::answer::Answer;
use crate::failure::Failure;

/// How long a client asks for its charge before it counts as never answered. As long as the lease of the API: on a machine that
/// stands still for longer, a process that runs counts as lost too.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client waits for where nobody says when to come back: after a lost connection.
const PACE: Duration = Duration::from_millis(50);

/// The API key of every client that is not another shop's.
const SHOP: &str = "sk_demo";

/// What a client wants to pay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// The API key of the shop that it is a client of.
    shop: &'static str,
    /// Its `Idempotency-Key`.
    pub(super) key: &'static str,
    /// In minor units.
    pub(super) amount: i64,
}

impl Order {
    /// An order at the shop that most clients buy from.
    pub(super) const fn new(key: &'static str, amount: i64) -> Self {
        Self {
            shop: SHOP,
            key,
            amount,
        }
    }

    /// The same at the shop with this API key, which makes it another order.
    pub(super) const fn at(self, shop: &'static str) -> Self {
        Self { shop, ..self }
    }

    /// What tells it from other orders, in words.
    pub(super) fn name(self) -> String {
        match self.shop {
            SHOP => self.key.to_owned(),
            shop => format!("{} of {shop}", self.key),
        }
    }

    fn is(self, other: Self) -> bool {
        (self.shop, self.key) == (other.shop, other.key)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shop, key, amount } = self;
        write!(
            f,
            "POST /v1/charges, Idempotency-Key: {key}, amount {amount}"
        )?;
        if *shop == SHOP {
            Ok(())
        } else {
            write!(f, ", as {shop}")
        }
    }
}

/// One request, and its answer if one came.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) order: Order,
    /// Whether a client had been given the answer, and the promise that it is given again, when this was sent.
    pub(super) settled: bool,
    pub(super) answer: Option<Answer>,
}

/// The clients of a scene. Each request has a connection of its own, and is written down when it is sent.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    http: reqwest::Client,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Clients {
    pub(super) fn new() -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(PATIENCE)
            .build()
            .map_err(|error| Failure::because("failed to make the clients", error))?;
        Ok(Self {
            http,
            sent: Arc::default(),
        })
    }

    /// Asks once. Nothing comes back if the connection is lost.
    pub(super) async fn ask(&self, api: &str, order: Order) -> Option<Answer> {
        let number = self.write_down(order);
        let request = self
            .http
            .post(format!("{api}/v1/charges"))
            .bearer_auth(order.shop)
            .header("idempotency-key", order.key)
            .json(&json!({"amount": order.amount, "currency": "eur"}));
        let answer = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await?;
            Ok::<_, reqwest::Error>(Answer::new(status, &headers, body))
        };
        match answer.await {
            Ok(answer) => {
                self.book()[number].answer = Some(answer.clone());
                Some(answer)
            }
            Err(error) => {
                tracing::debug!(%error, "a client got no answer");
                None
            }
        }
    }

    /// Asks with the same key until an answer stands, and returns all that came: it comes back when it is told to, and after a lost
    /// connection.
    pub(super) async fn ask_until_answered(&self, api: &str, order: Order) -> Vec<Option<Answer>> {
        let deadline = Instant::now() + PATIENCE;
        let mut answers = Vec::new();
        loop {
            let answer = self.ask(api, order).await;
            let pause = match &answer {
                Some(answer) if answer.may_pass() => Some(answer.retry_after.unwrap_or(PACE)),
                Some(_) => None,
                None => Some(PACE),
            };
            answers.push(answer);
            match pause {
                Some(pause) if Instant::now() < deadline => sleep(pause).await,
                Some(_) | None => return answers,
            }
        }
    }

    /// What the API says of its health. No promise is judged by how often it is asked.
    pub(super) async fn health(&self, api: &str) -> Result<String, Failure> {
        let failed = |error| Failure::because("the API did not tell its health", error);
        let request = self.http.get(format!("{api}/healthz"));
        let answered = async { request.send().await?.error_for_status()?.text().await };
        answered.await.map_err(failed)
    }

    /// Every request for this order so far.
    pub(super) fn sent_for(&self, order: Order) -> Vec<Sent> {
        let mut sent = self.sent();
        sent.retain(|sent| sent.order.is(order));
        sent
    }

    /// Every request so far, in the order of sending.
    pub(super) fn sent(&self) -> Vec<Sent> {
        self.book().clone()
    }

    fn write_down(&self, order: Order) -> usize {
        let mut book = self.book();
        let settled = book
            .iter()
            .filter(|sent| sent.order.is(order))
            .filter_map(|sent| sent.answer.as_ref())
            .any(|answer| answer.is_charged() && answer.promised);
        book.push(Sent {
            order,
            settled,
            answer: None,
        });
        book.len() - 1
    }

    fn book(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
