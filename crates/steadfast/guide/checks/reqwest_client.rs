#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn Error>> {
    use axum::{Router, http::StatusCode, response::IntoResponse, routing::post};
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let flaky = post(
        async |body: String| match CALLS.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => StatusCode::BAD_GATEWAY.into_response(),
            _ => body.into_response(),
        },
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let moved = post(async || axum::response::Redirect::to("/here"));
    let routes = Router::new()
        .route("/", flaky)
        .route("/moved", moved)
        .route("/here", axum::routing::get(async || "not a label"));
    tokio::spawn(async { axum::serve(listener, routes).await });
    let (client, breaker) = (client()?, CircuitBreaker::new("shipping"));
    let stack = stack(client.clone(), breaker.clone())?;
    assert_eq!(label(&client, &stack, &url).await?, "[\"parcel\"]");
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    let moved = format!("{url}moved");
    let said = label(&client, &stack, &moved).await.unwrap_err();
    assert!(said.to_string().starts_with("303"), "{said}");
    breaker.force_open();
    assert!(
        label(&client, &stack, &url)
            .await
            .unwrap_err()
            .to_string()
            .starts_with("left alone")
    );
    Ok(())
}
