use std::{borrow::Cow, collections::BTreeSet, error::Error, fmt, time::Duration};

use http::Method;
use steadfast_core::idempotency::Promise;
use steadfast_http::problem::ProblemBase;
use tokio::sync::Semaphore;

/// Whether a request of a covered method must name its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyRequirement {
    /// A request without a key passes through, unprotected.
    Optional,
    /// A request without a key is refused with 400 `missing-key`.
    Required,
}

/// What the layer applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    GrpcMethods(BTreeSet<Cow<'static, str>>),
    HttpMethods(Vec<Method>),
}

impl Coverage {
    fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::GrpcMethods(methods) if methods.is_empty() => Err(ConfigError::NoMethod),
            Self::GrpcMethods(methods) => match methods.iter().find(|path| !is_grpc_path(path)) {
                Some(path) => Err(ConfigError::GrpcMethod {
                    path: path.clone().into_owned(),
                }),
                None => Ok(()),
            },
            Self::HttpMethods(methods) if methods.is_empty() => Err(ConfigError::NoMethod),
            Self::HttpMethods(methods) => match methods.iter().find(|m| is_never_covered(m)) {
                Some(method) => Err(ConfigError::Method {
                    method: method.clone(),
                }),
                None => Ok(()),
            },
        }
    }

    pub(crate) fn covers(&self, method: &Method, path: &str) -> bool {
        match self {
            // Whatever the HTTP method: a gRPC server looks at the path alone.
            Self::GrpcMethods(methods) => methods.contains(path),
            Self::HttpMethods(methods) => methods.contains(method),
        }
    }
}

/// The numbers of an [`IdempotencyLayer`](crate::IdempotencyLayer).
///
/// Setters take any value; [`with_config`](crate::IdempotencyLayer::with_config) checks each of them, and each pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyConfig {
    pub(crate) namespace: Cow<'static, str>,
    pub(crate) coverage: Coverage,
    pub(crate) key: KeyRequirement,
    pub(crate) lease: Duration,
    pub(crate) retention: Duration,
    pub(crate) max_execution: Duration,
    pub(crate) max_running: usize,
    pub(crate) wait: Duration,
    pub(crate) max_waiting: usize,
    pub(crate) max_waiting_per_key: usize,
    pub(crate) completion_wait: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) body_limit: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) body_pool: usize,
    pub(crate) response_limit: usize,
    pub(crate) capture_timeout: Duration,
    pub(crate) fingerprint_headers: Vec<http::HeaderName>,
    pub(crate) problem_base: ProblemBase,
}

