//! The command line and the environment.

use std::{str::FromStr, time::Duration};

use clap::{Args, Parser, value_parser};

use crate::{intake, origin::Origin};

/// A reverse proxy that retries what may be retried, and leaves sick upstreams alone.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Config {
    /// Where clients are served; port 0 takes a free one
    #[arg(long, env = "GATEWAY_LISTEN", value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:8080")]
    pub listen: String,

    /// Where operators are served; port 0 takes a free one
    #[arg(long, env = "GATEWAY_ADMIN_LISTEN", value_name = "ADDRESS")]
    #[arg(default_value = "127.0.0.1:8081")]
    pub admin_listen: String,

    /// A path and who serves it: /orders=http://127.0.0.1:4001,http://127.0.0.1:4002. Given once for each route; in the environment,
    /// routes are separated by spaces
    #[arg(
        long = "route",
        env = "GATEWAY_ROUTES",
        value_name = "PREFIX=URL[,URL]"
    )]
    #[arg(required = true, value_delimiter = ' ')]
    pub routes: Vec<Route>,

    /// Upstreams are spoken to in HTTP/2, without asking, as gRPC needs
    #[arg(long, env = "GATEWAY_UPSTREAM_HTTP2")]
    pub upstream_http2: bool,

    /// The upstreams of this route do a request with an Idempotency-Key once, however often it comes: so it may be sent again. Given
    /// once for each such route; in the environment, separated by spaces
    #[arg(
        long,
        env = "GATEWAY_TRUST_IDEMPOTENCY_KEY",
        value_name = "PREFIX",
        value_parser = prefix,
        value_delimiter = ' '
    )]
    pub trust_idempotency_key: Vec<String>,

    /// What requests may cost.
    #[command(flatten)]
    pub limits: Limits,
}

impl Config {
    /// Reads the arguments of the process, and ends it if they mean nothing.
    #[must_use]
    pub fn from_arguments() -> Self {
        Self::parse()
    }
}

/// How large, how often and for how long.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// How long a request may take to the head of its response, retries included
    #[arg(long, env = "GATEWAY_DEADLINE", value_name = "DURATION")]
    #[arg(default_value = "15s", value_parser = positive_duration)]
    pub deadline: Duration,

    /// How long one attempt may take of that; half of it may be spent on waiting for the client's body
    #[arg(long, env = "GATEWAY_ATTEMPT_TIMEOUT", value_name = "DURATION")]
    #[arg(default_value = "5s", value_parser = positive_duration)]
    pub attempt_timeout: Duration,

    /// How long a connection to an upstream may take
    #[arg(long, env = "GATEWAY_CONNECT_TIMEOUT", value_name = "DURATION")]
    #[arg(default_value = "1s", value_parser = positive_duration)]
    pub connect_timeout: Duration,

    /// How long an upstream may pause in the body of a response, and a client in reading it
    #[arg(long, env = "GATEWAY_PAUSE_TIMEOUT", value_name = "DURATION")]
    #[arg(default_value = "60s", value_parser = positive_duration)]
    pub pause_timeout: Duration,

    /// How long a client may take for the head of a request, and keep a connection without one
    #[arg(long, env = "GATEWAY_IDLE_TIMEOUT", value_name = "DURATION")]
    #[arg(default_value = "15s", value_parser = positive_duration)]
    pub idle_timeout: Duration,

    /// The largest body of a request, in bytes
    #[arg(long, env = "GATEWAY_MAX_BODY", value_name = "BYTES")]
    #[arg(default_value = "10485760")]
    pub max_body: usize,

    /// The largest body of a request that is kept to be sent again, in bytes
    #[arg(long, env = "GATEWAY_REPLAY_LIMIT", value_name = "BYTES")]
    #[arg(default_value = "65536")]
    pub replay_limit: usize,

    /// How often a request is sent at most, the first attempt counted; 1 disables retries
    #[arg(long, env = "GATEWAY_ATTEMPTS", value_name = "NUMBER")]
    #[arg(default_value = "3", value_parser = value_parser!(u32).range(1..))]
    pub attempts: u32,

    /// After how many failures in a row an upstream is left alone
    #[arg(long, env = "GATEWAY_BREAKER_FAILURES", value_name = "NUMBER")]
    #[arg(default_value = "5", value_parser = value_parser!(u32).range(1..))]
    pub breaker_failures: u32,

    /// How long it is left alone before a request probes it; chance adds up to a tenth
    #[arg(long, env = "GATEWAY_BREAKER_OPEN", value_name = "DURATION")]
    #[arg(default_value = "30s", value_parser = positive_duration)]
    pub breaker_open: Duration,
}

