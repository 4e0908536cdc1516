//! The layers that the laws are for, with each kind of request that they let through.

use http::Request;
use steadfast::{
    idempotency::{IdempotencyConfig, IdempotencyLayer, KeyRequirement, Promise},
    store::MemoryStore,
};

use crate::{
    laws::{Payload, Subject, laws, payload},
    support::layer,
};

type Memory = Subject<IdempotencyLayer<MemoryStore>>;

fn keyed(n: u32) -> Request<Payload> {
    Request::post("/charges")
        .header("idempotency-key", format!("key-{n}"))
        .body(payload("amount=5"))
        .unwrap()
}

fn keyless(_: u32) -> Request<Payload> {
    Request::post("/charges").body(payload("amount=5")).unwrap()
}

fn uncovered(n: u32) -> Request<Payload> {
    Request::get("/charges")
        .header("idempotency-key", format!("key-{n}"))
        .body(payload(""))
        .unwrap()
}

fn grpc(n: u32) -> Request<Payload> {
    Request::post("/bank.Charges/Create")
        .header("content-type", "application/grpc")
        .header("idempotency-key", format!("key-{n}"))
        .body(payload(""))
        .unwrap()
}

fn keyed_at_most_once() -> Memory {
    Subject {
        layer: layer(Promise::AtMostOnce, MemoryStore::default()),
        request: keyed,
    }
}

fn keyed_at_least_once() -> Memory {
    Subject {
        layer: layer(Promise::AtLeastOnce, MemoryStore::default()),
        request: keyed,
    }
}

fn keyless_where_a_key_is_optional() -> Memory {
    let config = IdempotencyConfig::default().with_key(KeyRequirement::Optional);
    Subject {
        layer: layer(Promise::AtMostOnce, MemoryStore::default())
            .with_config(config)
            .unwrap(),
        request: keyless,
    }
}

fn an_uncovered_method() -> Memory {
    Subject {
        layer: layer(Promise::AtMostOnce, MemoryStore::default()),
        request: uncovered,
    }
}

fn grpc_passes_through() -> Memory {
    Subject {
        layer: layer(Promise::AtMostOnce, MemoryStore::default()),
        request: grpc,
    }
}

laws!(keyed_at_most_once);
laws!(keyed_at_least_once);
laws!(keyless_where_a_key_is_optional);
laws!(an_uncovered_method);
laws!(grpc_passes_through);
