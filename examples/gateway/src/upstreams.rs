//! Which upstream of a route gets an attempt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, uri::PathAndQuery};
use steadfast::circuit_breaker::{BreakerRegistry, CircuitBreaker, Destination};

use crate::origin::Origin;

/// The interchangeable upstreams of one route, asked in turn.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// One at least.
    all: Vec<Upstream>,
    breakers: BreakerRegistry,
    /// The turn of the next request.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Upstream {
    origin: Origin,
    destination: Destination,
}

/// Whose turn the next attempt of a request is.
#[derive(Clone, Debug)]
struct Turn(Arc<AtomicUsize>);

impl Upstreams {
    pub(crate) fn new(origins: &[Origin], breakers: BreakerRegistry) -> Self {
        assert!(!origins.is_empty(), "a route has an upstream");
        let all = origins.iter().map(|origin| Upstream {
            origin: origin.clone(),
            destination: origin.destination(),
        });
        Self {
            all: all.collect(),
            breakers,
            next: AtomicUsize::new(0),
        }
    }

    /// Takes a turn for a request, which all its attempts share.
    pub(crate) fn take_turn<B>(&self, mut request: Request<B>) -> Request<B> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        request
            .extensions_mut()
            .insert(Turn(Arc::new(AtomicUsize::new(turn))));
        request
    }

    /// Aims one attempt at the next upstream whose breaker lets it pass. Where none does, it is aimed at the one that is left alone
    /// for the shortest time, whose breaker then answers.
    pub(crate) fn aim<B>(&self, mut request: Request<B>) -> Request<B> {
        let turn = request.extensions_mut().remove::<Turn>();
        let first = turn
            .as_ref()
            .map_or(0, |Turn(turn)| turn.load(Ordering::Relaxed));
        let chosen = self.choose(first);
        if let Some(Turn(turn)) = turn {
            turn.store(chosen + 1, Ordering::Relaxed);
        }
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = self.all[chosen].origin.uri(path);
        request
    }

    fn choose(&self, first: usize) -> usize {
        let count = self.all.len();
        if count == 1 {
            return 0;
        }
        let in_turn = || (0..count).map(|offset| first.wrapping_add(offset) % count);
        in_turn()
            .find(|&index| self.admits(index))
            .or_else(|| in_turn().min_by_key(|&index| self.open_left(index)))
            .expect("there is an upstream")
    }

    /// Whether an attempt would pass.
    fn admits(&self, index: usize) -> bool {
        self.breaker(index)
            .is_none_or(|breaker| breaker.would_admit())
    }

    fn open_left(&self, index: usize) -> Duration {
        self.breaker(index)
            .map_or_else(Default::default, |breaker| breaker.snapshot().open_left())
    }

    /// None if the upstream was not called yet.
    fn breaker(&self, index: usize) -> Option<CircuitBreaker> {
        self.breakers.get(&self.all[index].destination)
    }
}
