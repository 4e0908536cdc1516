//! The handles of the metrics, made once for each series. Making and using them runs the recorder's code, which may make a call
//! itself: so it is run under no lock.

use std::{
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use metrics::{
    Counter, Histogram, Label, Unit, counter, describe_counter, describe_histogram, histogram,
};

pub(crate) const REQUESTS: &str = "http_client_requests_total";
pub(crate) const DURATION: &str = "http_client_request_duration_seconds";

/// What any other method, and any other status, is called.
const OTHER: &str = "_OTHER";

/// The methods of RFC 9110 section 9 and of RFC 5789, and the others.
const METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE", OTHER,
];

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a response, whose status is registered.
    Status(StatusCode),
    /// With a response of another status: whoever answers may invent 900.
    OtherStatus,
    /// With none.
    Error,
    /// Nobody waited any more, since the time was over.
    Elapsed,
    /// Nobody waited any more.
    Cancelled,
}

const ERROR: &str = "error";
const ELAPSED: &str = "elapsed";
const CANCELLED: &str = "cancelled";

impl End {
    pub(crate) fn of(status: StatusCode) -> Self {
        match status.canonical_reason() {
            Some(_) => Self::Status(status),
            None => Self::OtherStatus,
        }
    }

    fn label(self) -> Label {
        const STATUS: &str = "status";
        match self {
            Self::Status(status) => Label::new(STATUS, status.as_str().to_owned()),
            Self::OtherStatus => Label::new(STATUS, OTHER),
            Self::Error => Label::new(STATUS, ERROR),
            Self::Elapsed => Label::new(STATUS, ELAPSED),
            Self::Cancelled => Label::new(STATUS, CANCELLED),
        }
    }
}

/// The series of one host.
#[derive(Debug)]
pub(crate) struct Host {
    name: Arc<str>,
    methods: [OnceLock<Series>; METHODS.len()],
    /// Of the whole layer.
    is_described: Arc<AtomicBool>,
}

/// The series of one method on a host.
#[derive(Debug)]
struct Series {
    duration: Histogram,
    /// Few, so that they are looked through. A std lock: it is held for a few steps.
    requests: RwLock<Vec<(End, Counter)>>,
}

impl Host {
    pub(crate) fn new(name: Arc<str>, is_described: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            name,
            methods: Default::default(),
            is_described,
        })
    }

    #[cfg(test)]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Counts a call that has ended.
    pub(crate) fn ended(&self, method: MethodIndex, end: End, took: Duration) {
        let series = self.series(method);
        self.counter(series, method, end).increment(1);
        series.duration.record(took.as_secs_f64());
    }

    fn series(&self, method: MethodIndex) -> &Series {
        let slot = &self.methods[method.0];
        if let Some(series) = slot.get() {
            return series;
        }
        if !self.is_described.swap(true, Ordering::Relaxed) {
            describe();
        }
        let made = Series {
            duration: histogram!(DURATION, self.labels(method)),
            requests: RwLock::default(),
        };
        slot.get_or_init(|| made)
    }

    fn counter(&self, series: &Series, method: MethodIndex, end: End) -> Counter {
        if let Some(counter) = series.known(end) {
            return counter;
        }
        let mut labels = self.labels(method);
        labels.push(end.label());
        let made = counter!(REQUESTS, labels);
        series.keep(end, made)
    }

    fn labels(&self, method: MethodIndex) -> Vec<Label> {
        vec![
            Label::new("method", METHODS[method.0]),
            Label::new("host", Arc::clone(&self.name)),
        ]
    }
}

impl Series {
    fn known(&self, end: End) -> Option<Counter> {
        let requests = self.requests.read().unwrap_or_else(PoisonError::into_inner);
        find(&requests, end)
    }

    /// The one that is there already if somebody else was faster.
    fn keep(&self, end: End, made: Counter) -> Counter {
        let mut requests = self
            .requests
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = find(&requests, end) {
            return counter;
        }
        requests.push((end, made.clone()));
        made
    }
}

fn find(requests: &[(End, Counter)], end: End) -> Option<Counter> {
    let found = requests.iter().find(|(each, _)| *each == end);
    found.map(|(_, counter)| counter.clone())
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
    use crate::{ClientMetricsLayer, hosts};

    const README: &str = include_str!("../README.md");

    #[test]
    fn the_docs_list_every_metric_and_every_word() {
        for name in [REQUESTS, DURATION] {
            assert!(README.contains(&format!("| `{name}` |")), "{name}");
        }
        for word in [
            ERROR,
            ELAPSED,
            CANCELLED,
            OTHER,
            hosts::OTHER,
            hosts::UNKNOWN,
        ] {
            assert!(README.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn the_docs_tell_the_most_series_that_there_can_be() {
        let registered = (100..=999)
            .map(|status| End::of(StatusCode::from_u16(status).unwrap()))
            .filter(|end| matches!(end, End::Status(_)))
            .count();
        let hosts = ClientMetricsLayer::DEFAULT_MAX_HOSTS.get() + 2;
        let (methods, ends) = (METHODS.len(), registered + 4);

        for bound in [
            format!("{hosts} hosts"),
            format!("{methods} methods"),
            format!("{ends} statuses"),
        ] {
            assert!(README.contains(&bound), "{bound}");
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
