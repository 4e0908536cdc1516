//! The card provider as a process: its switch and its ledger.

use std::{path::Path, time::Duration};

use reqwest::RequestBuilder;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::processes::{Process, Start};
use crate::failure::Failure;

/// How long any answer of the provider may take, and the first call of it by the API.
const LIMIT: Duration = Duration::from_secs(30);

/// How often the ledger is looked at.
const PACE: Duration = Duration::from_millis(10);

/// A running provider.
#[derive(Debug)]
pub(super) struct Bank {
    process: Process,
    http: reqwest::Client,
    dedupe: bool,
}

/// Every charge that the provider made.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Ledger {
    pub(super) charges: Vec<Entry>,
    /// How often it was asked for one.
    pub(super) calls: u64,
}

/// One charge of the provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) key: Option<String>,
    pub(super) amount: i64,
}

impl Bank {
    /// Starts a provider with an empty ledger, which makes one charge of two calls with one key if `dedupe` says so.
    pub(super) async fn open(folder: &Path, dedupe: bool) -> Result<Self, Failure> {
        let start = Start {
            name: "provider",
            announces: "provider",
            arguments: &["provider", "--listen", "127.0.0.1:0"],
            store: None,
        };
        let process = Process::start(folder, start).await?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .build()
            .map_err(|error| Failure::because("failed to make a client of the provider", error))?;
        let bank = Self {
            process,
            http,
            dedupe,
        };
        bank.set_faults(json!({"mode": "ok"})).await?;
        Ok(bank)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &str {
        self.process.address()
    }

    /// Sets the fault switch. Whether it deduplicates stays as it is.
    pub(super) async fn set_faults(&self, mut faults: Value) -> Result<(), Failure> {
        faults["dedupe"] = self.dedupe.into();
        let request = self.http.put(format!("{}/faults", self.address()));
        let _: Value = answer(request.json(&faults)).await?;
        Ok(())
    }

    pub(super) async fn ledger(&self) -> Result<Ledger, Failure> {
        answer(self.http.get(format!("{}/ledger", self.address()))).await
    }

    /// Waits until so many charges were asked for.
    pub(super) async fn called(&self, calls: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + LIMIT;
        while self.ledger().await?.calls < calls {
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "the API did not call the provider within {LIMIT:?}"
                )));
            }
            sleep(PACE).await;
        }
        Ok(())
    }
}

async fn answer<T: serde::de::DeserializeOwned>(request: RequestBuilder) -> Result<T, Failure> {
    let failed = |error| Failure::because("the provider did not answer", error);
    let response = request
        .send()
        .await
        .and_then(|response| response.error_for_status());
    response.map_err(failed)?.json().await.map_err(failed)
}