impl IdempotencyConfig {
    /// 30 s: a service that restarts is back within it, and a third of it spans several slow round trips.
    pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);
    /// 24 h, as long as Stripe keeps a key at least.
    pub const DEFAULT_RETENTION: Duration = Duration::from_secs(86_400);
    /// 10 min: longer than any proxy in front of the service waits.
    pub const DEFAULT_MAX_EXECUTION: Duration = Duration::from_secs(600);
    /// 1024 executions at once.
    pub const DEFAULT_MAX_RUNNING: usize = 1024;
    /// 2 s: most operations end within it, and a client gets its answer instead of a 409.
    pub const DEFAULT_WAIT: Duration = Duration::from_secs(2);
    /// 1024 duplicates at once.
    pub const DEFAULT_MAX_WAITING: usize = 1024;
    /// 16 duplicates of one operation at once: a client and the proxies before it, each with its retries, and no crowd.
    pub const DEFAULT_MAX_WAITING_PER_KEY: usize = 16;
    /// 2 s: a store that restarts quickly is back within it.
    pub const DEFAULT_COMPLETION_WAIT: Duration = Duration::from_secs(2);
    /// 1 s, the shortest delay that `Retry-After` can say.
    pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
    /// 1 MiB, well above the body of any payment or order.
    pub const DEFAULT_BODY_LIMIT: usize = 1 << 20;
    /// 30 s for the whole request body.
    pub const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(30);
    /// 64 MiB for the request bodies of one layer together.
    pub const DEFAULT_BODY_POOL: usize = 64 << 20;
    /// 1 MiB.
    pub const DEFAULT_RESPONSE_LIMIT: usize = 1 << 20;
    /// 10 s for the whole response body, from its head on.
    pub const DEFAULT_CAPTURE_TIMEOUT: Duration = Duration::from_secs(10);

    /// Names the service within the store, as one word of 1 to 64 letters, digits, `-`, `_` and `.`. Services that share a store
    /// and differ in it never see each other's records. Default `default`.
    #[must_use]
    pub fn with_namespace(self, namespace: impl Into<Cow<'static, str>>) -> Self {
        Self {
            namespace: namespace.into(),
            ..self
        }
    }

    /// The HTTP methods that are covered. Default POST and PATCH, the ones that HTTP does not call idempotent (RFC 9110 section
    /// 9.2.2, RFC 5789). GET, HEAD, OPTIONS, TRACE and CONNECT are refused here: they have no operation to protect. A gRPC call is a
    /// POST, a stream too: around a gRPC service, use [`with_grpc_methods`](Self::with_grpc_methods), which this replaces.
    #[must_use]
    pub fn with_methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        Self {
            coverage: Coverage::HttpMethods(methods.into_iter().collect()),
            ..self
        }
    }

    /// The gRPC methods that are covered, by their paths as this layer sees them: `/package.Service/Method`, behind a prefix where
    /// a router around the layer has one. Every other request passes through, also one whose path is misspelt here: build it from
    /// the `SERVICE_NAME` of the generated code. What rewrites paths belongs outside of the layer. Name unary methods: a stream of
    /// requests would be read to its end before the handler sees it, and a stream of answers held back until it ends or is too
    /// large to be kept. Replaces [`with_methods`](Self::with_methods).
    #[must_use]
    pub fn with_grpc_methods<M>(self, methods: impl IntoIterator<Item = M>) -> Self
    where
        M: Into<Cow<'static, str>>,
    {
        Self {
            coverage: Coverage::GrpcMethods(methods.into_iter().map(Into::into).collect()),
            ..self
        }
    }

    /// Whether a key is required. Default [`KeyRequirement::Required`]: a client that forgets its key learns so at once and not
    /// from a double charge.
    #[must_use]
    pub fn with_key(self, key: KeyRequirement) -> Self {
        Self { key, ..self }
    }

    /// How long a claim lives without renewal, by the store's clock; at least 100 ms. It is renewed at a third of it. After the
    /// death of a process its operations stay untouched that long. Default [30 s](Self::DEFAULT_LEASE).
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// How long a record answers replays, by the store's clock, counted from its claim, takeover or resolution. A retry after it
    /// runs again: publish it to clients. Must exceed `max_execution` plus the lease. Default [24 h](Self::DEFAULT_RETENTION).
    #[must_use]
    pub fn with_retention(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    /// Bounds one execution, its completion included. Past it the handler is cancelled and the operation abandoned. Default
    /// [10 min](Self::DEFAULT_MAX_EXECUTION).
    #[must_use]
    pub fn with_max_execution(self, max_execution: Duration) -> Self {
        Self {
            max_execution,
            ..self
        }
    }

    /// How many operations may run at once, those whose clients left included. One more gets 503 `overloaded` and claims
    /// nothing. As many requests may wait for the claim of another with their key. Default [1024](Self::DEFAULT_MAX_RUNNING).
    #[must_use]
    pub fn with_max_running(self, max_running: usize) -> Self {
        Self {
            max_running,
            ..self
        }
    }

    /// How long a duplicate of a running operation waits for its answer before it gets 409 `in-progress`; zero: not at all. A
    /// [`Deadline`](steadfast_http::Deadline) in the request's extensions shortens it, and so does `grpc-timeout`. A day at most.
    /// Default [2 s](Self::DEFAULT_WAIT).
    #[must_use]
    pub fn with_wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// How many duplicates may wait at once. One more gets its 409 without waiting. Default
    /// [1024](Self::DEFAULT_MAX_WAITING).
    #[must_use]
    pub fn with_max_waiting(self, max_waiting: usize) -> Self {
        Self {
            max_waiting,
            ..self
        }
    }

    /// How many duplicates of one operation may wait at once, of the [`max_waiting`](Self::with_max_waiting). One more gets its 409
    /// without waiting. Default
    /// [16](Self::DEFAULT_MAX_WAITING_PER_KEY).
    #[must_use]
    pub fn with_max_waiting_per_key(self, max_waiting_per_key: usize) -> Self {
        Self {
            max_waiting_per_key,
            ..self
        }
    }

    /// How long an answer waits for the store to acknowledge it. Past it the client gets the answer with
    /// `Idempotent-Stored: false`, and storing goes on. Default [2 s](Self::DEFAULT_COMPLETION_WAIT).
    #[must_use]
    pub fn with_completion_wait(self, completion_wait: Duration) -> Self {
        Self {
            completion_wait,
            ..self
        }
    }

    /// The `Retry-After` of refusals that may pass, rounded up to whole seconds. Default [1 s](Self::DEFAULT_RETRY_AFTER).
    #[must_use]
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    /// The largest request body, in bytes. Past it 413 `body-too-large`. Default [1 MiB](Self::DEFAULT_BODY_LIMIT).
    #[must_use]
    pub fn with_body_limit(self, body_limit: usize) -> Self {
        Self { body_limit, ..self }
    }

    /// How long the whole request body may take to arrive. Past it 408 `body-timeout`. Default
    /// [30 s](Self::DEFAULT_BODY_TIMEOUT).
    #[must_use]
    pub fn with_body_timeout(self, body_timeout: Duration) -> Self {
        Self {
            body_timeout,
            ..self
        }
    }

    /// How many bytes the request bodies of this layer may hold together, each until its handler is done. A body that finds it
    /// empty gets 503 `overloaded`. Not smaller than the limit of one body. Response bodies are not counted; there are
    /// [`max_running`](Self::with_max_running) of them at most. Default [64 MiB](Self::DEFAULT_BODY_POOL).
    #[must_use]
    pub fn with_body_pool(self, body_pool: usize) -> Self {
        Self { body_pool, ..self }
    }

    /// The largest response body that is kept, in bytes, 256 MiB at most. The client of a larger one gets it whole; replays get
    /// 409 `response-not-retained`. Default [1 MiB](Self::DEFAULT_RESPONSE_LIMIT).
    #[must_use]
    pub fn with_response_limit(self, response_limit: usize) -> Self {
        Self {
            response_limit,
            ..self
        }
    }

    /// How long a response body may take to end, from its head on. One that takes longer is passed on as it comes and treated as
    /// too large to be kept. Default [10 s](Self::DEFAULT_CAPTURE_TIMEOUT).
    #[must_use]
    pub fn with_capture_timeout(self, capture_timeout: Duration) -> Self {
        Self {
            capture_timeout,
            ..self
        }
    }

    /// Request headers that are part of what a request asks for, such as an API version. Default none. A change of the list makes
    /// every retry across the deploy another request (422 `key-reused`); a fingerprint of your own ignores it.
    #[must_use]
    pub fn with_fingerprint_headers(
        self,
        headers: impl IntoIterator<Item = http::HeaderName>,
    ) -> Self {
        let mut fingerprint_headers: Vec<_> = headers.into_iter().collect();
        fingerprint_headers.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        fingerprint_headers.dedup();
        Self {
            fingerprint_headers,
            ..self
        }
    }

    /// Where the `type` of a refusal points. Default [the page of this project](ProblemBase::DEFAULT).
    #[must_use]
    pub fn with_problem_base(self, problem_base: ProblemBase) -> Self {
        Self {
            problem_base,
            ..self
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        if !(1..=64).contains(&self.namespace.len()) || !self.namespace.bytes().all(word) {
            return Err(ConfigError::Namespace);
        }
        self.coverage.check()?;
        if self.lease < MIN_LEASE {
            return Err(ConfigError::Lease { lease: self.lease });
        }
        let longest_run = self.max_execution.saturating_add(self.lease);
        if self.retention <= longest_run || self.retention > MAX_RETENTION {
            return Err(ConfigError::Retention {
                retention: self.retention,
                at_least: longest_run,
            });
        }
        if self.wait > MAX_WAIT {
            return Err(ConfigError::Wait { wait: self.wait });
        }
        for (setting, duration) in [
            ("max_execution", self.max_execution),
            ("body_timeout", self.body_timeout),
            ("capture_timeout", self.capture_timeout),
        ] {
            if duration.is_zero() {
                return Err(ConfigError::Zero { setting });
            }
        }
        if self.max_running == 0 {
            return Err(ConfigError::Zero {
                setting: "max_running",
            });
        }
        for (setting, value, max) in [
            ("max_running", self.max_running, Semaphore::MAX_PERMITS),
            ("max_waiting", self.max_waiting, Semaphore::MAX_PERMITS),
            ("response_limit", self.response_limit, MAX_RESPONSE),
        ] {
            if value > max {
                return Err(ConfigError::TooLarge { setting, max });
            }
        }
        if self.body_pool < self.body_limit {
            return Err(ConfigError::BodyPool {
                pool: self.body_pool,
                limit: self.body_limit,
            });
        }
        Ok(())
    }
}

const MIN_LEASE: Duration = Duration::from_millis(100);

/// Longer than any client waits.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// A hundred years, well within what the stores' clocks can add to the present.
const MAX_RETENTION: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Well within what one value of the stores can hold.
const MAX_RESPONSE: usize = 256 << 20;

/// `/service/method`, behind a prefix where a router has one.
fn is_grpc_path(path: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_plain);
    path.strip_prefix('/')
        .is_some_and(|names| names.contains('/') && names.split('/').all(is_name))
}

