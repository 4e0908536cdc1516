//! The orders program, as its users run it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use nix::sys::signal::Signal;
use orders::{
    client::{Clients, Limits},
    proto::{ListOrdersRequest, Order, PlaceOrderRequest, WatchOrderRequest},
};
use sqlx::{Connection, SqliteConnection};
use steadfast::circuit_breaker::BreakerConfig;
use steadfast_testkit::postgres;
use tempfile::tempdir;
use tonic::{Code, Request, Response, Status, transport::Endpoint};

use crate::{
    orders_program::{Server, command},
    program::{LIMIT, eventually},
};

const README: &str = include_str!("../../examples/orders/README.md");

fn clients(server: &Server) -> Clients {
    let endpoint = Endpoint::from_shared(server.url().to_owned()).unwrap();
    let limits = Limits {
        deadline: LIMIT,
        attempt_timeout: LIMIT,
        attempts: 1,
        breaker: BreakerConfig::default(),
    };
    Clients::new(&endpoint, "sk_demo", &limits).unwrap()
}

/// Places an order under this key, in one attempt.
async fn place(server: &Server, key: &str) -> Result<Response<Order>, Status> {
    let mut request = Request::new(PlaceOrderRequest {
        sku: "tea".to_owned(),
        quantity: 2,
    });
    let metadata = request.metadata_mut();
    metadata.insert("idempotency-key", key.parse().unwrap());
    clients(server).unary.place_order(request).await
}

async fn list(server: &Server) -> Vec<Order> {
    let mut client = clients(server).unary;
    let answer = client.list_orders(ListOrdersRequest {}).await;
    answer.unwrap().into_inner().orders
}

fn told<'a>(answer: &'a Response<Order>, name: &str) -> &'a str {
    answer.metadata().get(name).unwrap().to_str().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn what_was_placed_is_placed_once_also_after_a_kill() {
    let folder = tempdir().unwrap();
    let line = ["place", "--sku", "tea", "--quantity", "2", "--key", "k"];
    let server = Server::start(folder.path(), &[]).await;

    let first = stdout(&server.call(&line));
    let again = stdout(&server.call(&line));
    server.kill();
    let server = Server::start(folder.path(), &[]).await;
    let after_the_kill = stdout(&server.call(&line));

    assert!(first.ends_with(" execution=1 replayed=false\n"), "{first}");
    let replayed = first.replace("replayed=false", "replayed=true");
    assert_eq!(again, replayed);
    assert_eq!(after_the_kill, replayed);
    assert_eq!(list(&server).await.len(), 1);
}

#[tokio::test]
async fn an_order_that_was_killed_halfway_is_taken_over_after_its_lease() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &["--work-time", "30s", "--lease", "1s"]).await;
    let mut cut = Box::pin(place(&server, "k"));
    tokio::select! {
        answer = &mut cut => panic!("{answer:?}"),
        () = until_claimed(folder.path(), 1) => {}
    }

    drop(cut);
    server.kill();
    let server = Server::start(folder.path(), &["--lease", "1s"]).await;
    let answer = eventually("the takeover", async || match place(&server, "k").await {
        Ok(answer) => Some(answer),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            None
        }
    })
    .await;

    assert_eq!(told(&answer, "idempotent-replayed"), "false");
    assert_eq!(told(&answer, "order-execution"), "2");
    assert_eq!(list(&server).await, [answer.into_inner()]);
}

#[tokio::test]
async fn at_sigterm_calls_are_answered_and_streams_are_ended() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = tempdir().unwrap();
        let mut server = Server::start(folder.path(), &["--work-time", "2s"]).await;
        let watched = place(&server, "watched").await.unwrap().into_inner();
        let mut watcher = clients(&server).streams;
        let watch = watcher.watch_order(WatchOrderRequest { id: watched.id });
        let mut stream = watch.await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        let mut in_flight = Box::pin(place(&server, "k"));
        tokio::select! {
            answer = &mut in_flight => panic!("{answer:?}"),
            () = until_claimed(folder.path(), 2) => {}
        }

        server.signal(signal);
        let (answer, ended) = tokio::join!(in_flight, stream.message());

        assert_eq!(told(&answer.unwrap(), "idempotent-replayed"), "false");
        assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
        assert!(server.ended().await.success(), "{signal}");
        assert!(!server.logs().contains("cut off"), "{}", server.logs());
    }
}

