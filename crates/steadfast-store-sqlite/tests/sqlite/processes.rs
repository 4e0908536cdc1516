//! Several processes on one file, and one that is killed. A child is this test binary again, running the same test with the file
//! in its environment.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use sqlx::Row;
use steadfast_core::idempotency::Promise;
use steadfast_store::{Begin, Standing, Store};
use steadfast_store_sqlite::SqliteStore;

use crate::support::{File, claimed, key, response, terms};

const FILE: &str = "STEADFAST_SQLITE_TEST_FILE";
const NUMBER: &str = "STEADFAST_SQLITE_TEST_NUMBER";

/// A child process; killed when dropped, so that a failed test leaves none.
struct Spawned(Child);

impl Spawned {
    fn new(test: &str, file: &Path, number: u32) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(FILE, file)
            .env(NUMBER, number.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// The numbers of the child's lines that start with `word`, as they come.
    fn numbers(&mut self, word: &'static str) -> impl Iterator<Item = u32> {
        let stdout = self.0.stdout.take().unwrap();
        BufReader::new(stdout).lines().filter_map(move |line| {
            let line = line.ok()?;
            line.strip_prefix(word)?.trim().parse().ok()
        })
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn say(word: &str, number: u32) {
    // In one piece: lines of the test harness go to the same place.
    let line = format!("\n{word} {number}\n");
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes()).unwrap();
    stdout.flush().unwrap();
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_killed_process_forgets_nothing_that_it_acknowledged() {
    if let Some(path) = env::var_os(FILE) {
        return block_on(complete_for_ever(Path::new(&path)));
    }
    const ENOUGH: usize = 40;
    let file = File::new();
    let test = "processes::a_killed_process_forgets_nothing_that_it_acknowledged";
    let mut child = Spawned::new(test, &file.path(), 0);
    let acknowledged: Vec<_> = child.numbers("acknowledged").take(ENOUGH).collect();
    assert_eq!(acknowledged.len(), ENOUGH, "the child ended too early");
    child.0.kill().unwrap();
    child.0.wait().unwrap();

    block_on(async {
        let mut connection = file.connection().await;
        let sound: String = sqlx::query("PRAGMA integrity_check")
            .fetch_one(&mut connection)
            .await
            .unwrap()
            .get(0);
        assert_eq!(sound, "ok");

        let store = file.store().await;
        for number in acknowledged {
            let asker = terms(u32::MAX, Promise::AtMostOnce);
            let replay = store.begin(&key(number), &asker).await.unwrap();
            let kept = response(&format!("answer {number}"));
            assert_eq!(replay, Begin::Completed { response: kept }, "{number}");
        }
        let beyond: Vec<_> = (1_000_000..1_000_010).map(key).collect();
        let standings = store.look_up(&beyond).await.unwrap();
        assert!(
            standings
                .iter()
                .all(|standing| *standing == Standing::Absent)
        );
    });
}

async fn complete_for_ever(path: &Path) {
    let store = SqliteStore::open(path).await.unwrap();
    store.migrate().await.unwrap();
    for number in 0.. {
        let claim = claimed(&store, &key(number), &terms(number, Promise::AtMostOnce)).await;
        let answer = response(&format!("answer {number}"));
        let _ = store.complete(&claim, &answer).await.unwrap();
        say("acknowledged", number);
    }
}

#[test]
fn processes_that_race_for_many_keys_make_one_claim_each() {
    const KEYS: u32 = 150;
    if let Some(path) = env::var_os(FILE) {
        let number = env::var(NUMBER).unwrap().parse().unwrap();
        return block_on(claim_all(Path::new(&path), number, KEYS));
    }
    let file = File::new();
    let test = "processes::processes_that_race_for_many_keys_make_one_claim_each";
    let mut children: Vec<_> = (1..=3)
        .map(|number| Spawned::new(test, &file.path(), number))
        .collect();

    let mut claims: Vec<_> = children
        .iter_mut()
        .flat_map(|child| child.numbers("claimed").collect::<Vec<_>>())
        .collect();

    claims.sort_unstable();
    assert_eq!(claims, (0..KEYS).collect::<Vec<_>>());
    for child in &mut children {
        assert!(child.0.wait().unwrap().success());
    }
}

async fn claim_all(path: &Path, process: u32, keys: u32) {
    let store = SqliteStore::open(path).await.unwrap();
    store.migrate().await.unwrap();
    for number in 0..keys {
        let terms = terms(process * keys + number, Promise::AtMostOnce);
        // Three processes on a slow disk may keep one waiting past its limit; a claim is idempotent for its owner.
        let begin = loop {
            match store.begin(&key(number), &terms).await {
                Ok(begin) => break begin,
                Err(error) => assert_eq!(
                    error.kind(),
                    steadfast_store::StoreErrorKind::Unavailable,
                    "{error:?}"
                ),
            }
        };
        if matches!(begin, Begin::Claimed(_)) {
            say("claimed", number);
        } else {
            assert!(matches!(begin, Begin::Running { .. }), "{begin:?}");
        }
    }
}
