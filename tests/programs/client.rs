//! A client of the API, as careful as clients of payments are.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderMap;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::program::{LIMIT, PACE};

/// One account's view of one API.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Shared by the clones, so that all of them follow a service that moves.
    url: Arc<Mutex<String>>,
    account: String,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new(api: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .build()
            .unwrap();
        Self {
            http,
            url: Arc::new(Mutex::new(api.to_owned())),
            account: "sk_test".to_owned(),
        }
    }

    /// The same client with another API key.
    pub(crate) fn with_account(&self, account: &str) -> Self {
        Self {
            account: account.to_owned(),
            ..self.clone()
        }
    }

    /// From here on the service is there.
    pub(crate) fn follow(&self, api: &str) {
        api.clone_into(&mut self.url.lock().unwrap());
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.lock().unwrap())
    }

    /// Asks for a charge.
    pub(crate) async fn charge(&self, key: &str, request: &Value) -> Answer {
        self.try_charge(key, request).await.unwrap()
    }

    pub(crate) async fn try_charge(&self, key: &str, request: &Value) -> reqwest::Result<Answer> {
        self.send(self.post().header("idempotency-key", key).json(request))
            .await
    }

    /// Asks again until there is an answer that stands: not lost, not pending, not a failure that may pass.
    pub(crate) async fn charge_until_answered(&self, key: &str, request: &Value) -> Answer {
        let deadline = Instant::now() + LIMIT;
        loop {
            // Without an answer at all it is asked again too.
            if let Ok(answer) = self.try_charge(key, request).await {
                if !matches!(answer.status, 409 | 503) {
                    return answer;
                }
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
            }
            assert!(
                Instant::now() < deadline,
                "no answer stood within {LIMIT:?}"
            );
            sleep(PACE).await;
        }
    }

    /// A request for a charge, without key and body.
    pub(crate) fn post(&self) -> RequestBuilder {
        self.http
            .post(self.at("/v1/charges"))
            .bearer_auth(&self.account)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = self.http.get(self.at(path));
        self.send(request.bearer_auth(&self.account)).await.unwrap()
    }

    /// A request to any path, without credentials.
    pub(crate) fn bare(&self, method: &str, path: &str) -> RequestBuilder {
        let method = method.parse().unwrap();
        self.http.request(method, self.at(path))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
        })
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status and the code of a problem.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["status"], self.status, "{self:?}");
        (self.status, body["code"].as_str().unwrap().to_owned())
    }

    /// What a problem says to people.
    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// Whether it was replayed; `None` for the layer's own refusals, and where the layer does not stand.
    pub(crate) fn replayed(&self) -> Option<bool> {
        self.header("idempotent-replayed")
            .map(|text| text.parse().unwrap())
    }

    /// Whether the service promises to give this answer again.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.header("idempotent-stored") != Some("false")
    }
}

/// A request for a charge.
pub(crate) fn of_amount(amount: i64) -> Value {
    json!({"amount": amount, "currency": "usd"})
}
