//! Flags, environment variables, and what the program prints.

use std::{fs, net::TcpListener, process::Output};

use serde_json::json;
use tempfile::tempdir;

use crate::{
    client::{Client, of_amount},
    program::{Program, command, paste},
    provider::Provider,
};

const FREE_PORTS: [(&str, &str); 2] = [
    ("PAYMENTS_LISTEN", "127.0.0.1:0"),
    ("PAYMENTS_PROVIDER_LISTEN", "127.0.0.1:0"),
];

/// Runs the program to its end, which comes at once.
fn run(arguments: &[&str]) -> Output {
    let folder = tempdir().unwrap();
    command(folder.path()).args(arguments).output().unwrap()
}

#[tokio::test]
async fn without_arguments_it_serves_from_a_new_file_and_says_where() {
    let folder = tempdir().unwrap();
    let program = Program::run(folder.path(), &[], &FREE_PORTS).await;

    let lines = program.lines();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[0],
        format!(
            "listening api={} provider={}",
            program.api(),
            program.provider_url()
        )
    );
    for address in [program.api(), program.provider_url()] {
        let port = address.strip_prefix("http://127.0.0.1:").unwrap();
        assert_ne!(port.parse::<u16>().unwrap(), 0);
    }
    assert!(folder.path().join("payments.db").is_file());
    assert_eq!(
        Client::new(program.api())
            .charge("k", &of_amount(1))
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn the_printed_lines_run_as_they_stand() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let [_, charge, list, ledger] = program.lines() else {
        panic!("{:?}", program.lines());
    };
    for line in [charge, list, ledger] {
        assert!(line.starts_with("curl "), "{line}");
    }
    let text = |line: &str| String::from_utf8(paste(line).stdout).unwrap();

    let first = text(charge);
    let again = text(charge);
    let listed = text(list);
    let charged = text(ledger);

    let id = first
        .split('"')
        .find(|word| word.starts_with("ch_"))
        .unwrap();
    assert!(first.starts_with("HTTP/1.1 201"), "{first}");
    assert!(first.contains("idempotent-replayed: false"), "{first}");
    assert!(again.contains("idempotent-replayed: true"), "{again}");
    assert!(again.contains(id), "{again}");
    assert!(
        listed.starts_with("HTTP/1.1 200") && listed.contains(id),
        "{listed}"
    );
    assert!(charged.contains(r#""calls":1"#), "{charged}");
}

#[tokio::test]
async fn the_printed_lines_of_the_provider_run_as_they_stand() {
    let folder = tempdir().unwrap();
    let program = Program::provider(folder.path()).await;
    let lines = program.lines();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[0],
        format!("listening provider={}", program.provider_url())
    );
    let text = |line: &str| String::from_utf8(paste(line).stdout).unwrap();

    let charged = text(&lines[1]);
    let ledger = text(&lines[2]);
    let faults = text(&lines[3]);

    assert!(charged.starts_with("HTTP/1.1 201"), "{charged}");
    assert!(ledger.contains(r#""calls":1"#), "{ledger}");
    assert!(faults.contains(r#""mode":"down""#), "{faults}");
}

#[tokio::test]
async fn the_environment_configures_what_flags_do_not() {
    let folder = tempdir().unwrap();
    let provider_program = Program::run(folder.path(), &["provider"], &FREE_PORTS).await;
    let provider = Provider::new(provider_program.provider_url());
    let environment = [
        ("PAYMENTS_LISTEN", "127.0.0.1:0"),
        ("PAYMENTS_PROVIDER_LISTEN", "not used"),
        ("PAYMENTS_PROVIDER_URL", provider_program.provider_url()),
        ("PAYMENTS_PROVIDER_ATTEMPTS", "2"),
        ("PAYMENTS_PROVIDER_TIMEOUT", "250ms"),
        ("PAYMENTS_LEASE", "90s"),
        ("PAYMENTS_STORE", "sqlite:from-environment.db"),
    ];
    let arguments = ["serve", "--store", "sqlite:from-flag.db"];

    let program = Program::run(folder.path(), &arguments, &environment).await;

    assert_eq!(program.provider_url(), provider_program.provider_url());
    assert!(folder.path().join("from-flag.db").is_file());
    assert!(!folder.path().join("from-environment.db").exists());
    let slow = json!({"mode": "slow", "latency_ms": 30_000, "count": 2});
    provider.faults(&slow).await;
    let late = Client::new(program.api()).charge("k", &of_amount(1)).await;
    assert_eq!(late.status, 503, "the provider's time is up after 250 ms");
    assert_eq!(provider.ledger().await.calls, 2);
}

#[tokio::test]
async fn the_memory_store_leaves_no_file() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;

    let client = Client::new(program.api());
    client.charge("k", &of_amount(1)).await;
    let again = client.charge("k", &of_amount(1)).await;

    assert_eq!(again.replayed(), Some(true));
    let files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    assert!(files.is_empty(), "{files:?}");
}

#[test]
fn what_it_does_not_know_it_refuses() {
    for arguments in [
        &["serve", "--unknown"][..],
        &["frobnicate"],
        &["--listen", "127.0.0.1:0"],
        &["provider", "--store", "memory:"],
        &["serve", "--lease", "5"],
        &["serve", "--lease", "0s"],
        &["serve", "--provider-attempts", "0"],
        &["serve", "--provider-timeout", "soon"],
        &["serve", "--breaker-failures", "0"],
        &["serve", "--breaker-failures", "-1"],
        &["serve", "--breaker-failures", "4294967296"],
        &["serve", "--breaker-open", "0s"],
        &["serve", "--breaker-open", "30"],
        &["serve", "--breaker-successes", "0"],
        &["serve", "--breaker-successes", "some"],
        &["provider", "--breaker-failures", "5"],
        &["demo", "--breaker-failures", "5"],
        &["serve", "--log-format", "xml"],
        &["provider", "--log-format", "xml"],
        &["demo", "--log-format", ""],
        &["serve", "--store", "redis://localhost"],
        &["serve", "--provider-url", "https://example.org"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_number_that_cannot_work_is_named_wherever_it_comes_from() {
    for (variable, value, flag) in [
        ("PAYMENTS_BREAKER_FAILURES", "0", "--breaker-failures"),
        ("PAYMENTS_BREAKER_OPEN", "0s", "--breaker-open"),
        ("PAYMENTS_BREAKER_SUCCESSES", "few", "--breaker-successes"),
    ] {
        let folder = tempdir().unwrap();
        let from_environment = command(folder.path())
            .arg("serve")
            .env(variable, value)
            .output()
            .unwrap();
        for output in [from_environment, run(&["serve", flag, value])] {
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{flag}: {said}");
            assert!(
                said.contains(flag) && said.contains(value),
                "{flag}: {said}"
            );
        }
    }
}

/// A password in a value that cannot be read, or need not be.
#[test]
fn what_is_wrong_with_a_url_is_said_without_its_password() {
    for (command_name, variable, flag, value) in [
        (
            "serve",
            "PAYMENTS_STORE",
            "--store",
            "postgre://u:hunter2@h/d",
        ),
        ("serve", "PAYMENTS_STORE", "--store", "hunter2"),
        (
            "demo",
            "PAYMENTS_POSTGRES_URL",
            "--postgres-url",
            "mysql://u:hunter2@h/d",
        ),
        (
            "serve",
            "PAYMENTS_PROVIDER_URL",
            "--provider-url",
            "http://u:hunter2@h",
        ),
        (
            "serve",
            "PAYMENTS_PROVIDER_URL",
            "--provider-url",
            "http://u:hunter2@h:port",
        ),
    ] {
        let folder = tempdir().unwrap();
        let from_environment = |arguments: &[&str]| {
            let mut program = command(folder.path());
            program.args(arguments).env(variable, value);
            program.output().unwrap()
        };
        let default = (command_name == "serve").then(|| from_environment(&[]));
        let refused = [
            from_environment(&[command_name]),
            run(&[command_name, flag, value]),
            run(&[command_name, &format!("{flag}={value}")]),
        ];
        for output in refused.into_iter().chain(default) {
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{flag}: {said}");
            assert!(said.contains(flag), "{flag}: {said}");
            assert!(!said.contains("hunter2"), "{flag}: {said}");
        }
        let help = from_environment(&[command_name, "--help"]);
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains(variable), "{help}");
        assert!(!help.contains("hunter2"), "{help}");
    }
}

#[test]
fn what_it_cannot_do_it_says_and_fails() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (arguments, complaint) in [
        (&["serve", "--listen", &address][..], &*address),
        (
            &["serve", "--listen", free, "--provider-listen", &address],
            &address,
        ),
        (&["provider", "--listen", &address], &address),
        (
            &[
                "serve",
                "--listen",
                free,
                "--provider-listen",
                free,
                "--store",
                "sqlite:no/such/folder.db",
            ],
            "no/such/folder.db",
        ),
        (
            &[
                "serve",
                "--listen",
                free,
                "--provider-listen",
                free,
                "--store",
                "memory:",
                "--lease",
                "1ms",
            ],
            "lease",
        ),
        (
            &[
                "serve",
                "--listen",
                free,
                "--provider-listen",
                free,
                "--store",
                "memory:",
                "--breaker-open",
                "400days",
            ],
            "open_for is longer than 365 days",
        ),
        (
            &[
                "serve",
                "--listen",
                free,
                "--provider-listen",
                free,
                "--store",
                "postgres://u:hunter2@127.0.0.1:1/d",
            ],
            "Postgres",
        ),
    ] {
        let output = run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(said.contains(complaint), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn no_log_and_no_file_and_no_metric_holds_a_key_or_a_credential() {
    for format in ["text", "json"] {
        let folder = tempdir().unwrap();
        let environment = [FREE_PORTS[0], FREE_PORTS[1], ("RUST_LOG", "trace")];
        let arguments = ["serve", "--log-format", format];
        let program = Program::run(folder.path(), &arguments, &environment).await;
        let client = Client::new(program.api()).with_account("sk_very_secret");

        client.charge("key-of-a-client", &of_amount(1)).await;
        client.charge("key-of-a-client", &of_amount(2)).await;
        client.get("/v1/charges?card=4242424242424242").await;
        let basic = client.bare("GET", "/v1/charges");
        let basic = basic.basic_auth("sk_other_secret", Some("hunter2"));
        client.send(basic).await.unwrap();

        let mut written = program.logs().into_bytes();
        assert!(!written.is_empty());
        for file in ["payments.db", "payments.db-wal"] {
            written.extend(fs::read(folder.path().join(file)).unwrap());
        }
        written.extend(client.get("/metrics").await.body);
        for secret in [
            "key-of-a-client",
            "sk_very_secret",
            "sk_other_secret",
            // The same in Base64, as Basic sends it.
            "c2tfb3RoZXJfc2VjcmV0",
            "hunter2",
            "4242424242424242",
        ] {
            let holds = written
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!holds, "{secret} was written as {format}");
        }
        assert!(
            written.windows(3).any(|part| part == b"ch_"),
            "nothing was kept"
        );
    }
}
