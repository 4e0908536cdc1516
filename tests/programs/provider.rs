//! The fake card provider, seen from outside: what it charged, and how it fails.

use serde_json::Value;

use crate::program::eventually;

pub(crate) struct Provider {
    http: reqwest::Client,
    url: String,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) charges: Vec<Entry>,
    pub(crate) calls: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) key: Option<String>,
    pub(crate) amount: i64,
    pub(crate) at: i64,
}

impl Entry {
    fn of(charge: &Value) -> Self {
        Self {
            id: charge["id"].as_str().unwrap().to_owned(),
            key: charge["key"].as_str().map(str::to_owned),
            amount: charge["amount"].as_i64().unwrap(),
            at: charge["at"].as_i64().unwrap(),
        }
    }
}

impl Provider {
    pub(crate) fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            http,
            url: url.to_owned(),
        }
    }

    pub(crate) async fn ledger(&self) -> Ledger {
        let request = self.http.get(format!("{}/ledger", self.url));
        let ledger: Value = request.send().await.unwrap().json().await.unwrap();
        Ledger {
            charges: ledger["charges"]
                .as_array()
                .unwrap()
                .iter()
                .map(Entry::of)
                .collect(),
            calls: ledger["calls"].as_u64().unwrap(),
        }
    }

    /// Sets the fault switch and returns the state in force.
    pub(crate) async fn faults(&self, faults: &Value) -> Value {
        let request = self.http.put(format!("{}/faults", self.url)).json(faults);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// Waits until so many charges were asked for.
    pub(crate) async fn called(&self, calls: u64) {
        eventually("a call of the provider", async || {
            (self.ledger().await.calls >= calls).then_some(())
        })
        .await;
    }

    /// Calls the provider itself.
    pub(crate) async fn charge(
        &self,
        key: Option<&str>,
        request: &Value,
    ) -> reqwest::Result<(u16, Value)> {
        let mut call = self
            .http
            .post(format!("{}/charges", self.url))
            .json(request);
        if let Some(key) = key {
            call = call.header("idempotency-key", key);
        }
        let response = call.send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }
}
