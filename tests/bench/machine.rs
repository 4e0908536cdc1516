//! What the figures were measured on.

use std::{env, fs, process::Command, thread};

/// The versions that the lock file names are those that were built.
const LOCK: &str = include_str!("../../Cargo.lock");

/// What carries a request over HTTP and to a database.
const CRATES: [&str; 5] = ["tokio", "hyper", "axum", "tower", "sqlx"];

pub(crate) fn describe() -> String {
    let cores = thread::available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string());
    let processor = value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let crates: Vec<String> = CRATES
        .iter()
        .map(|name| format!("{name} {}", version(name).unwrap_or("?")))
        .collect();
    let build = if cfg!(debug_assertions) {
        "NOT OPTIMISED: the figures mean nothing"
    } else {
        "release"
    };
    format!(
        "machine: {cores} cores, {processor}, {} {}\nload average at the start: {}\nversions: {}, steadfast {}, {}\nbuild: {build}\n",
        env::consts::OS,
        env::consts::ARCH,
        load(),
        compiler(),
        env!("CARGO_PKG_VERSION"),
        crates.join(", "),
    )
}

/// Of the last one, five and fifteen minutes.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let figures: Vec<&str> = load.split_whitespace().take(3).collect();
    if figures.is_empty() {
        "unknown".to_owned()
    } else {
        figures.join(" ")
    }
}

fn value_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let (_, value) = line.split_once(':')?;
    Some(value.trim().to_owned())
}

fn compiler() -> String {
    let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    match Command::new(program).arg("--version").output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) | Err(_) => "rustc unknown".to_owned(),
    }
}

fn version(name: &str) -> Option<&'static str> {
    let entry = format!("\nname = \"{name}\"\nversion = \"");
    let (_, rest) = LOCK.split_once(&entry)?;
    rest.split('"').next()
}
