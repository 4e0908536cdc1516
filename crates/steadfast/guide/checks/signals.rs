#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn std::error::Error>> {
    use axum::{body::Body, extract::Request};
    use steadfast::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
    use tower::ServiceExt;

    let guard = CircuitBreakerLayer::http(CircuitBreaker::new("search"));
    let routes = Router::new()
        .route("/search", get(async || "found"))
        .route_layer(guard);
    let app = routes.merge(metrics()?);
    let search = Request::get("/search").body(Body::empty())?;
    assert_eq!(app.clone().oneshot(search).await?.status(), 200);

    let scrape = app
        .oneshot(Request::get("/metrics").body(Body::empty())?)
        .await?;
    assert_eq!(
        scrape.headers()["content-type"],
        "text/plain; version=0.0.4"
    );
    let text = axum::body::to_bytes(scrape.into_body(), 1 << 20).await?;
    let text = std::str::from_utf8(&text)?;
    let counted = r#"steadfast_circuit_breaker_calls_total{breaker="search",outcome="success"} 1"#;
    assert!(text.contains(counted), "{text}");
    Ok(())
}
