use std::{borrow::Cow, collections::BTreeSet, error::Error, fmt, time::Duration};

use http::{HeaderName, StatusCode};
use steadfast_core::{
    backoff::{Backoff, InvalidBackoff},
    retry::Rules,
};
use steadfast_http::{
    Deadline,
    classify::{GrpcRules, HttpRules},
    grpc::Code,
    problem::ProblemBase,
};
use tokio::time::Instant;

use crate::limit::limit_of;

/// The numbers of a [`RetryLayer`](crate::RetryLayer).
///
/// Setters take any value; [`with_config`](crate::RetryLayer::with_config) checks each of them, and each pair.
#[derive(Clone, Debug)]
pub struct RetryConfig {
    pub(crate) rules: Rules,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) patience: Duration,
    pub(crate) body_idle_timeout: Option<Duration>,
    pub(crate) replay_limit: usize,
    pub(crate) replay_pool: usize,
    pub(crate) http_rules: HttpRules,
    pub(crate) grpc_rules: GrpcRules,
    pub(crate) idempotent_grpc_methods: BTreeSet<Cow<'static, str>>,
    pub(crate) attempt_header: Option<HeaderName>,
    pub(crate) problem_base: ProblemBase,
}

impl RetryConfig {
    /// 64 KiB for the body of one request, as linkerd keeps: well above the body of any payment or order.
    pub const DEFAULT_REPLAY_LIMIT: usize = 64 << 10;
    /// 16 MiB for the bodies of one layer together: 256 of the largest at once, and a small part of a service's memory.
    pub const DEFAULT_REPLAY_POOL: usize = 16 << 20;
    /// 30 s: longer than most callers wait.
    pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);

    /// How many attempts a call may take, the first one counted; 1 disables retries. Default
    /// [3](Rules::DEFAULT_MAX_ATTEMPTS).
    #[must_use]
    pub fn with_max_attempts(self, max_attempts: u32) -> Self {
        Self {
            rules: self.rules.with_max_attempts(max_attempts),
            ..self
        }
    }

    /// How long to wait between attempts. Default: exponential from [50 ms](Backoff::DEFAULT_BASE), doubling, up to
    /// [10 s](Backoff::DEFAULT_CAP), with full jitter.
    #[must_use]
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        Self {
            rules: self.rules.with_backoff(backoff),
            ..self
        }
    }

    /// The longest wait that a destination may ask for; one that asks for more, or for more than the deadline or the
    /// [patience](Self::with_patience) leaves, is not called again. Default [60 s](Rules::DEFAULT_HINT_CAP).
    #[must_use]
    pub fn with_hint_cap(self, hint_cap: Duration) -> Self {
        Self {
            rules: self.rules.with_hint_cap(hint_cap),
            ..self
        }
    }

    /// What must be left before the deadline when an attempt starts. Default [1 ms](Rules::DEFAULT_MIN_ATTEMPT_TIME).
    #[must_use]
    pub fn with_min_attempt_time(self, min_attempt_time: Duration) -> Self {
        Self {
            rules: self.rules.with_min_attempt_time(min_attempt_time),
            ..self
        }
    }

    /// How long one attempt may take to the head of its response; past it the attempt is dropped, and counts as failed. Bodies of
    /// responses are not cut by it; but a gRPC server is told of it, and by gRPC's rules may end a stream of answers then: give streams
    /// a layer of their own without it. Default none: nothing that is slow for a reason is cut unasked.
    #[must_use]
    pub fn with_attempt_timeout(self, attempt_timeout: Duration) -> Self {
        Self {
            attempt_timeout: Some(attempt_timeout),
            ..self
        }
    }

    /// How long a call may take to the head of its last response, waits included. A [`Deadline`](steadfast_http::Deadline) in a
    /// request's extensions, and for gRPC a `grpc-timeout`, can only shorten it. Default none: then nothing is cut, and attempts
    /// start within the [patience](Self::with_patience).
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }

    /// For how long further attempts may start, where a call has no deadline. It cuts nothing, and is not sent; a destination that asks
    /// to wait longer is not called again. Default [30 s](Self::DEFAULT_PATIENCE).
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How long the body of a response may pause while somebody waits for its next part; past it the body fails. Default none: a
    /// stream of events may pause for as long as it likes.
    #[must_use]
    pub fn with_body_idle_timeout(self, body_idle_timeout: Duration) -> Self {
        Self {
            body_idle_timeout: Some(body_idle_timeout),
            ..self
        }
    }

    /// How many bytes of a request's body are kept to be sent again. A larger body goes on undisturbed, and its request is not retried.
    /// Default [64 KiB](Self::DEFAULT_REPLAY_LIMIT).
    #[must_use]
    pub fn with_replay_limit(self, replay_limit: usize) -> Self {
        Self {
            replay_limit,
            ..self
        }
    }

    /// How many bytes of bodies the layer keeps together; a body that finds it empty goes on undisturbed, and its request is not
    /// retried. Not smaller than the limit of one body. Default [16 MiB](Self::DEFAULT_REPLAY_POOL).
    #[must_use]
    pub fn with_replay_pool(self, replay_pool: usize) -> Self {
        Self {
            replay_pool,
            ..self
        }
    }

    /// Adds a status to those that may pass. Default 408, 425, 429, 500, 502, 503, 504.
    #[must_use]
    pub fn add_transient_status(self, status: StatusCode) -> Self {
        Self {
            http_rules: self.http_rules.add_transient(status),
            ..self
        }
    }

    /// Takes a status out of those that may pass, such as 500 where it means a bug and not a fault.
    #[must_use]
    pub fn without_transient_status(self, status: StatusCode) -> Self {
        Self {
            http_rules: self.http_rules.without_transient(status),
            ..self
        }
    }

    /// Adds a gRPC code to those that may pass. Default UNAVAILABLE, and RESOURCE_EXHAUSTED where the server says when to come back.
    #[must_use]
    pub fn add_transient_code(self, code: Code) -> Self {
        Self {
            grpc_rules: self.grpc_rules.add_transient(code),
            ..self
        }
    }

    /// Takes a gRPC code out of those that may pass.
    #[must_use]
    pub fn without_transient_code(self, code: Code) -> Self {
        Self {
            grpc_rules: self.grpc_rules.without_transient(code),
            ..self
        }
    }

    /// gRPC methods that are idempotent, by their paths: `/package.Service/Method`. Default none: nothing in gRPC says so by itself.
    #[must_use]
    pub fn with_idempotent_grpc_methods<M>(self, methods: impl IntoIterator<Item = M>) -> Self
    where
        M: Into<Cow<'static, str>>,
    {
        Self {
            idempotent_grpc_methods: methods.into_iter().map(Into::into).collect(),
            ..self
        }
    }

    /// A header that tells HTTP servers how many attempts came before, from the second attempt on, so that a server under load can
    /// refuse those first. Default none: a header that nobody agreed on. gRPC has its own, `grpc-previous-rpc-attempts`, which is
    /// always sent.
    #[must_use]
    pub fn with_attempt_header(self, header: HeaderName) -> Self {
        Self {
            attempt_header: Some(header),
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

    /// Whether something may cut an attempt, whatever its request says.
    pub(crate) const fn is_limited(&self) -> bool {
        self.attempt_timeout.is_some() || self.deadline.is_some()
    }

    pub(crate) fn deadline_from(&self, now: Instant) -> Option<Deadline> {
        limit_of(self.deadline?, now)
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.rules.max_attempts() == 0 {
            return Err(ConfigError::NoAttempt);
        }
        self.rules.backoff().check()?;
        for (setting, duration) in [
            ("attempt_timeout", self.attempt_timeout),
            ("deadline", self.deadline),
            ("body_idle_timeout", self.body_idle_timeout),
            ("hint_cap", Some(self.rules.hint_cap())),
            ("patience", Some(self.patience)),
        ] {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return Err(ConfigError::Zero { setting });
            }
        }
        if let (Some(attempt), Some(deadline)) = (self.attempt_timeout, self.deadline)
            && attempt > deadline
        {
            return Err(ConfigError::AttemptPastDeadline { attempt, deadline });
        }
        let limit = self.deadline.unwrap_or(self.patience);
        if self.rules.min_attempt_time() >= limit {
            return Err(ConfigError::MinAttemptTime {
                min_attempt_time: self.rules.min_attempt_time(),
                limit,
            });
        }
        if self.replay_pool < self.replay_limit {
            return Err(ConfigError::ReplayPool {
                pool: self.replay_pool,
                limit: self.replay_limit,
            });
        }
        match self
            .idempotent_grpc_methods
            .iter()
            .find(|path| !is_grpc_path(path))
        {
            Some(path) => Err(ConfigError::GrpcMethod {
                path: path.clone().into_owned(),
            }),
            None => Ok(()),
        }
    }
}

