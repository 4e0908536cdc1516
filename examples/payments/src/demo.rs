//! `payments demo`: the story of a payment that must not happen twice, played with real processes over real HTTP.
//!
//! Each scene has a provider with an empty ledger, an API and a store of its own. What it promised is judged by the ledger, once
//! nothing is in flight any more, and by what every client was told.

mod answer;
mod bank;
mod clients;
mod judge;
mod processes;
mod report;
mod scenes;
mod schema;
mod stage;

use std::{env, path::Path};

use tokio::time::Instant;

use self::{
    answer::shortened,
    bank::Ledger,
    judge::{count, judge},
    report::{Report, Row},
    scenes::{SCENES, Scene},
    schema::Schema,
    stage::{SharedStore, Stage},
};
use crate::{
    config::{DemoConfig, PostgresUrl},
    failure::Failure,
    shutdown::Signals,
};

/// Plays every scene and says on stdout what happened. Logs and stores are in a temporary folder, which stays if something broke.
///
/// # Errors
///
/// A promise was broken, a scene could not be played, or SIGTERM or Ctrl-C came. No process is left behind.
///
/// # Cancel safety
///
/// Its processes are killed. With Postgres, a schema named `payments_demo_…` may stay.
pub async fn play(config: DemoConfig) -> Result<(), Failure> {
    let mut signals =
        Signals::install().map_err(|error| Failure::because("failed to receive signals", error))?;
    let folder = tempfile::Builder::new()
        .prefix("payments-demo-")
        .tempdir()
        .map_err(|error| Failure::because("failed to make a temporary folder", error))?;
    let schema = match postgres(config.postgres_url) {
        Some(url) => Some(Schema::create(url).await?),
        None => None,
    };
    let demo = Demo {
        folder: folder.path(),
        shared: shared_store(schema.as_ref()),
        dedupe: !config.without_dedupe,
        report: Report::to_stdout(),
    };

    let played = tokio::select! {
        biased;
        () = signals.next() => None,
        played = demo.play() => Some(played),
    };
    if let Some(schema) = schema {
        schema.remove().await;
    }
    match played {
        None => Err(Failure::new("a signal ended the demo")),
        Some(Ok(Ending::Kept)) => folder
            .close()
            .map_err(|error| Failure::because("failed to remove the temporary folder", error)),
        Some(Ok(Ending::Broken(number))) => {
            let _ = folder.keep();
            let promises = count(number, "promise");
            Err(Failure::new(format!("{promises} broken")))
        }
        Some(Err(failure)) => {
            let kept = folder.keep();
            let what = format!(
                "the demo could not be played to its end; the logs of its processes are in {}",
                kept.display()
            );
            Err(Failure::because(what, failure))
        }
    }
}

/// The database that was named for the demo, else the one that `payments serve` would keep everything in, if that is Postgres.
fn postgres(named: Option<PostgresUrl>) -> Option<PostgresUrl> {
    named.or_else(|| env::var("PAYMENTS_STORE").ok()?.parse().ok())
}

fn shared_store(schema: Option<&Schema>) -> SharedStore {
    match schema {
        Some(schema) => SharedStore::Postgres {
            url: schema.url(),
            schema: schema.name().to_owned(),
        },
        None => SharedStore::Sqlite,
    }
}

struct Demo<'a> {
    folder: &'a Path,
    shared: SharedStore,
    dedupe: bool,
    report: Report,
}

enum Ending {
    Kept,
    /// So many promises.
    Broken(usize),
}

impl Demo<'_> {
    async fn play(&self) -> Result<Ending, Failure> {
        let begun = Instant::now();
        self.open()?;
        let mut rows = Vec::new();
        for (scene, number) in SCENES.iter().zip(1..) {
            let row = self.play_scene(number, scene).await.map_err(|failure| {
                let name = scene.name;
                Failure::because(
                    format!("scene {number} ({name}) could not be played"),
                    failure,
                )
            })?;
            rows.push(row);
        }
        self.report.summary(&rows)?;
        self.close(&rows, begun)
    }

    fn open(&self) -> Result<(), Failure> {
        self.report.paragraph(&format!(
            "A payment that must not happen twice, in {}. Each has a card provider, an API and a store of its own. Provider and \
             API are processes: this program, as `payments provider` and `payments serve`. Their logs are in {}",
            count(SCENES.len(), "scene"),
            self.folder.display()
        ))?;
        if !self.dedupe {
            self.report.paragraph(
                "--without-dedupe: the provider ignores idempotency keys, so what rests on them is going to break.",
            )?;
        }
        Ok(())
    }

    async fn play_scene(&self, number: usize, scene: &Scene) -> Result<Row, Failure> {
        self.report.heading(number, scene.name, scene.promise)?;
        let folder = self.folder.join(format!("scene-{number}"));
        let mut stage = Stage::build(folder, self.shared.clone(), self.dedupe, self.report).await?;
        let apis = (scene.play)(&mut stage).await?;
        stage.close(apis, scene.order).await?;

        let ledger = stage.bank.ledger().await?;
        tell_ledger(&stage, &ledger)?;
        let sent = stage.clients.sent();
        let mut broken = judge(scene, &sent, &ledger);
        broken.extend_from_slice(stage.broken());
        self.report.verdict(&broken)?;
        Ok(Row {
            scene: scene.name,
            promise: scene.promise,
            sent: sent.len(),
            calls: ledger.calls,
            expected: scene.charges,
            charged: ledger.charges.len(),
            kept: broken.is_empty(),
        })
    }

    fn close(&self, rows: &[Row], begun: Instant) -> Result<Ending, Failure> {
        let broken: Vec<&str> = rows
            .iter()
            .filter(|row| !row.kept)
            .map(|row| row.scene)
            .collect();
        let seconds = begun.elapsed().as_secs_f64();
        if broken.is_empty() {
            let promises = count(rows.len(), "promise");
            self.report
                .paragraph(&format!("{promises} kept, in {seconds:.1} s."))?;
            return Ok(Ending::Kept);
        }
        self.report.paragraph(&format!(
            "{} of {} broken, in {seconds:.1} s: {}. The logs of the processes are in {}",
            broken.len(),
            count(rows.len(), "promise"),
            broken.join(", "),
            self.folder.display()
        ))?;
        if !self.dedupe {
            self.report.paragraph(
                "A provider that ignores keys charges again when it is asked again, and no layer in front of it can know. The \
                 promises that were kept rest on the layer alone.",
            )?;
        }
        Ok(Ending::Broken(broken.len()))
    }
}

fn tell_ledger(stage: &Stage, ledger: &Ledger) -> Result<(), Failure> {
    let (charges, calls) = (ledger.charges.len(), ledger.calls);
    stage.tell(
        "ledger",
        &format!(
            "{}, for {} of the provider",
            count(charges, "charge"),
            count(usize::try_from(calls).unwrap_or(usize::MAX), "call")
        ),
    )?;
    for entry in &ledger.charges {
        let key = entry.key.as_deref().map_or("no key".to_owned(), |key| {
            format!("the derived key {}", shortened(key))
        });
        stage.tell(
            "",
            &format!("{}, amount {}, under {key}", entry.id, entry.amount),
        )?;
    }
    Ok(())
}
