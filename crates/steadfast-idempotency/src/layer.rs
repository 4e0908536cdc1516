use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{Response, request, response};
use steadfast_core::idempotency::{Outcome, Promise};
use steadfast_store::Store;
use tower_layer::Layer;

use crate::{
    ConfigError, Idempotency, IdempotencyConfig, IdempotencyHandle, Scope,
    fingerprint::Recipe,
    shared::{Settings, Shared},
};

/// Makes each keyed request take effect once. See the [crate docs](crate).
///
/// All state lives in this value: whatever it is applied to, and however often, shares one store, one set of limits and one
/// handle. A setter returns a layer with limits of its own: apply it, clone it and take its handle after the last one.
#[must_use]
pub struct IdempotencyLayer<St> {
    shared: Arc<Shared<St>>,
}

impl<St: Store> IdempotencyLayer<St> {
    /// The handler is started at most once for a key, within retention, unless it says itself that nothing happened: by
    /// [`Outcome::Release`], or by a status that comes before any execution (401, 407, 411, 413, 415, 417, 421, 425, 426, 428, 431;
    /// gRPC UNAUTHENTICATED, UNIMPLEMENTED; [`with_outcome`](Self::with_outcome) changes the list). After a lost owner the answer
    /// is 409 `outcome-unknown` until somebody resolves the operation.
    ///
    /// For effects elsewhere whose receiver does not deduplicate. A record that an earlier version of the service claimed under
    /// another promise keeps that promise.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Promise`] if the store cannot keep it.
    pub fn at_most_once(store: St, scope: impl Scope) -> Result<Self, ConfigError> {
        Self::new(store, scope, Promise::AtMostOnce)
    }

    /// The handler runs until one execution stores an outcome: after a lost owner the next request with the key takes over.
    ///
    /// For effects elsewhere whose receiver deduplicates on a key that is the same on every execution
    /// ([`Operation::derive`](crate::Operation::derive)). A record that an earlier version of the service claimed under another
    /// promise keeps that promise.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Promise`] if the store cannot keep it.
    pub fn at_least_once(store: St, scope: impl Scope) -> Result<Self, ConfigError> {
        Self::new(store, scope, Promise::AtLeastOnce)
    }

    fn new(store: St, scope: impl Scope, promise: Promise) -> Result<Self, ConfigError> {
        if !store.capabilities().fenced {
            return Err(ConfigError::Promise { promise });
        }
        let settings = Settings {
            config: IdempotencyConfig::default(),
            promise,
            scope: Arc::new(scope),
            recipe: Recipe {
                headers: Vec::new(),
                material: None,
            },
            outcome: None,
            refusal: None,
        };
        Ok(Self {
            shared: Arc::new(Shared::new(Arc::new(store), settings)),
        })
    }

    /// Takes the numbers and checks them.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first value, or pair, that cannot work.
    pub fn with_config(self, config: IdempotencyConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(self.with(|settings| {
            settings
                .recipe
                .headers
                .clone_from(&config.fingerprint_headers);
            settings.config = config;
        }))
    }

    /// Refuses a store that forgets when its process or host dies.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotDurable`].
    pub fn requiring_durable(self) -> Result<Self, ConfigError> {
        if self.shared.store.capabilities().durable {
            Ok(self)
        } else {
            Err(ConfigError::NotDurable)
        }
    }

    /// Changes what a response means for its record; `None` leaves it to the table ([`Outcome::of_http_status`], and
    /// [`Outcome::of_grpc_code`] for an answer in gRPC). A handler's own [`Outcome`], in the extensions of its response, comes
    /// first. For gRPC it is asked once the code is known, and finds it, a [`grpc::Code`](steadfast_http::grpc::Code), in the
    /// extensions.
    pub fn with_outcome(
        self,
        outcome: impl Fn(&response::Parts) -> Option<Outcome> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.outcome = Some(Arc::new(outcome)))
    }

    /// Replaces what makes a request the same request: two requests with the same bytes from `material` are one. For clients
    /// that cannot repeat their bytes: a multipart body with a new boundary, JSON with another order of members. A change of
    /// `material` makes every retry across the deploy another request (422 `key-reused`).
    pub fn with_fingerprint(
        self,
        material: impl Fn(&request::Parts, &Bytes) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.recipe.material = Some(Arc::new(material)))
    }

    /// Replaces the layer's refusals, for services with an error format of their own. The typed
    /// [`Problem`](steadfast_http::problem::Problem) is in the extensions of the response it is given.
    pub fn with_refusal(
        self,
        refusal: impl Fn(Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.with(|settings| settings.refusal = Some(Arc::new(refusal)))
    }

    /// What operators hold: waiting for running operations at shutdown, and deciding indeterminate ones. It belongs to the layer as
    /// it is now: taken before another setter, it knows nothing of what the later layer runs.
    #[must_use]
    pub fn handle(&self) -> IdempotencyHandle<St> {
        IdempotencyHandle::new(Arc::clone(&self.shared))
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings.clone();
        change(&mut settings);
        Self {
            shared: Arc::new(Shared::new(Arc::clone(&self.shared.store), settings)),
        }
    }
}

impl<S, St> Layer<S> for IdempotencyLayer<St> {
    type Service = Idempotency<S, St>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotency::new(inner, Arc::clone(&self.shared))
    }
}

// By hand: a derived one would ask for `St: Clone`.
impl<St> Clone for IdempotencyLayer<St> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<St> fmt::Debug for IdempotencyLayer<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("shared", &self.shared)
            .finish()
    }
}
