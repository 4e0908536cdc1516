use std::{fmt::Display, hash::Hash};

use http::Request;
use steadfast_http::Destination;

/// Finds the key of a request: what its breaker is of.
///
/// Closures from a request to a key are such.
pub trait BreakerKey<Req> {
    /// Its `Display` is the name of the breaker. Of what is kept, the registry makes clones.
    type Key: Clone + Eq + Hash + Display + Send + Sync + 'static;

    /// The key of this request. Called for each: it had better allocate nothing.
    fn key(&self, request: &Req) -> Self::Key;
}

impl<Req, F, K> BreakerKey<Req> for F
where
    F: Fn(&Req) -> K,
    K: Clone + Eq + Hash + Display + Send + Sync + 'static,
{
    type Key = K;

    #[inline]
    fn key(&self, request: &Req) -> K {
        self(request)
    }
}

/// A breaker for each [`Destination`] of HTTP requests.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PerDestination;

impl<B> BreakerKey<Request<B>> for PerDestination {
    type Key = Destination;

    #[inline]
    fn key(&self, request: &Request<B>) -> Destination {
        Destination::of_request(request)
    }
}
