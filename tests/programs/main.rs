//! Runs the payments program as its users do and holds it to what its README says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod breaker;
mod client;
mod command_line;
mod connections;
mod crashes;
mod demo;
mod executable;
mod faults;
mod forgotten;
mod gateway;
mod in_process;
mod load;
mod logs;
mod metrics;
mod observability;
mod orders;
mod orders_program;
mod postgres;
mod processes;
mod program;
mod provider;
mod provider_answers;
mod proxy;
mod readme;
mod records;
mod scrape;
