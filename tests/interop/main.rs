//! Our layers before software that others wrote: gRPC's C core, curl, Python's requests, Node's fetch, and nginx.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
#[path = "../programs/executable.rs"]
mod executable;
mod front;
mod gateways;
mod grpc_clients;
mod grpc_servers;
mod http_clients;
mod http_servers;
mod nginx;
#[expect(dead_code, reason = "tests/programs uses the rest")]
#[path = "../programs/orders_program.rs"]
mod orders_program;
mod peer;
#[expect(dead_code, reason = "tests/programs uses the rest")]
#[path = "../programs/program.rs"]
mod program;
#[expect(dead_code, reason = "tests/programs uses the rest")]
#[path = "../programs/provider.rs"]
mod provider;
mod tools;
mod upstream;
