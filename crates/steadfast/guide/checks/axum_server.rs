#[tokio::main(flavor = "current_thread")]
pub async fn check() -> Result<(), Box<dyn Error>> {
    use axum::body::Body;
    use tower::ServiceExt;

    let (app, operations) = app(steadfast::store::MemoryStore::default())?;
    let charge = |account: &str, key: &str, body: &'static str| {
        Request::post("/v1/charges")
            .header("authorization", format!("Bearer {account}"))
            .header("idempotency-key", key)
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap()
    };
    let send = |request: Request| {
        let answer = app.clone().oneshot(request);
        async {
            let answer = answer.await.unwrap();
            let replayed = answer.headers().get("idempotent-replayed");
            let replayed = replayed.map(|value| value.to_str().unwrap().to_owned());
            (answer.status().as_u16(), replayed)
        }
    };
    let (first, again) = (Some("false".to_owned()), Some("true".to_owned()));

    assert_eq!(
        send(charge("acme", "k", "{\"amount\": 5}")).await,
        (201, first.clone())
    );
    assert_eq!(
        send(charge("acme", "k", "{\"amount\": 5}")).await,
        (201, again)
    );
    assert_eq!(
        send(charge("ajax", "k", "{\"amount\": 5}")).await,
        (201, first)
    );
    assert_eq!(send(charge("acme", "k", "{\"amount\": 6}")).await.0, 422);
    // What axum's extractor refuses is kept under its key, with the status that it has.
    assert_eq!(send(charge("acme", "bad", "{")).await.0, 400);
    assert_eq!(send(charge("acme", "bad", "{}")).await.0, 422);
    let large = charge("acme", "large", " ".repeat(65_537).leak());
    let large = app.clone().oneshot(large).await?;
    assert_eq!(large.status(), 413);
    assert_eq!(large.headers()["content-type"], "application/problem+json");

    let anonymous = Request::post("/v1/charges").header("idempotency-key", "k");
    assert_eq!(send(anonymous.body(Body::empty())?).await.0, 401);
    let get = Request::get("/v1/charges").header("authorization", "Bearer acme");
    assert_eq!(send(get.body(Body::empty())?).await.0, 200);
    let lost = Request::post("/v1/charge").header("idempotency-key", "k");
    assert_eq!(send(lost.body(Body::empty())?).await.0, 404);
    operations.drain(Duration::from_secs(5)).await?;
    Ok(())
}
