use tower_layer::Layer;

use super::{ReqwestService, ReqwestStack};

/// Puts an HTTP layer around reqwest's client, or around any service that is called as the client is.
///
/// See the [module](super) docs for an example.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ReqwestLayer<L> {
    layer: L,
}

impl<L> ReqwestLayer<L> {
    /// Puts `layer`, which may be a whole stack of them, around the client.
    pub const fn new(layer: L) -> Self {
        Self { layer }
    }
}

impl<S, L> Layer<S> for ReqwestLayer<L>
where
    L: Layer<ReqwestService<S>>,
{
    type Service = ReqwestStack<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        ReqwestStack::new(self.layer.layer(ReqwestService::new(inner)))
    }
}
