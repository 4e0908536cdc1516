use std::{fmt, num::NonZeroUsize, sync::Arc};

use tower_layer::Layer;

use crate::{ClientMetrics, hosts::Hosts};

/// Counts and times the calls of an HTTP client. See the [crate docs](crate).
///
/// All that one layer, and its clones, are applied to share what they know of hosts.
#[derive(Clone)]
#[must_use]
pub struct ClientMetricsLayer {
    hosts: Arc<Hosts>,
}

impl ClientMetricsLayer {
    /// 100: more hosts than most programs call, and few enough for every backend, as each may have a histogram for each method.
    pub const DEFAULT_MAX_HOSTS: NonZeroUsize = NonZeroUsize::new(100).unwrap();

    /// Each call counts for the host that its request names.
    pub fn new() -> Self {
        Self {
            hosts: Arc::new(Hosts::named(Self::DEFAULT_MAX_HOSTS)),
        }
    }

    /// All calls count for `host`, whatever their requests say: for clients of one destination, whose requests do not name it. The name
    /// becomes a label as it is.
    pub fn for_host(host: impl Into<Arc<str>>) -> Self {
        Self {
            hosts: Arc::new(Hosts::fixed(host.into())),
        }
    }

    /// How many hosts have a name of their own: the first that are called; calls to any other count for `_OTHER`. Default
    /// [100](Self::DEFAULT_MAX_HOSTS). So whoever chooses where calls go cannot fill the memory of this program and of its monitoring.
    ///
    /// The layer that is returned knows no host yet, and shares none with clones that were made before. One that is
    /// [for a host](Self::for_host) has only that one: it stays as it is.
    pub fn with_max_hosts(self, hosts: NonZeroUsize) -> Self {
        match &*self.hosts {
            Hosts::Fixed(_) => self,
            Hosts::Named(_) => Self {
                hosts: Arc::new(Hosts::named(hosts)),
            },
        }
    }
}

impl Default for ClientMetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ClientMetricsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMetricsLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ClientMetricsLayer {
    type Service = ClientMetrics<S>;

    fn layer(&self, inner: S) -> ClientMetrics<S> {
        ClientMetrics::new(inner, Arc::clone(&self.hosts))
    }
}
