//! The handles of the metrics, made once for each series.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode, Uri};
use metrics::{
    Counter, Histogram, Label, Unit, counter, describe_counter, describe_histogram, histogram,
};

use crate::host;

pub(crate) const REQUESTS: &str = "http_client_requests_total";
pub(crate) const DURATION: &str = "http_client_request_duration_seconds";

/// The host of calls that find no place.
pub(crate) const OTHER: &str = "other";

/// The methods of RFC 9110 section 9 and of RFC 5789, and what any other is called.
pub(crate) const METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE", "_OTHER",
];

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a response.
    Status(StatusCode),
    /// With none.
    Error,
    /// Nobody waits for it any more.
    Cancelled,
}

pub(crate) const ERROR: &str = "error";
pub(crate) const CANCELLED: &str = "cancelled";

impl End {
    fn label(self) -> Label {
        const STATUS: &str = "status";
        match self {
            Self::Status(status) => Label::new(STATUS, status.as_str().to_owned()),
            Self::Error => Label::new(STATUS, ERROR),
            Self::Cancelled => Label::new(STATUS, CANCELLED),
        }
    }
}

/// The series of one layer.
#[derive(Debug)]
pub(crate) enum Hosts {
    /// One, whatever the request says.
    Fixed {
        name: Arc<str>,
        host: OnceLock<Arc<Host>>,
    },
    ByUri {
        max: NonZeroUsize,
        known: RwLock<HashMap<Box<str>, Arc<Host>>>,
        other: OnceLock<Arc<Host>>,
    },
}

impl Hosts {
    pub(crate) const fn fixed(name: Arc<str>) -> Self {
        Self::Fixed {
            name,
            host: OnceLock::new(),
        }
    }

    pub(crate) fn by_uri(max: NonZeroUsize) -> Self {
        Self::ByUri {
            max,
            known: RwLock::default(),
            other: OnceLock::new(),
        }
    }

    /// The series of the host that a request goes to.
    pub(crate) fn of(&self, uri: &Uri, headers: &HeaderMap) -> Arc<Host> {
        let (max, known, other) = match self {
            Self::Fixed { name, host } => {
                return Arc::clone(host.get_or_init(|| Host::new(Arc::clone(name))));
            }
            Self::ByUri { max, known, other } => (*max, known, other),
        };
        let written = host::written(uri, headers);
        if let Some(host) = known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(written)
        {
            return Arc::clone(host);
        }
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.get(written) {
            return Arc::clone(host);
        }
        if known.len() >= max.get() {
            return Arc::clone(other.get_or_init(|| Host::new(Arc::from(OTHER))));
        }
        let host = Host::new(Arc::from(host::label(written)));
        known.insert(Box::from(written), Arc::clone(&host));
        host
    }
}

/// The series of one host.
#[derive(Debug)]
pub(crate) struct Host {
    name: Arc<str>,
    methods: [OnceLock<Series>; METHODS.len()],
}

/// The series of one method on a host.
#[derive(Debug)]
struct Series {
    duration: Histogram,
    /// Few, so that they are looked through.
    requests: RwLock<Vec<(End, Counter)>>,
}

impl Host {
    fn new(name: Arc<str>) -> Arc<Self> {
        describe();
        Arc::new(Self {
            name,
            methods: Default::default(),
        })
    }

    /// Counts a call that has ended.
    pub(crate) fn ended(&self, method: MethodIndex, end: End, took: Duration) {
        let Some(slot) = self.methods.get(method.0) else {
            return;
        };
        let series = slot.get_or_init(|| Series {
            duration: histogram!(DURATION, self.labels(method)),
            requests: RwLock::default(),
        });
        series.duration.record(took.as_secs_f64());
        let count = |requests: &[(End, Counter)]| {
            let found = requests.iter().find(|(each, _)| *each == end);
            found.map(|(_, counter)| counter.increment(1)).is_some()
        };
        if count(
            &series
                .requests
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        ) {
            return;
        }
        let mut requests = series
            .requests
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if !count(&requests) {
            let mut labels = self.labels(method);
            labels.push(end.label());
            let counter = counter!(REQUESTS, labels);
            counter.increment(1);
            requests.push((end, counter));
        }
    }

    fn labels(&self, method: MethodIndex) -> Vec<Label> {
        vec![
            Label::new("method", METHODS[method.0]),
            Label::new("host", Arc::clone(&self.name)),
        ]
    }
}

/// The place of a method in [`METHODS`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MethodIndex(usize);

impl MethodIndex {
    pub(crate) fn of(method: &Method) -> Self {
        let known = METHODS.iter().position(|each| *each == method.as_str());
        Self(known.unwrap_or(METHODS.len() - 1))
    }
}

fn describe() {
    describe_counter!(
        REQUESTS,
        Unit::Count,
        "calls of HTTP clients, by how they ended"
    );
    describe_histogram!(
        DURATION,
        Unit::Seconds,
        "from the call of an HTTP client to the head of its response, or to its end without one"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_list_every_metric_and_every_word() {
        const README: &str = include_str!("../README.md");

        for name in [REQUESTS, DURATION] {
            assert!(README.contains(&format!("| `{name}` |")), "{name}");
        }
        for word in [ERROR, CANCELLED, OTHER, host::UNKNOWN, "_OTHER"] {
            assert!(README.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn a_method_that_is_not_standard_is_other() {
        let label = |method: &str| METHODS[MethodIndex::of(&method.parse().unwrap()).0];

        assert_eq!(label("PATCH"), "PATCH");
        assert_eq!(label("BREW"), "_OTHER");
        // Methods are case-sensitive (RFC 9110 section 9.1).
        assert_eq!(label("get"), "_OTHER");
    }
}