/// A prefix of paths, and who serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whole segments, without a slash at the end: empty for all paths.
    pub prefix: String,
    /// Interchangeable servers; one at least.
    pub upstreams: Vec<Origin>,
}

impl Route {
    /// The prefix as people write it.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.prefix.is_empty() {
            "/"
        } else {
            &self.prefix
        }
    }

    /// Whether this path is one of the route's. A prefix ends where a segment does.
    pub(crate) fn holds(&self, path: &str) -> bool {
        path.strip_prefix(&*self.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, upstreams) = text
            .split_once('=')
            .ok_or("expected /prefix=http://host:port")?;
        Ok(Self {
            prefix: prefix(path)?,
            upstreams: upstreams
                .split(',')
                .map(str::parse)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Reads a prefix, in which nothing can be read in two ways.
fn prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    let is_path = text.starts_with('/') && !text.contains(['?', '#']);
    if !is_path || intake::leaves_its_place(text) || intake::plain(prefix) != prefix {
        return Err(format!("{text:?} is not a plain path"));
    }
    Ok(prefix.to_owned())
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("it must be longer than zero".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Config::command().debug_assert();
    }

    #[test]
    fn the_readme_has_a_row_for_each_flag() {
        let readme = include_str!("../README.md");
        let rows = readme.lines().filter(|line| line.starts_with("| `--"));
        let command = Config::command();
        let flags = command.get_arguments();

        let expected: Vec<String> = flags
            .map(|flag| {
                let name = flag.get_long().unwrap();
                let variable = flag.get_env().unwrap().to_str().unwrap();
                let default = match flag.get_default_values() {
                    [default] => format!("`{}`", default.to_str().unwrap()),
                    _ => String::new(),
                };
                format!("| `--{name}` | `{variable}` | {default} | ").replace("|  |", "| |")
            })
            .collect();

        let rows: Vec<&str> = rows.collect();
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(&expected) {
            assert!(row.starts_with(expected), "{row}\n{expected}");
        }
    }

    #[test]
    fn a_route_is_a_prefix_and_its_upstreams() {
        let route: Route = "/a/b/=http://one:1,http://two".parse().unwrap();

        assert_eq!(route.prefix, "/a/b");
        let authorities: Vec<_> = route
            .upstreams
            .iter()
            .map(|it| it.authority.as_str())
            .collect();
        assert_eq!(authorities, ["one:1", "two"]);
        assert_eq!("/=http://one".parse::<Route>().unwrap().prefix, "");
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for text in [
            "",
            "/a",
            "a=http://h",
            "/a=",
            "/a=http://h,",
            "/a=h:1",
            "/a=https://h",
            "/a=http://h/path",
            "/a=http://h?query",
            "/a=http://user@h",
            "/a/../b=http://h",
            "/a?b=http://h",
            "/a//b=http://h",
            "/%61=http://h",
            "/a;b=http://h",
            "/a=http://:80",
            "/a=http://h:",
            "/a=http://h:0",
            "/a=http://h:99999",
        ] {
            assert!(text.parse::<Route>().is_err(), "{text} passed");
        }
    }

    #[test]
    fn routes_in_the_environment_are_separated_by_spaces() {
        let config = Config::try_parse_from(["gateway", "--route", "/a=http://h /b=http://h"]);

        assert_eq!(config.unwrap().routes.len(), 2);
    }
}
