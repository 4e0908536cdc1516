//! Programs that nobody here wrote, for tests that talk to them: HTTP clients and a server.

use crate::apt::{self, succeeds};

/// A program, and how to get it.
struct Peer {
    name: &'static str,
    /// What the tests look for, in this order.
    commands: &'static [&'static str],
    /// Succeeds if the program will do.
    probe: &'static [&'static str],
    /// Why it might not.
    needs: &'static str,
    install: &'static str,
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "curl",
        commands: &["curl"],
        // The youngest of the flags that the tests use: 7.76.
        probe: &["--fail-with-body", "--version"],
        needs: "7.76 or later",
        install: include_str!("install-curl.sh"),
    },
    Peer {
        name: "nginx",
        // Debian keeps it from the PATH of those who are not root.
        commands: &["nginx", "/usr/sbin/nginx"],
        probe: &["-e", "stderr", "-v"],
        needs: "1.19.5 or later",
        install: include_str!("install-nginx.sh"),
    },
    Peer {
        name: "node",
        commands: &["node", "nodejs"],
        probe: &[
            "--eval",
            "process.exit(typeof fetch === 'function' ? 0 : 1)",
        ],
        needs: "version 18 or later, which has `fetch`",
        install: include_str!("install-nodejs.sh"),
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
fn ensure(peer: &Peer) -> Result<&'static str, String> {
    if let Some(command) = find(peer) {
        return Ok(command);
    }
    let advice = format!("install it ({}) and put it on PATH", peer.needs);
    apt::install(peer.name, peer.install).map_err(|reason| format!("{reason}; {advice}"))?;
    find(peer).ok_or_else(|| format!("installed, but it is missing or will not do; {advice}"))
}

fn find(peer: &Peer) -> Option<&'static str> {
    let mut commands = peer.commands.iter().copied();
    commands.find(|command| succeeds(command, peer.probe))
}

#[cfg(test)]
mod tests {
    use super::{Peer, find};

    #[test]
    fn a_program_that_will_not_do_is_passed_over() {
        let peer = Peer {
            name: "peer",
            commands: &["no-such-program", "false", "true"],
            probe: &[],
            needs: "",
            install: "",
        };

        assert_eq!(find(&peer), Some("true"));
    }
}
