//! The demo: what it promises, how it ends, and what it leaves behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::LazyLock,
};

use nix::sys::signal::Signal;
use sqlx::{Connection, PgConnection};
use steadfast_testkit::postgres;
use tempfile::{TempDir, tempdir};

use crate::program::{Program, command, eventually};

const NOTHING: [PathBuf; 0] = [];

const README: &str = include_str!("../../examples/payments/README.md");

/// In the order of playing.
const SCENES: [&str; 12] = [
    "double click",
    "passing fault",
    "flapping provider",
    "open circuit",
    "timeout",
    "lost response",
    "slow provider",
    "kill -9 in mid-charge",
    "SIGTERM in mid-charge",
    "herd on one key",
    "many shops, one key",
    "two processes",
];

/// Those that rest on a provider that deduplicates, and what it charges if it does not.
const RESTING_ON_THE_PROVIDER: [(&str, usize); 3] = [
    ("timeout", 2),
    ("lost response", 4),
    ("kill -9 in mid-charge", 2),
];

/// How many orders a scene has, each of which is a charge.
fn orders(scene: &str) -> usize {
    match scene {
        "flapping provider" => 6,
        "open circuit" => 12,
        "SIGTERM in mid-charge" => 2,
        "many shops, one key" => 3,
        _ => 1,
    }
}

/// A demo that was played to its end.
struct Played {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Played {
    /// Its temporary folder is in `folder`.
    fn new(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command(folder)
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", folder)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        Self {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// What it said of a scene while it was played.
    fn scene(&self, name: &str) -> &str {
        let number = 1 + SCENES.iter().position(|scene| *scene == name).unwrap();
        let heading = format!("\n{number}. {name}\n");
        let (_, after) = self.stdout.split_once(&heading).expect(&heading);
        after.split("\n\n").next().unwrap()
    }

    fn row(&self, scene: &str) -> Row<'_> {
        let (_, summary) = self.stdout.split_once("\n-----").unwrap();
        Row::new(summary, scene)
    }
}

/// A line of the summary.
struct Row<'a> {
    sent: usize,
    calls: usize,
    charged: usize,
    expected: usize,
    result: &'a str,
}

impl<'a> Row<'a> {
    fn new(summary: &'a str, scene: &str) -> Self {
        let line = summary.lines().find(|line| line.starts_with(scene));
        let mut words = line.expect(scene).split_whitespace().rev();
        let result = words.next().unwrap();
        let (charged, expected) = words.next().unwrap().split_once('/').unwrap();
        let [calls, sent] = [(); 2].map(|()| words.next().unwrap().parse().unwrap());
        Self {
            sent,
            calls,
            charged: charged.parse().unwrap(),
            expected: expected.parse().unwrap(),
            result,
        }
    }