fn is_never_covered(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::CONNECT
    )
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self {
            namespace: Cow::Borrowed("default"),
            coverage: Coverage::HttpMethods(vec![Method::POST, Method::PATCH]),
            key: KeyRequirement::Required,
            lease: Self::DEFAULT_LEASE,
            retention: Self::DEFAULT_RETENTION,
            max_execution: Self::DEFAULT_MAX_EXECUTION,
            max_running: Self::DEFAULT_MAX_RUNNING,
            wait: Self::DEFAULT_WAIT,
            max_waiting: Self::DEFAULT_MAX_WAITING,
            max_waiting_per_key: Self::DEFAULT_MAX_WAITING_PER_KEY,
            completion_wait: Self::DEFAULT_COMPLETION_WAIT,
            retry_after: Self::DEFAULT_RETRY_AFTER,
            body_limit: Self::DEFAULT_BODY_LIMIT,
            body_timeout: Self::DEFAULT_BODY_TIMEOUT,
            body_pool: Self::DEFAULT_BODY_POOL,
            response_limit: Self::DEFAULT_RESPONSE_LIMIT,
            capture_timeout: Self::DEFAULT_CAPTURE_TIMEOUT,
            fingerprint_headers: Vec::new(),
            problem_base: ProblemBase::default(),
        }
    }
}