#[tokio::test]
async fn at_sigterm_an_order_whose_client_left_is_placed_too() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(folder.path(), &["--work-time", "2s"]).await;
    let mut left = Box::pin(place(&server, "k"));
    tokio::select! {
        answer = &mut left => panic!("{answer:?}"),
        () = until_claimed(folder.path(), 1) => {}
    }
    drop(left);

    server.signal(Signal::SIGTERM);
    assert!(server.ended().await.success());
    let server = Server::start(folder.path(), &[]).await;
    let answer = place(&server, "k").await.unwrap();

    assert_eq!(told(&answer, "idempotent-replayed"), "true");
}

#[tokio::test]
async fn the_kill_of_the_readme_ends_as_shown_when_the_line_is_sent_at_once() {
    let line_with = |part: &str| {
        let line = README.lines().find(|line| line.contains(part)).unwrap();
        let (_, arguments) = line.split_once(" -- ").unwrap();
        arguments.split(' ').collect::<Vec<_>>()
    };
    let serve = line_with("--work-time");
    let place = line_with("order-44");
    let shown = README.lines().find(|line| line.contains("execution=2"));
    let (_, shown) = shown.unwrap().split_once("… ").unwrap();
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &serve[1..]).await;
    let cut = server.spawn(&place);
    until_claimed(folder.path(), 1).await;

    server.kill();
    let cut = cut.wait_with_output().unwrap();
    let server = Server::start(folder.path(), &serve[1..]).await;
    let taken_over = stdout(&server.call(&place));

    assert!(!cut.status.success());
    let failure = String::from_utf8(cut.stderr).unwrap();
    assert!(failure.contains("UNAVAILABLE"), "{failure}");
    assert!(taken_over.trim_end().ends_with(shown), "{taken_over}");
    assert_eq!(list(&server).await.len(), 1);
}

#[tokio::test]
async fn a_call_without_time_does_not_touch_what_a_lost_execution_left() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &[]).await;
    let placed = place(&server, "k").await.unwrap().into_inner();
    server.kill();
    // As it is left by a kill between the order and its answer.
    change_records(
        folder.path(),
        "UPDATE steadfast_idempotency SET state = 0, format = NULL, response = NULL, lease_until = 0",
    )
    .await;
    let server = Server::start(folder.path(), &["--work-time", "3s"]).await;

    let line = ["place", "--sku", "tea", "--quantity", "2", "--key", "k"];
    let late = server.call(&[&line[..], &["--deadline", "2s"]].concat());
    let in_time = place(&server, "k").await.unwrap();

    let late = String::from_utf8(late.stderr).unwrap();
    assert!(late.contains("DEADLINE_EXCEEDED: this takes 3s"), "{late}");
    assert_eq!(told(&in_time, "order-execution"), "2");
    assert_eq!(in_time.into_inner(), placed);
    assert_eq!(list(&server).await, [placed]);
}

#[tokio::test]
async fn a_key_that_the_client_made_is_told_though_the_call_fails() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &["--lose-first", "3"]).await;
    let line = ["place", "--sku", "tea", "--quantity", "2"];

    let lost = server.call(&line);
    assert!(!lost.status.success(), "{lost:?}");
    let said = String::from_utf8(lost.stderr).unwrap();
    let key = said
        .lines()
        .next()
        .unwrap()
        .strip_prefix("key=")
        .expect(&said);
    let again = server.call(&[&line[..], &["--key", key, "--attempts", "4"]].concat());

    assert!(stdout(&again).ends_with(" replayed=true\n"), "{again:?}");
    let placed = stdout(&server.call(&["list", "--attempts", "4"]));
    assert_eq!(placed.lines().count(), 1, "{placed}");
}

#[tokio::test]
async fn no_key_is_logged_or_stored() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &["--lose-first", "1"]).await;
    let order = ["place", "--sku", "tea", "--quantity", "2"];
    let keys = ["--key", "key_secret", "--api-key", "sk_secret"];

    let placed = server.call(&[&order[..], &keys].concat());

    let logs = [placed.stderr.clone(), server.logs().into_bytes()].concat();
    assert!(stdout(&placed).contains("state=placed"));
    let mut written = vec![(PathBuf::from("the logs"), logs)];
    for file in fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            written.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    assert!(written.len() > 1, "the database was not found");
    for (place, bytes) in written {
        for key in ["key_secret", "sk_secret"] {
            let is_there = bytes.windows(key.len()).any(|part| part == key.as_bytes());
            assert!(!is_there, "{key} is in {}", place.display());
        }
    }
}

#[tokio::test]
async fn records_whose_time_is_over_are_removed() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &[]).await;
    place(&server, "k").await.unwrap();
    server.kill();
    change_records(
        folder.path(),
        "UPDATE steadfast_idempotency SET expires_at = 0",
    )
    .await;

    let _server = Server::start(folder.path(), &[]).await;

    until_claimed(folder.path(), 0).await;
}

