#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn std::error::Error>> {
    use axum::{Router, body::Body, extract::Request, routing::post};
    use std::sync::atomic::{AtomicU32, Ordering};
    use steadfast::{
        idempotency::{IdempotencyLayer, scope},
        store::MemoryStore,
    };
    use tower::ServiceExt;
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let layer = IdempotencyLayer::at_most_once(MemoryStore::default(), scope::shared())?;
    let operations = layer.handle();
    let charge = post(async || {
        RUNS.fetch_add(1, Ordering::Relaxed);
        StatusCode::BAD_GATEWAY
    });
    let app = Router::new().route("/", charge).route_layer(layer);
    let send = |key: &str| {
        let request = Request::post("/")
            .header("idempotency-key", key)
            .body(Body::empty())
            .unwrap();
        let answer = app.clone().oneshot(request);
        async { answer.await.unwrap().status().as_u16() }
    };
    assert_eq!(
        (send("a").await, send("b").await, send("c").await),
        (502, 502, 502)
    );
    assert_eq!(
        (send("a").await, send("b").await, send("c").await),
        (409, 409, 409)
    );
    let charged = operations.key(&scope::Principal::shared(), b"a")?;
    let unsure = operations.key(&scope::Principal::shared(), b"c")?;
    decide(&operations, async |record| match record.key {
        key if key == charged => Some(Found::Charge("{}".into())),
        key if key == unsure => None,
        _ => Some(Found::Nothing),
    })
    .await?;
    assert_eq!(
        (send("a").await, send("b").await, send("c").await),
        (201, 502, 409)
    );
    assert_eq!(RUNS.load(Ordering::Relaxed), 4);
    Ok(())
}