/// `/service/method`, behind a prefix where a proxy has one.
fn is_grpc_path(path: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_plain);
    path.strip_prefix('/')
        .is_some_and(|names| names.contains('/') && names.split('/').all(is_name))
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            attempt_timeout: None,
            deadline: None,
            patience: Self::DEFAULT_PATIENCE,
            body_idle_timeout: None,
            replay_limit: Self::DEFAULT_REPLAY_LIMIT,
            replay_pool: Self::DEFAULT_REPLAY_POOL,
            http_rules: HttpRules::default(),
            grpc_rules: GrpcRules::default(),
            idempotent_grpc_methods: BTreeSet::new(),
            attempt_header: None,
            problem_base: ProblemBase::default(),
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// One attempt may take longer than the whole call.
    AttemptPastDeadline {
        /// The time of one attempt.
        attempt: Duration,
        /// The time of the call.
        deadline: Duration,
    },
    /// The backoff cannot work.
    Backoff(InvalidBackoff),
    /// The path of a gRPC method is not `/package.Service/Method`.
    GrpcMethod {
        /// The path.
        path: String,
    },
    /// No further attempt could ever start in time.
    MinAttemptTime {
        /// What must be left when an attempt starts.
        min_attempt_time: Duration,
        /// The deadline of a call, or the patience.
        limit: Duration,
    },
    /// A call may take no attempt at all; 1 disables retries.
    NoAttempt,
    /// The pool is smaller than what one request may keep.
    ReplayPool {
        /// The pool's bytes.
        pool: usize,
        /// The limit of one request.
        limit: usize,
    },
    /// A time must not be zero.
    Zero {
        /// The setting.
        setting: &'static str,
    },
}

