#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn Error>> {
    use std::sync::atomic::{AtomicU32, Ordering};
    use tower::ServiceExt;

    static CALLS: AtomicU32 = AtomicU32::new(0);
    let nobody = format!(
        "http://{}/",
        std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?
    );
    let moved = axum::routing::post(async move || {
        CALLS.fetch_add(1, Ordering::Relaxed);
        axum::response::Redirect::to(&nobody)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let routes = axum::Router::new().route("/", moved);
    tokio::spawn(async { axum::serve(listener, routes).await });

    let client = Client::builder().retry(reqwest::retry::never()).build()?;
    let request = client.post(&url).body("1999").build()?;
    stack(client).oneshot(request).await.unwrap_err();
    assert_eq!(
        CALLS.load(Ordering::Relaxed),
        1,
        "it was acted on, and must not be sent again"
    );
    Ok(())
}
