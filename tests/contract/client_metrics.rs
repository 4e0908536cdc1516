//! The layer that counts the calls of a client. Its labels are looked at in its own tests.

use std::sync::Arc;

use http::Request;
use steadfast::client_metrics::ClientMetricsLayer;
use tower::{
    Layer, ServiceBuilder, ServiceExt,
    layer::util::{Identity, Stack},
};

use crate::{
    laws::{Book, Payload, Probe, Subject, laws, payload},
    support::poll_at_most,
};

/// More hosts than the layers have names for.
fn put(n: u32) -> Request<Payload> {
    Request::put(format!("http://bank-{n}.test/charges"))
        .body(payload("amount=5"))
        .unwrap()
}

fn named() -> Subject<ClientMetricsLayer> {
    Subject {
        layer: ClientMetricsLayer::new().with_max_hosts(2.try_into().unwrap()),
        request: put,
    }
}

fn of_one_host() -> Subject<ClientMetricsLayer> {
    Subject {
        layer: ClientMetricsLayer::for_host("bank"),
        request: put,
    }
}

type Two = Stack<ClientMetricsLayer, Stack<ClientMetricsLayer, Identity>>;

fn around_another_one() -> Subject<Two> {
    let layer = ClientMetricsLayer::new();
    Subject {
        layer: ServiceBuilder::new()
            .layer(layer.clone())
            .layer(layer)
            .into_inner(),
        request: put,
    }
}

laws!(named);
laws!(of_one_host);
laws!(around_another_one);

#[tokio::test(start_paused = true)]
async fn wherever_a_call_is_dropped_the_service_within_is_free_again() {
    let layer = ClientMetricsLayer::new();
    let (probe, book): (Probe, Arc<Book>) = Probe::with_permits(1);
    let service = layer.layer(probe);

    for polls in 0.. {
        let is_done = poll_at_most(service.clone().oneshot(put(1)), polls)
            .await
            .is_some();
        assert_eq!(book.free(), 1, "{polls} polls");
        if is_done {
            assert!(polls >= 2, "{polls}");
            break;
        }
    }

    assert_eq!(book.unready_calls(), 0);
}