impl From<InvalidBackoff> for ConfigError {
    fn from(invalid: InvalidBackoff) -> Self {
        Self::Backoff(invalid)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttemptPastDeadline { attempt, deadline } => write!(
                f,
                "one attempt may take {attempt:?}, longer than the whole call with {deadline:?}"
            ),
            Self::Backoff(_) => f.write_str("the backoff cannot work"),
            Self::GrpcMethod { path } => write!(
                f,
                "{path:?} is not the path of a gRPC method, /package.Service/Method"
            ),
            Self::MinAttemptTime {
                min_attempt_time,
                limit,
            } => write!(
                f,
                "{min_attempt_time:?} are never left of {limit:?} when a further attempt starts"
            ),
            Self::NoAttempt => f.write_str("max_attempts is 0; 1 disables retries"),
            Self::ReplayPool { pool, limit } => write!(
                f,
                "a pool of {pool} bytes cannot hold one request body of {limit} bytes"
            ),
            Self::Zero { setting } => write!(f, "{setting} is zero"),
        }
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Backoff(invalid) => Some(invalid),
            Self::AttemptPastDeadline { .. }
            | Self::GrpcMethod { .. }
            | Self::MinAttemptTime { .. }
            | Self::NoAttempt
            | Self::ReplayPool { .. }
            | Self::Zero { .. } => None,
        }
    }
}
