//! Programs that nobody here wrote, for tests that use them: HTTP clients, a server, and the judge of rules for Prometheus.

use crate::apt::{self, succeeds};

/// A program, and how to get it.
struct Peer {
    name: &'static str,
    /// What the tests look for, in this order, and then in [`OWN`].
    commands: &'static [&'static str],
    /// Succeeds if the program will do.
    probe: &'static [&'static str],
    /// Why it might not.
    needs: &'static str,
    source: Source,
}

/// Where Debian and its descendants have a program.
enum Source {
    /// Only the installed package has all that the program needs.
    Installed {
        package: &'static str,
        since: &'static str,
    },
    /// It runs by itself: it is taken out of the package into [`OWN`], and the package, which would start a service, is not installed.
    Unpacked {
        /// The first of them that there is.
        packages: &'static [&'static str],
        program: &'static str,
    },
}

/// Where the tests look too. It stays there wherever cargo builds, as the Python that is made here.
const OWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/programs");

const INSTALL: &str = include_str!("install-package.sh");

const PEERS: [Peer; 4] = [
    Peer {
        name: "curl",
        commands: &["curl"],
        // The youngest of the flags that the tests use: 7.76.
        probe: &["--fail-with-body", "--version"],
        needs: "7.76 or later",
        source: Source::Installed {
            package: "curl",
            since: "7.76",
        },
    },
    Peer {
        name: "nginx",
        // Debian keeps it from the PATH of those who are not root.
        commands: &["nginx", "/usr/sbin/nginx"],
        probe: &["-e", "stderr", "-v"],
        needs: "1.19.5 or later",
        source: Source::Unpacked {
            packages: &["nginx"],
            program: "usr/sbin/nginx",
        },
    },
    Peer {
        name: "node",
        commands: &["node", "nodejs"],
        probe: &[
            "--eval",
            "process.exit(typeof fetch === 'function' ? 0 : 1)",
        ],
        needs: "version 18 or later, which has `fetch`",
        source: Source::Installed {
            package: "nodejs",
            since: "18",
        },
    },
    Peer {
        name: "promtool",
        commands: &["promtool"],
        probe: &["check", "rules", "--lint-fatal", "/dev/null"],
        needs: "that of Prometheus 2.33 or later",
        source: Source::Unpacked {
            // Since Debian 13 it has one of its own.
            packages: &["promtool", "prometheus"],
            program: "usr/bin/promtool",
        },
    },
];

/// Finds them all, or installs them, and says which, or what to do; true if they are there.
pub(crate) fn provide() -> bool {
    // All are tried: who must install one by hand sees at once which others there are.
    let missing = PEERS.iter().filter(|peer| !provide_one(peer)).count();
    missing == 0
}

fn provide_one(peer: &Peer) -> bool {
    let name = peer.name;
    match ensure(peer) {
        Ok(command) => {
            eprintln!("==> {name}: {command}");
            true
        }
        Err(reason) => {
            eprintln!("==> {name}: {reason}");
            false
        }
    }
}

/// An error says in one line what to do.
fn ensure(peer: &Peer) -> Result<String, String> {
    if let Some(command) = find(peer) {
        return Ok(command);
    }
    let advice = format!("install it ({}) and put it on PATH", peer.needs);
    match peer.source {
        Source::Installed { package, since } => apt::install(peer.name, INSTALL, &[package, since]),
        Source::Unpacked { packages, program } => apt::unpack(packages, program, OWN),
    }
    .map_err(|reason| format!("{reason}; {advice}"))?;
    find(peer).ok_or_else(|| format!("the distribution's is missing or will not do; {advice}"))
}

fn find(peer: &Peer) -> Option<String> {
    let known = peer.commands.iter().map(|&command| command.to_owned());
    known
        .chain([format!("{OWN}/{}", peer.name)])
        .find(|command| succeeds(command, peer.probe))
}

#[cfg(test)]
mod tests {
    use super::{Peer, Source, find};

    #[test]
    fn a_program_that_will_not_do_is_passed_over() {
        let peer = Peer {
            name: "peer",
            commands: &["no-such-program", "false", "true"],
            probe: &[],
            needs: "",
            source: Source::Installed {
                package: "",
                since: "",
            },
        };

        assert_eq!(find(&peer).as_deref(), Some("true"));
    }
}
