//! An interceptor that authenticates, outside of the layer.

use steadfast::{
    idempotency::{IdempotencyLayer, scope},
    store::MemoryStore,
};
use tonic::{
    Code, Request, Response, Status,
    service::InterceptorLayer,
    transport::{Channel, Server},
};

use super::{
    client::{assert_refused, connect, create, keyed, replayed},
    config,
    shop::{Charges, Receipt, Shop, listen},
};

#[derive(Clone)]
struct Account {
    id: String,
}

fn authenticate(mut request: Request<()>) -> Result<Request<()>, Status> {
    let authorization = request.metadata().get("authorization");
    let token = authorization.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(id) = token.and_then(|token| token.strip_suffix("'s token")) else {
        return Err(Status::unauthenticated("who are you?"));
    };
    let account = Account { id: id.to_owned() };
    request.extensions_mut().insert(account);
    Ok(request)
}

fn by_account() -> IdempotencyLayer<MemoryStore> {
    IdempotencyLayer::at_most_once(
        MemoryStore::default(),
        scope::from_extension(|account: &Account| &account.id),
    )
    .unwrap()
    .with_config(config())
    .unwrap()
}

async fn serve_with_authentication_outside(shop: &Shop) -> Channel {
    let (incoming, address) = listen().await;
    let server = Server::builder()
        .layer(InterceptorLayer::new(authenticate))
        .layer(by_account())
        .add_service(Charges::new(shop.clone()))
        .serve_with_incoming(incoming);
    tokio::spawn(async { server.await.unwrap() });
    connect(address).await
}

async fn create_as(channel: &Channel, token: &str) -> Result<Response<Receipt>, Status> {
    let mut request = keyed("k", "");
    let authorization = format!("Bearer {token}").parse().unwrap();
    request
        .metadata_mut()
        .insert("authorization", authorization);
    create(channel, request).await
}

#[tokio::test]
async fn two_accounts_with_one_key_have_an_operation_each() {
    let shop = Shop::open();
    let channel = serve_with_authentication_outside(&shop).await;

    for (run, token) in [(1, "acme's token"), (2, "ajax's token")] {
        let first = create_as(&channel, token).await;
        let again = create_as(&channel, token).await;

        assert_eq!(replayed(&first), Some("false"));
        assert_eq!(replayed(&again), Some("true"));
        assert_eq!(first.unwrap().get_ref().run, run);
        assert_eq!(again.unwrap().get_ref().run, run);
    }
}

#[tokio::test]
async fn a_refusal_of_the_interceptor_takes_no_key() {
    let shop = Shop::open();
    let channel = serve_with_authentication_outside(&shop).await;

    let refused = create_as(&channel, "nobody").await;
    let let_in = create_as(&channel, "acme's token").await;
    let refused_again = create_as(&channel, "nobody").await;

    assert_eq!(replayed(&let_in), Some("false"));
    assert_eq!(let_in.unwrap().get_ref().run, 1);
    for refused in [refused, refused_again] {
        assert_eq!(replayed(&refused), None);
        assert_eq!(refused.unwrap_err().message(), "who are you?");
    }
}

#[tokio::test]
async fn an_interceptor_inside_of_the_layer_comes_too_late() {
    let shop = Shop::open();
    let (incoming, address) = listen().await;
    let server = Server::builder()
        .layer(by_account())
        .layer(InterceptorLayer::new(authenticate))
        .add_service(Charges::new(shop.clone()))
        .serve_with_incoming(incoming);
    tokio::spawn(async { server.await.unwrap() });

    let refused = create_as(&connect(address).await, "acme's token").await;

    assert_refused(
        &refused.unwrap_err(),
        Code::Unauthenticated,
        "UNAUTHORIZED_SCOPE",
        Some("-1"),
    );
    assert_eq!(shop.runs(), 0);
}
