//! What a scene is played on.

use std::{fs, path::PathBuf, time::Duration};

use super::{
    answer::Answer,
    bank::Bank,
    clients::{Clients, Order},
    processes::{Process, Start},
    report::Report,
    scenes::ATTEMPTS,
};
use crate::failure::Failure;

/// Longer than anything here takes: only the scene of a timeout is about an attempt that is given up.
const PROVIDER_TIMEOUT: &str = "120s";

/// A provider with an empty ledger, clients whose every answer is written down, and a store for APIs to be started on.
pub(super) struct Stage {
    pub(super) bank: Bank,
    pub(super) clients: Clients,
    /// Where APIs keep what they know, as the flag `--store` takes it.
    store: String,
    shared: SharedStore,
    folder: PathBuf,
    report: Report,
    broken: Vec<String>,
}

/// Where several APIs can work on one store.
#[derive(Clone)]
pub(super) enum SharedStore {
    /// A schema of a Postgres database.
    Postgres { url: String, schema: String },
    /// A file, on one host.
    Sqlite,
}

impl Stage {
    /// Builds a stage in a new folder.
    pub(super) async fn build(
        folder: PathBuf,
        shared: SharedStore,
        dedupe: bool,
        report: Report,
    ) -> Result<Self, Failure> {
        fs::create_dir(&folder).map_err(|error| {
            Failure::because(format!("failed to make {}", folder.display()), error)
        })?;
        Ok(Self {
            bank: Bank::open(&folder, dedupe).await?,
            clients: Clients::new()?,
            store: format!("sqlite:{}", folder.join("payments.db").display()),
            shared,
            folder,
            report,
            broken: Vec::new(),
        })
    }

    /// From here on APIs are started on the store that several of them can share. Says which it is.
    pub(super) fn share_store(&mut self) -> String {
        match &self.shared {
            SharedStore::Postgres { url, schema } => {
                self.store.clone_from(url);
                format!("Postgres, the schema {schema}")
            }
            SharedStore::Sqlite => {
                "one SQLite file, which processes of one host may share (with --postgres-url: Postgres)".to_owned()
            }
        }
    }

    /// Starts an API. `name` is its own within the scene.
    pub(super) async fn start_api(&self, name: &str, lease: Duration) -> Result<Process, Failure> {
        self.start_api_with(name, lease, &[]).await
    }

    /// Starts an API with more arguments.
    pub(super) async fn start_api_with(
        &self,
        name: &str,
        lease: Duration,
        more: &[&str],
    ) -> Result<Process, Failure> {
        let lease = humantime::format_duration(lease).to_string();
        let attempts = ATTEMPTS.to_string();
        let mut arguments = vec![
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--provider-url",
            self.bank.address(),
            "--provider-attempts",
            &attempts,
            "--lease",
            &lease,
        ];
        if !more.contains(&"--provider-timeout") {
            arguments.extend(["--provider-timeout", PROVIDER_TIMEOUT]);
        }
        arguments.extend(more);
        let start = Start {
            name,
            announces: "api",
            arguments: &arguments,
            store: Some(&self.store),
        };
        Process::start(&self.folder, start).await
    }

    /// Says what somebody did.
    pub(super) fn tell(&self, who: &str, text: &str) -> Result<(), Failure> {
        self.report.told(who, text)
    }

    /// Says what a client sent, again and again, and what it was told.
    pub(super) fn tell_asking(
        &self,
        who: &str,
        order: Order,
        answers: &[Option<Answer>],
    ) -> Result<(), Failure> {
        for (number, answer) in answers.iter().enumerate() {
            match number {
                0 => self.tell(who, &format!("sends {order}"))?,
                _ => self.tell("", "sends the same again")?,
            }
            match answer {
                Some(answer) => self.tell("", &format!("gets {answer}"))?,
                None => self.tell("", "gets no answer: the connection is lost")?,
            }
        }
        Ok(())
    }

    /// A latecomer asks the first of the APIs for the order; then each of them finishes what it has begun, and ends.
    pub(super) async fn close(&mut self, apis: Vec<Process>, order: Order) -> Result<(), Failure> {
        let Some(api) = apis.first() else {
            return Err(Failure::new("no API is left for a latecomer"));
        };
        let answers = self.clients.ask_until_answered(api.address(), order).await;
        self.tell_asking("latecomer", order, &answers)?;
        let charged = matches!(answers.last(), Some(Some(answer)) if answer.is_charged());
        self.expect(charged, "the latecomer was not told of the charge");

        for api in apis {
            let name = api.name().to_owned();
            let status = api.end().await?;
            self.expect(
                status.success(),
                &format!("{name} did not finish what it had begun: {status}"),
            );
        }
        Ok(())
    }

    /// Notes what broke, unless it holds. The ledger and the answers are judged in every scene, so this is for what only this scene
    /// promises.
    pub(super) fn expect(&mut self, holds: bool, broken: &str) {
        if !holds {
            self.broken.push(broken.to_owned());
        }
    }

    /// Notes what somebody found broken.
    pub(super) fn note(&mut self, broken: Vec<String>) {
        self.broken.extend(broken);
    }

    /// What broke by the scene's own word.
    pub(super) fn broken(&self) -> &[String] {
        &self.broken
    }
}