async fn change_records(folder: &Path, statement: &'static str) {
    let url = format!("sqlite:{}", folder.join("orders.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let changed = sqlx::query(statement).execute(&mut connection).await;
    assert_eq!(changed.unwrap().rows_affected(), 1);
    connection.close().await.unwrap();
}

/// Waits until the store has so many records, which are there from the claim on, before the work begins.
async fn until_claimed(folder: &Path, operations: i64) {
    let url = format!("sqlite:{}", folder.join("orders.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    eventually("the claim", async || {
        let records: i64 = sqlx::query_scalar("SELECT count(*) FROM steadfast_idempotency")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (records == operations).then_some(())
    })
    .await;
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_crowd_at_two_processes_on_one_postgres_is_one_order() {
    let folder = tempdir().unwrap();
    let database = postgres::database().await.unwrap();
    let arguments = ["--store", database.url(), "--work-time", "100ms"];
    // Both make the schema at once.
    let (one, two) = tokio::join!(
        Server::start(folder.path(), &arguments),
        Server::start(folder.path(), &arguments),
    );

    let crowd = (0..20).map(|number| place(if number % 2 == 0 { &one } else { &two }, "k"));
    let answers = futures_util::future::join_all(crowd).await;

    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let executed = answers
        .iter()
        .filter(|answer| told(answer, "idempotent-replayed") == "false");
    assert_eq!(executed.count(), 1);
    let placed = list(&one).await;
    assert_eq!(placed.len(), 1);
    assert!(answers.iter().all(|answer| *answer.get_ref() == placed[0]));
}

#[tokio::test]
async fn faults_show_retries_at_work() {
    let folder = tempdir().unwrap();
    let faults = [
        "--store",
        "memory:",
        "--fail-first",
        "1",
        "--lose-first",
        "2",
    ];
    let server = Server::start(folder.path(), &faults).await;

    let output = server.call(&["place", "--sku", "tea", "--quantity", "5", "--key", "k"]);

    let logs = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        logs.contains(r#"retrying retry="orders" attempt=3"#),
        "{logs}"
    );
    let said = stdout(&output);
    assert!(said.ends_with(" execution=1 replayed=true\n"), "{said}");
}

#[tokio::test]
async fn the_transcript_of_the_readme_happens_as_shown() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path(), &["--store", "memory:"]).await;
    let blocks = README.split("```console\n").skip(1);
    let blocks: Vec<_> = blocks
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() > 5, "the transcript was not found");
    let mut id: Option<String> = None;

    for block in blocks {
        let (line, shown) = block.split_once('\n').unwrap();
        let arguments = line.strip_prefix("$ cargo run -q -p orders -- ").unwrap();
        let arguments = match &id {
            Some(id) => arguments.replace("or_…", id),
            None => arguments.to_owned(),
        };
        let output = server.call(&arguments.split(' ').collect::<Vec<_>>());
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();

        let mut rest = &*said;
        for piece in shown.split('…').map(str::trim_end) {
            let Some((_, after)) = rest.split_once(piece) else {
                panic!("{line}\nanswers\n{said}\nwithout {piece:?}");
            };
            rest = after;
        }
        id = id.or_else(|| {
            let (id, _) = said.strip_prefix("order=")?.split_once(' ')?;
            Some(id.to_owned())
        });
    }
}

#[test]
fn the_tables_of_flags_are_what_the_program_takes() {
    let folder = tempdir().unwrap();
    let help = |name: &str| {
        let output = command(folder.path())
            .args([name, "--help"])
            .output()
            .unwrap();
        stdout(&output)
    };
    let (serve, list) = (help("serve"), help("list"));
    let flags = |help: &str| {
        let lines = help.lines().map(str::trim_start);
        lines.filter(|line| line.starts_with("--")).count()
    };

    let rows: Vec<Vec<&str>> = README
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| {
            line.split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect()
        })
        .collect();

    assert_eq!(rows.len(), flags(&serve) + flags(&list));
    for row in rows {
        let (flag, variable, default) = (row[1], row[2], row[3]);
        let about = [&serve, &list]
            .iter()
            .find_map(|help| Some(help.split_once(&format!("{flag} <"))?.1))
            .expect(flag);
        let about = about.split("\n      --").next().unwrap();
        assert!(about.contains(&format!("[env: {variable}")), "{about}");
        assert!(about.contains(&format!("[default: {default}]")), "{about}");
    }
}