    /// The charges in the ledger, those that were promised, and the result.
    fn verdict(&self) -> (usize, usize, &'a str) {
        (self.charged, self.expected, self.result)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Played once. An empty `NO_COLOR` refuses nothing: the text is plain for its own reasons.
static KEPT: LazyLock<Played> = LazyLock::new(|| {
    let folder = tempdir().unwrap();
    let played = Played::new(folder.path(), &[], &[("NO_COLOR", "")]);
    assert_eq!(files(folder.path()), NOTHING, "it leaves files behind");
    played
});

#[test]
fn every_promise_is_kept_and_no_file_is_left() {
    assert_eq!(KEPT.code, Some(0), "{}{}", KEPT.stdout, KEPT.stderr);
    for scene in SCENES {
        assert!(KEPT.scene(scene).ends_with("\n   kept"), "{}", KEPT.stdout);
        let orders = orders(scene);
        assert_eq!(KEPT.row(scene).verdict(), (orders, orders, "kept"));
        let shown = format!("for {} call", KEPT.row(scene).calls);
        assert!(KEPT.scene(scene).contains(&shown), "{}", KEPT.scene(scene));
    }
    assert!(!KEPT.stdout.contains("BROKEN"), "{}", KEPT.stdout);
    assert!(KEPT.stdout.contains("\n12 promises kept, in "));
    assert_eq!(KEPT.stderr, "");
}

#[test]
fn each_scene_shows_what_it_is_about() {
    for (scene, pieces) in [
        (
            "double click",
            &["Idempotent-Replayed: false", "Idempotent-Replayed: true"][..],
        ),
        (
            "passing fault",
            &["retrying", "attempt=2", "attempt=3", "3 calls"],
        ),
        (
            "flapping provider",
            &[
                "goes down",
                "gets 503 provider-unavailable",
                "201, Idempotent-Replayed: true",
                "comes back",
                "goes down",
                "comes back",
                "goes down",
                "comes back",
                r#"healthz     {"status":"ok","breaker":"closed"}"#,
                "6 charges, for 15 calls",
            ],
        ),
        (
            "open circuit",
            &[
                r#"healthz     {"status":"ok","breaker":"closed"}"#,
                "gets 503 provider-unavailable, Retry-After: 1",
                "circuit opened",
                r#"healthz     {"status":"ok","breaker":"open"}"#,
                "10 answers like 503 circuit-open, Retry-After: ",
                "10 refusals took",
                "was called 0 times meanwhile",
                r#"healthz     {"status":"ok","breaker":"half_open"}"#,
                "circuit changed",
                r#"healthz     {"status":"ok","breaker":"closed"}"#,
                "get 9 times 201",
                "12 charges, for 17 calls",
            ],
        ),
        (
            "timeout",
            &[
                "waits 600ms",
                "reason=\"elapsed\"",
                "201, Idempotent-Replayed: false",
                "2 calls",
            ],
        ),
        (
            "lost response",
            &["503 provider-unavailable, Retry-After: 1", "4 calls"],
        ),
        (
            "slow provider",
            &["hangs up", "Idempotent-Replayed: true", "1 call "],
        ),
        ("kill -9 in mid-charge", &["SIGKILL", "2 calls"]),
        (
            "SIGTERM in mid-charge",
            &[
                "hangs up",
                "is asked to end with SIGTERM",
                "201, Idempotent-Replayed: false",
                "is started again",
                "201, Idempotent-Replayed: true",
                "2 charges, for 2 calls",
            ],
        ),
        ("herd on one key", &["100 times 201", "the same", "1 call "]),
        (
            "many shops, one key",
            &[
                "amount 910, as sk_shop_a",
                "8 times 201",
                "amount 920, as sk_shop_b",
                "8 times 201",
                "amount 930, as sk_shop_c",
                "8 times 201",
                "3 charges, for 3 calls",
            ],
        ),
        (
            "two processes",
            &[
                "SQLite",
                "40 times 201",
                "SIGKILL",
                "Idempotent-Replayed: true",
            ],
        ),
    ] {
        for piece in pieces {
            assert!(
                KEPT.scene(scene).contains(piece),
                "{piece}: {}",
                KEPT.scene(scene)
            );
        }
    }
    for scene in SCENES {
        let (_, last) = KEPT.scene(scene).split_once("\n   latecomer ").unwrap();
        assert!(last.contains("201, Idempotent-Replayed: true"), "{last}");
    }
    assert!(KEPT.row("herd on one key").sent > 100);
    assert!(KEPT.row("lost response").sent >= 2);
}

#[test]
fn a_pipe_gets_plain_text_of_a_hundred_columns() {
    assert!(!KEPT.stdout.contains('\u{1b}'));
    for line in KEPT.stdout.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn the_transcript_of_the_readme_happens() {
    let (_, transcript) = README
        .split_once("```text\n$ cargo run -p payments -- demo\n")
        .unwrap();
    let shown = transcript.split("```").next().unwrap();
    let (scenes, summary) = shown.split_once("\n-----").unwrap();
    assert!(scenes.lines().count() > 20, "the transcript was not found");

    let mut rest = &*KEPT.stdout;
    for piece in scenes.lines().flat_map(|line| line.split('…')) {
        let Some((_, after)) = rest.split_once(piece) else {
            panic!("no {piece:?} in\n{rest}");
        };
        rest = after;
    }
    for scene in SCENES {
        // How many requests a crowd needs is not for the README to say.
        let (played, shown) = (KEPT.row(scene), Row::new(summary, scene));
        assert_eq!(played.verdict(), shown.verdict(), "{scene}");
        assert_eq!(played.calls, shown.calls, "{scene}");
    }
}

/// Three scenes are judged by what their processes have logged.
#[test]
fn what_is_logged_by_the_demo_itself_changes_no_promise() {
    let folder = tempdir().unwrap();

    let played = Played::new(folder.path(), &[], &[("RUST_LOG", "error")]);

    assert_eq!(played.code, Some(0), "{}{}", played.stdout, played.stderr);
}

#[test]
fn a_provider_that_does_not_deduplicate_is_found_out() {
    let folder = tempdir().unwrap();

    let played = Played::new(folder.path(), &["--without-dedupe"], &[]);

    assert_eq!(played.code, Some(1), "{}", played.stdout);
    for scene in SCENES {
        let verdict = played.row(scene).verdict();
        let resting = RESTING_ON_THE_PROVIDER
            .iter()
            .find(|(name, _)| *name == scene);
        if let Some((_, charges)) = resting {
            assert_eq!(verdict, (*charges, 1, "BROKEN"), "{scene}");
            let broken =
                format!("BROKEN      the ledger shows {charges} charges, and 1 was promised");
            assert!(played.scene(scene).contains(&broken), "{}", played.stdout);
        } else {
            let orders = orders(scene);
            assert_eq!(verdict, (orders, orders, "kept"), "{scene}");
        }
    }
    assert!(played.stdout.contains("3 of 12 promises broken"));
    assert!(played.stderr.contains("3 promises broken"));

    let left = files(folder.path());
    let [kept] = &*left else {
        panic!("{left:?}");
    };
    assert!(played.stdout.matches(kept.to_str().unwrap()).count() > 1);
    let log = fs::read_to_string(kept.join("scene-8/api-restarted.log")).unwrap();
    let charged = log.find("charged").expect(&log);
    let asked_to_end = log.find("stopping: finishing what is in flight");
    assert!(asked_to_end.is_some_and(|at| at > charged), "{log}");
}

#[tokio::test]
async fn two_processes_share_a_postgres_that_is_named_and_leave_nothing_in_it() {
    let database = postgres::database().await.unwrap();
    let url = database.url().to_owned();

    let environment = [("PAYMENTS_POSTGRES_URL", &*url)];
    let folder = tempdir().unwrap();
    let played = Played::new(folder.path(), &[], &environment);

    assert_eq!(played.code, Some(0), "{}{}", played.stdout, played.stderr);
    let scene = played.scene("two processes");
    assert!(
        scene.contains("Postgres, the schema payments_demo_"),
        "{scene}"
    );
    assert!(scene.ends_with("\n   kept"), "{scene}");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'payments_demo%') \
              + (SELECT count(*) FROM pg_tables WHERE schemaname = 'public')",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn the_postgres_that_the_service_would_use_is_used_unless_another_is_named() {
    let database = postgres::database().await.unwrap();
    let environment = [("PAYMENTS_STORE", database.url())];
    let folder = tempdir().unwrap();

    let played = Played::new(folder.path(), &[], &environment);
    let nowhere = ["--postgres-url", "postgres://u@127.0.0.1:1/d"];
    let named = Played::new(folder.path(), &nowhere, &environment);

    assert_eq!(played.code, Some(0), "{}{}", played.stdout, played.stderr);
    let scene = played.scene("two processes");
    assert!(
        scene.contains("Postgres, the schema payments_demo_"),
        "{scene}"
    );
    assert_eq!(named.code, Some(1), "{}", named.stdout);
}

#[test]
fn a_postgres_that_cannot_be_used_is_told() {
    let folder = tempdir().unwrap();
    let url = "postgres://u:hunter2@127.0.0.1:1/d";

    let played = Played::new(folder.path(), &["--postgres-url", url], &[]);

    assert_eq!(played.code, Some(1));
    assert!(
        played.stderr.contains("Postgres database"),
        "{}",
        played.stderr
    );
    assert!(!played.stderr.contains("hunter2"), "{}", played.stderr);
    assert_eq!(files(folder.path()), NOTHING);
}

#[test]
fn what_it_does_not_know_it_refuses() {
    let folder = tempdir().unwrap();
    for arguments in [
        &["--unknown"][..],
        &["scene"],
        &["--store", "memory:"],
        &["--postgres-url", "mysql://localhost"],
    ] {
        let played = Played::new(folder.path(), arguments, &[]);
        assert_eq!(played.code, Some(2), "{arguments:?}: {}", played.stderr);
        assert!(played.stdout.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_signal_ends_it_with_all_its_processes_and_files() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let stage = Stage::in_mid_charge().await;

        let (code, folder) = stage.end_with(signal).await;

        assert_eq!(code, Some(1), "{signal}");
        let left: Vec<_> = files(folder.path())
            .into_iter()
            .filter(|path| path.to_string_lossy().contains("payments-demo-"))
            .collect();
        assert_eq!(left, NOTHING, "{signal}");
    }
}

#[tokio::test]
async fn a_kill_ends_it_with_all_its_processes() {
    let stage = Stage::in_mid_charge().await;

    let (code, _folder) = stage.end_with(Signal::SIGKILL).await;

    assert_eq!(code, None, "a process that was killed has no exit code");
}

/// A demo under way.
struct Stage {
    program: Program,
    // Last, so that the program has ended before its folder goes.
    folder: TempDir,
}

impl Stage {
    /// Its API has been killed and started again.
    async fn in_mid_charge() -> Self {
        let folder = tempdir().unwrap();
        let environment = [("TMPDIR", folder.path().to_str().unwrap())];
        let program = Program::start(folder.path(), &["demo"], &environment);
        eventually("the scene with the crash", async || {
            program.said().contains("started again").then_some(())
        })
        .await;
        Self { program, folder }
    }

    /// Ends it, and waits until none of its processes is left.
    async fn end_with(mut self, signal: Signal) -> (Option<i32>, TempDir) {
        // Between two scenes there are none for a moment.
        eventually("a provider and an API beside the demo", async || {
            let running = running_in(self.folder.path());
            (running.len() > 2 && running.contains(&self.program.id())).then_some(())
        })
        .await;

        self.program.signal(signal);
        let status = self.program.ended().await;

        eventually("the end of every process of the demo", async || {
            running_in(self.folder.path()).is_empty().then_some(())
        })
        .await;
        (status.code(), self.folder)
    }
}

/// Every process that was started with this temporary folder, or by one that was.
///
/// One that has ended has no environment any more, also if nobody has waited for it.
fn running_in(folder: &Path) -> BTreeSet<u32> {
    let entry = format!("TMPDIR={}", folder.display());
    let processes =
        fs::read_dir("/proc").expect("`/proc` shows the processes: run these tests on Linux");
    processes
        .filter_map(|process| process.unwrap().file_name().to_str()?.parse().ok())
        .filter(|id| {
            // Gone meanwhile, or somebody else's.
            let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == entry.as_bytes())
        })
        .collect()
}
