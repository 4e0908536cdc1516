use std::{io, process, thread};

use crate::failure::Failure;

/// Ends the process, as a kill would, when stdin closes: the parent holds the other end, so none of its deaths leaves this process
/// behind.
///
/// A thread, because tokio waits at its end for a read of stdin that is under way.
pub(crate) fn end_with_stdin() -> Result<(), Failure> {
    thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(|| {
            // What comes means nothing, and an error is an end too.
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            tracing::warn!("stdin was closed: ending at once");
            process::exit(1)
        })
        .map(drop)
        .map_err(|error| Failure::because("failed to watch stdin", error))
}
