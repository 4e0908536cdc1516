//! Installing what the tests need from Debian or its descendants.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

/// Runs a script that installs with apt-get, as root; an error says in one line why it did not.
pub(crate) fn install(what: &str, script: &str) -> Result<(), String> {
    if !succeeds("apt-get", &["--version"]) {
        return Err("not found".to_owned());
    }
    let mut command = if is_root() {
        Command::new("sh")
    } else if succeeds("sudo", &["-n", "true"]) {
        let mut command = Command::new("sudo");
        command.args(["-n", "sh"]);
        command
    } else {
        return Err("not found, and only root may install it".to_owned());
    };

    eprintln!("==> {what}: not found; installing it with apt-get");
    match command.args(["-c", script]).stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get failed, {status}")),
        Err(error) => Err(format!("apt-get could not be run: {error}")),
    }
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// Whether the program runs and succeeds; what it says is not shown.
pub(crate) fn succeeds(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
