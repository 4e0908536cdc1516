#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn std::error::Error>> {
    use axum::{body::Body, extract::Request};
    use tower::ServiceExt;

    let app = app()?;
    let get = |path| Request::get(path).body(Body::empty()).unwrap();
    for _ in 0..5 {
        assert_eq!(app.clone().oneshot(get("/search")).await?.status(), 502);
    }
    let rejected = app.clone().oneshot(get("/search")).await?;
    assert_eq!(rejected.status(), 503);
    assert!(rejected.headers().contains_key("retry-after"));
    assert_eq!(app.clone().oneshot(get("/prices")).await?.status(), 200);
    let health = app.oneshot(get("/healthz")).await?;
    assert_eq!(health.status(), 200);
    let told = axum::body::to_bytes(health.into_body(), 100).await?;
    assert_eq!(told, "ok; search is open");
    Ok(())
}