/// A layer that could not keep its promise as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The pool of request bodies is smaller than one body may be.
    BodyPool {
        /// The pool's bytes.
        pool: usize,
        /// The limit of one body.
        limit: usize,
    },
    /// The path of a gRPC method is not `/package.Service/Method`.
    GrpcMethod {
        /// The path.
        path: String,
    },
    /// The lease is shorter than 100 ms: a third of it would not span a slow round trip.
    Lease {
        /// The lease.
        lease: Duration,
    },
    /// A method that is never covered.
    Method {
        /// The method.
        method: Method,
    },
    /// The name space is not one word of 1 to 64 letters, digits, `-`, `_` and `.`.
    Namespace,
    /// No method is covered.
    NoMethod,
    /// The store forgets when its process or host dies, and durability was required.
    NotDurable,
    /// The store cannot keep the promise.
    Promise {
        /// The promise.
        promise: Promise,
    },
    /// The retention does not exceed the longest run, so a record could be completed after it and run again; or it is longer
    /// than a hundred years.
    Retention {
        /// The retention.
        retention: Duration,
        /// What it must exceed: max execution plus lease.
        at_least: Duration,
    },
    /// A number is larger than it can be.
    TooLarge {
        /// The setting.
        setting: &'static str,
        /// The largest it can be.
        max: usize,
    },
    /// A duplicate would wait longer than a day.
    Wait {
        /// How long it would wait.
        wait: Duration,
    },
    /// A number must not be zero.
    Zero {
        /// The setting.
        setting: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyPool { pool, limit } => write!(
                f,
                "a pool of {pool} bytes cannot hold one request body of {limit} bytes"
            ),
            Self::GrpcMethod { path } => {
                write!(
                    f,
                    "{path:?} is not the path of a gRPC method, /package.Service/Method"
                )
            }
            Self::Lease { lease } => write!(f, "a lease of {lease:?} is shorter than 100 ms"),
            Self::Method { method } => write!(f, "{method} has no operation to protect"),
            Self::Namespace => f.write_str(
                "the name space is not one word of 1 to 64 letters, digits, '-', '_' and '.'",
            ),
            Self::NoMethod => f.write_str("no method is covered"),
            Self::NotDurable => f.write_str("the store is not durable"),
            Self::Promise { promise } => write!(f, "the store cannot keep {promise}"),
            Self::Retention {
                retention,
                at_least,
            } => write!(
                f,
                "a retention of {retention:?} does not exceed max execution plus lease, {at_least:?}, or is longer than a hundred years"
            ),
            Self::TooLarge { setting, max } => write!(f, "{setting} is larger than {max}"),
            Self::Wait { wait } => write!(f, "a wait of {wait:?} is longer than a day"),
            Self::Zero { setting } => write!(f, "{setting} is zero"),
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(IdempotencyConfig::default().check(), Ok(()));
    }

    #[test]
    fn a_record_must_outlive_the_longest_run() {
        let config = IdempotencyConfig::default()
            .with_lease(Duration::from_secs(30))
            .with_max_execution(Duration::from_secs(600));

        let exact = config.clone().with_retention(Duration::from_secs(630));
        assert!(matches!(exact.check(), Err(ConfigError::Retention { .. })));

        let longer = config.with_retention(Duration::from_secs(631));
        assert_eq!(longer.check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let default = IdempotencyConfig::default;
        let zero = |setting| ConfigError::Zero { setting };
        let too_large = |setting, max| ConfigError::TooLarge { setting, max };
        let refused = [
            (default().with_namespace(""), ConfigError::Namespace),
            (
                default().with_namespace("two words"),
                ConfigError::Namespace,
            ),
            (
                default().with_namespace("n".repeat(65)),
                ConfigError::Namespace,
            ),
            (default().with_methods([]), ConfigError::NoMethod),
            (
                default().with_methods([Method::POST, Method::GET]),
                ConfigError::Method {
                    method: Method::GET,
                },
            ),
            (
                default().with_lease(Duration::from_millis(99)),
                ConfigError::Lease {
                    lease: Duration::from_millis(99),
                },
            ),
            (
                default().with_retention(Duration::MAX),
                ConfigError::Retention {
                    retention: Duration::MAX,
                    at_least: Duration::from_secs(630),
                },
            ),
            (
                default().with_wait(Duration::MAX),
                ConfigError::Wait {
                    wait: Duration::MAX,
                },
            ),
            (
                default().with_max_execution(Duration::ZERO),
                zero("max_execution"),
            ),
            (
                default().with_body_timeout(Duration::ZERO),
                zero("body_timeout"),
            ),
            (
                default().with_capture_timeout(Duration::ZERO),
                zero("capture_timeout"),
            ),
            (default().with_max_running(0), zero("max_running")),
            (
                default().with_max_running(usize::MAX),
                too_large("max_running", Semaphore::MAX_PERMITS),
            ),
            (
                default().with_max_waiting(usize::MAX),
                too_large("max_waiting", Semaphore::MAX_PERMITS),
            ),
            (
                default().with_response_limit(usize::MAX),
                too_large("response_limit", MAX_RESPONSE),
            ),
            (
                default().with_body_pool(1).with_body_limit(2),
                ConfigError::BodyPool { pool: 1, limit: 2 },
            ),
        ];

        for (config, error) in refused {
            assert_eq!(config.check(), Err(error));
        }
    }
}
