//! Generates the messages, the client and the server from the .proto file.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["orders/v1/orders.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // The program makes its channel itself.
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
