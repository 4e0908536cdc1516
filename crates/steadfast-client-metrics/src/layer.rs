use std::{num::NonZeroUsize, sync::Arc};

use tower_layer::Layer;

use crate::{Measured, series::Hosts};

/// Counts and times the calls of an HTTP client. See the [crate docs](crate).
///
/// All that one layer is applied to share what it knows of hosts.
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientMetricsLayer {
    hosts: Arc<Hosts>,
}

impl ClientMetricsLayer {
    /// How many hosts have a name of their own, if nobody says otherwise: more than most programs call, and few enough for every
    /// backend, as each has a histogram for each method.
    pub const DEFAULT_MAX_HOSTS: NonZeroUsize = NonZeroUsize::new(100).unwrap();

    /// Each call counts for the host of its URI.
    pub fn new() -> Self {
        Self {
            hosts: Arc::new(Hosts::by_uri(Self::DEFAULT_MAX_HOSTS)),
        }
    }

    /// All calls count for `host`, whatever their URI: for clients of one destination, whose requests do not name it.
    pub fn with_host(self, host: impl Into<Arc<str>>) -> Self {
        Self {
            hosts: Arc::new(Hosts::fixed(host.into())),
        }
    }

    /// So many hosts have a name of their own; calls to any other count for `other`. Whoever chooses where calls go cannot fill the
    /// memory of this program and of its monitoring.
    pub fn with_max_hosts(self, hosts: NonZeroUsize) -> Self {
        Self {
            hosts: Arc::new(Hosts::by_uri(hosts)),
        }
    }
}

impl Default for ClientMetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ClientMetricsLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured::new(inner, Arc::clone(&self.hosts))
    }
}
