//! promtool, which judges rules and queries as Prometheus would.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use serde_json::{Value, json};
use tempfile::tempdir;

/// Where `cargo xtask test` puts one if the machine has none.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/programs/promtool");

/// What it said, if it found fault.
pub(crate) type Verdict = Result<(), String>;

/// Whether Prometheus would load the rules of a file.
pub(crate) fn check(rules: &Path) -> Verdict {
    run(&["check", "rules", "--lint-fatal"], rules)
}

/// Plays the tests of a file.
pub(crate) fn play(tests: &Path) -> Verdict {
    run(&["test", "rules"], tests)
}

/// Asks for each of the expressions five minutes after series began, which are scraped every ten seconds; each is to give the samples.
pub(crate) fn ask(series: &[Value], questions: &[(String, Value)]) -> Verdict {
    let questions = questions.iter().map(|(expression, samples)| {
        json!({"expr": expression, "eval_time": "5m", "exp_samples": samples})
    });
    let test = json!({
        "interval": "10s",
        "input_series": series,
        "promql_expr_test": questions.collect::<Vec<_>>(),
    });
    let folder = tempdir().unwrap();
    // JSON is YAML.
    let path = folder.path().join("questions.yml");
    let tests = json!({"evaluation_interval": "10s", "tests": [test]});
    fs::write(&path, tests.to_string()).unwrap();
    play(&path)
}

fn run(arguments: &[&str], file: &Path) -> Verdict {
    static PROMTOOL: OnceLock<&str> = OnceLock::new();
    let promtool = PROMTOOL.get_or_init(|| {
        let will_do = |command: &&str| {
            let mut probe = Command::new(command);
            probe.args(["check", "rules", "--lint-fatal", "/dev/null"]);
            let quiet = probe.stdout(Stdio::null()).stderr(Stdio::null());
            quiet.status().is_ok_and(|status| status.success())
        };
        let known = ["promtool", OWN].into_iter().find(will_do);
        known.expect("there is no promtool that will do: run `cargo xtask test`, which provides it")
    });
    let said = Command::new(promtool)
        .args(arguments)
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if said.status.success() {
        return Ok(());
    }
    let words = [said.stdout, said.stderr].concat();
    Err(String::from_utf8(words).unwrap())
}
