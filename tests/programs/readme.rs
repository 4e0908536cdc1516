//! What the README of the example shows, done and compared.

use tempfile::tempdir;

use crate::program::{Program, command, paste};

const README: &str = include_str!("../../examples/payments/README.md");

/// A command of the transcript, and what it is shown to answer.
struct Step {
    command: &'static str,
    shown: Vec<&'static str>,
}

fn transcript() -> Vec<Step> {
    let blocks = README.split("```console\n").skip(1);
    blocks
        .map(|block| {
            let mut lines = block.split("```").next().unwrap().lines();
            Step {
                command: lines.next().unwrap().strip_prefix("$ ").unwrap(),
                shown: lines.collect(),
            }
        })
        .collect()
}

#[tokio::test]
async fn the_transcript_happens_as_shown() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let steps = transcript();
    assert!(steps.len() > 5, "the transcript was not found");

    for step in steps {
        let line = step
            .command
            .replace("http://127.0.0.1:3000", program.api())
            .replace("http://127.0.0.1:3001", program.provider_url());
        let output = paste(&line);
        let answer = String::from_utf8(output.stdout).unwrap().replace('\r', "");

        let mut rest = &*answer;
        for piece in step.shown.iter().flat_map(|line| line.split('…')) {
            let Some((_, after)) = rest.split_once(piece) else {
                panic!("{line}\nanswers\n{answer}\nwithout {piece:?}");
            };
            rest = after;
        }
    }
}

#[test]
fn the_table_of_flags_is_what_the_program_takes() {
    let folder = tempdir().unwrap();
    let help = command(folder.path())
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let taken = help
        .lines()
        .filter(|line| line.trim_start().starts_with("--"))
        .count();

    let rows: Vec<Vec<&str>> = README
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| {
            line.split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect()
        })
        .collect();

    assert_eq!(rows.len(), taken, "{help}");
    for row in rows {
        let (flag, variable, default) = (row[1], row[2], row[3]);
        let (_, about) = help.split_once(&format!("{flag} <")).expect(flag);
        let about = about.split("\n      --").next().unwrap();
        assert!(
            about.contains(&format!("[env: {variable}")),
            "{flag}: {about}"
        );
        if default.is_empty() {
            assert!(!about.contains("[default:"), "{flag}: {about}");
        } else {
            assert!(
                about.contains(&format!("[default: {default}]")),
                "{flag}: {about}"
            );
        }
    }
}
