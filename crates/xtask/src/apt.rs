//! What the tests need from Debian or its descendants.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

const UNPACK: &str = include_str!("unpack-program.sh");

/// Runs a script that installs with apt-get, as root; an error says in one line why it did not.
pub(crate) fn install(what: &str, script: &str, arguments: &[&str]) -> Result<(), String> {
    if !succeeds("apt-get", &["--version"]) {
        return Err("not found".to_owned());
    }
    let shell = if is_root() {
        Command::new("sh")
    } else if succeeds("sudo", &["-n", "true"]) {
        let mut command = Command::new("sudo");
        command.args(["-n", "sh"]);
        command
    } else {
        return Err("not found, and only root may install it".to_owned());
    };

    eprintln!("==> {what}: not found; installing it with apt-get");
    run(shell, script, arguments)
}

/// Takes one program out of the first of the packages that there is into the folder, and installs nothing; an error says in one line why it did not.
pub(crate) fn unpack(packages: &[&str], program: &str, folder: &str) -> Result<(), String> {
    if !succeeds("apt-get", &["--version"]) || !succeeds("dpkg-deb", &["--version"]) {
        return Err("not found".to_owned());
    }
    eprintln!(
        "==> {program}: not found; taking it out of the package {} into {folder}, without installing anything",
        packages.join(" or ")
    );
    run(
        Command::new("sh"),
        UNPACK,
        &[&[program, folder], packages].concat(),
    )
}

fn run(mut shell: Command, script: &str, arguments: &[&str]) -> Result<(), String> {
    // What stands after the script is its name, as messages have it, and then its arguments.
    shell.args(["-c", script, "xtask"]).args(arguments);
    match shell.stdin(Stdio::null()).status() {
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

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        os::unix::fs::PermissionsExt,
        path::{Path, PathBuf},
        process::{Child, Command, Stdio},
    };

    use super::UNPACK;

    /// A machine whose apt-get is a script.
    struct Machine {
        root: tempfile::TempDir,
    }

    impl Machine {
        fn with_apt_get(script: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            let machine = Self { root };
            machine.lay("apt-get", script);
            // It knows one package.
            machine.lay("apt-cache", "for last; do :; done; [ \"$last\" = package ]");
            // The package, as this machine's are: the file that it places, with a word as its content.
            machine.lay(
                "dpkg-deb",
                "mkdir -p $3/usr/sbin; cat $2 >$3/usr/sbin/server",
            );
            machine
        }

        fn lay(&self, program: &str, script: &str) {
            let path = self.path("bin").join(program);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn unpack(&self) -> Child {
            let path = env::var("PATH").unwrap();
            Command::new("sh")
                .args(["-c", UNPACK, "xtask", "usr/sbin/server"])
                .arg(self.path("programs"))
                .args(["other", "package", "another"])
                .env("PATH", format!("{}:{path}", self.path("bin").display()))
                .env("MACHINE", self.root.path())
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        }

        fn programs(&self) -> Vec<String> {
            names(&self.path("programs"))
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        entries.map(|entry| name(entry.unwrap())).collect()
    }

    #[test]
    fn the_program_of_a_package_is_all_that_is_taken_from_it() {
        let machine = Machine::with_apt_get(
            "for last; do :; done; [ \"$last\" = update ] || echo it >\"$last\"_1.0_all.deb",
        );

        assert!(machine.unpack().wait().unwrap().success());

        assert_eq!(machine.programs(), ["server"]);
        let program = fs::read_to_string(machine.path("programs/server")).unwrap();
        assert_eq!(program, "it\n");
    }

    #[test]
    fn a_package_that_cannot_be_had_leaves_nothing_behind() {
        let machine = Machine::with_apt_get("exit 100");

        assert!(!machine.unpack().wait().unwrap().success());

        assert_eq!(machine.programs(), [""; 0]);
    }

    #[test]
    fn who_is_interrupted_leaves_nothing_behind() {
        for signal in ["-HUP", "-INT", "-TERM"] {
            // As from a terminal, the signal reaches all of them; here apt-get sends it to its parent, and ends.
            let machine = Machine::with_apt_get(&format!(
                "touch $MACHINE/begun; kill {signal} $PPID; exit 1"
            ));

            machine.unpack().wait().unwrap();

            assert!(machine.path("begun").exists(), "{signal}");
            assert_eq!(machine.programs(), [""; 0], "{signal}");
        }
    }
}
